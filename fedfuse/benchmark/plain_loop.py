"""A plain loop over clients, each with a DataLoader, an nn.Module and torch.optim, as PFLlib and HtFLlib train."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from fedfuse.benchmark.cells import (
    BATCH_SIZE,
    GLOBAL_TEST,
    LEARNING_RATE,
    MODELS,
    MOMENTUM,
    NUM_CLASSES,
    OWN_TEST,
    ROUND,
    TRANSFER_SAMPLES,
    Cell,
)
from fedfuse.benchmark.jobs import make_jobs, operations_of
from fedfuse.benchmark.turns import Turns
from fedfuse.fusion import mix, pairwise_divergence

Loader: TypeAlias = DataLoader[tuple[Tensor, ...]]
KNFU_BETA = 10.0


def compete(cell: Cell, turns: Turns) -> None:
    """Do any of the works."""
    jobs = make_jobs(cell)
    modules = [job.architecture.module() for job in jobs]
    loaders = [_loader(True, *stream.tensors.values()) for job in jobs for stream in job.streams.values()]
    if cell.work == ROUND:
        clients = _Round(cell, modules, loaders)
        turns.take_all(operations_of(cell), clients.run)
    else:
        turns.take_all(operations_of(cell), lambda: train_all(modules, loaders))


def train_all(modules: Sequence[nn.Module], loaders: Sequence[Loader]) -> None:
    """Train one client after the other for an epoch, on labels or on soft labels."""
    for module, loader in zip(modules, loaders, strict=True):
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        for inputs, targets in loader:
            optimizer.zero_grad()
            logits = module(inputs).logits
            if targets.is_floating_point():
                loss = functional.kl_div(functional.log_softmax(logits, 1), targets, reduction="batchmean")
            else:
                loss = functional.cross_entropy(logits, targets)
            torch.autograd.backward(loss)
            optimizer.step()


class _Round:
    """Whole rounds: every client trains, answers for the transfer set, learns from what is mixed for it, is tested."""

    def __init__(self, cell: Cell, modules: Sequence[nn.Module], loaders: Sequence[Loader]) -> None:
        shape = MODELS[cell.model].shape
        self._modules = modules
        self._loaders = loaders
        self._transfer = torch.randn(TRANSFER_SAMPLES, *shape)
        self._tests = [
            _loader(False, torch.randn(number, *shape), torch.zeros(number, dtype=torch.int64))
            for number in (OWN_TEST, GLOBAL_TEST)
        ]

    def run(self) -> None:
        """Do one round."""
        train_all(self._modules, self._loaders)
        soft_labels = torch.stack([self._answers_of(module) for module in self._modules])
        mask = torch.ones(soft_labels.shape[:2], dtype=torch.bool)
        relevance = torch.softmax(-KNFU_BETA * pairwise_divergence(soft_labels.mean(1), "js"), 1)
        fused, _ = mix(soft_labels, mask, relevance)
        train_all(self._modules, [_loader(True, self._transfer, own) for own in fused])
        for module in self._modules:
            _test(module, self._tests)

    @torch.no_grad()
    def _answers_of(self, module: nn.Module) -> Tensor:
        module.eval()
        batches = torch.split(self._transfer, BATCH_SIZE)
        answers = torch.cat([torch.softmax(module(batch).logits, 1) for batch in batches])
        assert answers.shape[1] == NUM_CLASSES
        return answers


@torch.no_grad()
def _test(module: nn.Module, loaders: Sequence[Loader]) -> list[float]:
    module.eval()
    accuracies = []
    for loader in loaders:
        right = [(module(inputs).logits.argmax(1) == labels).float() for inputs, labels in loader]
        accuracies.append(float(torch.cat(right).mean()))
    return accuracies


def _loader(shuffle: bool, *tensors: Tensor) -> Loader:
    """Load a list of pairs."""
    return DataLoader([*zip(*tensors, strict=True)], BATCH_SIZE, shuffle)  # type: ignore[arg-type]
