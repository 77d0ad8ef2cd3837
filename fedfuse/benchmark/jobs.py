"""The clients of a cell and what they train on: noise, because only the time counts."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from fedfuse.benchmark.cells import (
    BATCH_SIZE,
    DISTILLATION,
    GLOBAL_TEST,
    LEARNING_RATE,
    MODELS,
    MOMENTUM,
    NUM_CLASSES,
    OWN_TEST,
    ROUND,
    SAMPLES,
    TRAINING,
    TRANSFER_SAMPLES,
    Cell,
)
from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.models.architecture import Architecture, describe
from fedfuse.models.lenet import LeNet
from fedfuse.models.mlp import MLP
from fedfuse.models.resnet import ResNet
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD

OPTIMIZER = OptimizerSettings("sgd", lr=LEARNING_RATE, momentum=MOMENTUM)
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp64": partial(MLP, hidden=(64,), embedding_size=32),
    "mlp784": partial(MLP, hidden=(), embedding_size=200),
    "lenet": LeNet,
    "resnet8": ResNet,
}
# A step goes forward once, and back by the weights and by the inputs.
PASSES_OF_A_STEP = 3
PASSES = {
    TRAINING: PASSES_OF_A_STEP * SAMPLES,
    DISTILLATION: PASSES_OF_A_STEP * TRANSFER_SAMPLES,
    ROUND: PASSES_OF_A_STEP * (SAMPLES + TRANSFER_SAMPLES) + TRANSFER_SAMPLES + OWN_TEST + GLOBAL_TEST,
}


def architecture_of(model: str) -> Architecture:
    """Describe a model of the benchmark."""
    shape = MODELS[model].shape
    return describe(model, partial(BUILDERS[model], shape, NUM_CLASSES), shape)


def operations_of(cell: Cell) -> int:
    """Count the floating point operations of all clients in a turn, without those of fusing."""
    return architecture_of(cell.model).flops * PASSES[cell.work] * cell.clients


def make_jobs(cell: Cell) -> list[FitJob]:
    """Make one job for each client: on samples of its own, or on soft labels of its own for shared samples."""
    architecture, shape = architecture_of(cell.model), MODELS[cell.model].shape
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(TRANSFER_SAMPLES, *shape, generator=generator)
    jobs = []
    for client in range(cell.clients):
        if cell.work == DISTILLATION:
            soft_labels = torch.softmax(torch.randn(TRANSFER_SAMPLES, NUM_CLASSES, generator=generator), 1)
            name, tensors, term = "transfer", {"inputs": shared, "soft_labels": soft_labels}, Term("transfer", KD())
        else:
            inputs = torch.randn(SAMPLES, *shape, generator=generator)
            labels = torch.randint(NUM_CLASSES, (SAMPLES,), generator=generator)
            name, tensors, term = "private", {"inputs": inputs, "labels": labels}, Term("private", CrossEntropy())
        order = torch.randperm(len(tensors["inputs"]), generator=generator).unsqueeze(0)
        stream = Stream(tensors, batch_plan(order, BATCH_SIZE))
        parameters = architecture.initial_parameters(client, torch.float32)
        jobs.append(FitJob(architecture, parameters, {name: stream}, (term,), OPTIMIZER))
    return jobs
