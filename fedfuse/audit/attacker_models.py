"""Models that an audit trains itself, beside those of the run: positive controls, and students of what was sent."""

from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.client.predict import predict
from fedfuse.configuration import TrainingSettings
from fedfuse.data.samples import Samples
from fedfuse.device import current_device
from fedfuse.engine.runner import choose_runner
from fedfuse.knowledge import Tensors
from fedfuse.models.architecture import Architecture
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD
from fedfuse.objectives.objective import Objective
from fedfuse.randomness import epoch_order, numpy_generator, torch_seed


def overfitted(client: Client, settings: ClientSettings, runner: str, epochs: int) -> Tensors:
    """Train a model of a client's architecture on its data for very long, with nothing to protect them.

    This is the positive control of an attack: who finds nothing here could have found nothing anywhere.

    Parameters
    ----------
    client : Client
        Its architecture and its training data, with what was planted.
    settings : ClientSettings
        For the optimiser and the batch size of ``learn``, the seed and the precision. Protectors play no part.
    runner : str
        See `fedfuse.engine.runner.choose_runner`.
    epochs : int
        How often each sample is seen.

    Returns
    -------
    Tensors
        The parameters.
    """
    training = replace(settings.learn, epochs=epochs)
    return train_on_labels(client.architecture, client.data.train, training, settings, runner, "audit control")


def train_on_labels(
    architecture: Architecture,
    samples: Samples,
    training: TrainingSettings,
    settings: ClientSettings,
    runner: str,
    purpose: str,
    number: int = 0,
) -> Tensors:
    """Train a fresh model on labels and return its parameters; ``purpose`` and ``number`` decide its draws."""
    tensors = {"inputs": samples.inputs, "labels": samples.labels}
    return _train(architecture, tensors, CrossEntropy(), training, settings, runner, (purpose, number))


def distilled(
    architecture: Architecture,
    inputs: Tensor,
    soft_labels: Tensor,
    training: TrainingSettings,
    settings: ClientSettings,
    runner: str,
    purpose: str,
) -> Tensors:
    """Distil soft labels ``[R, C]`` on inputs ``[R, *shape]`` into a fresh model and return its parameters."""
    tensors = {"inputs": inputs, "soft_labels": soft_labels.to(settings.dtype)}
    return _train(architecture, tensors, KD(), training, settings, runner, (purpose, 0))


def probabilities(architecture: Architecture, parameters: Tensors, inputs: Tensor) -> Tensor:
    """Return what a model itself answers to inputs, whatever predictor its owner would use: float64 ``[B, C]``."""
    (outputs,) = predict(architecture, [parameters], [inputs])
    return torch.softmax(outputs.logits.double(), dim=1)


def _train(
    architecture: Architecture,
    tensors: Tensors,
    objective: Objective,
    training: TrainingSettings,
    settings: ClientSettings,
    runner: str,
    stream: tuple[str, int],
) -> Tensors:
    purpose, number = stream
    generator = numpy_generator(settings.seed, purpose, client=number)
    order = epoch_order(generator, len(tensors["inputs"]), training.epochs)
    seed = torch_seed(settings.seed, f"{purpose} weights", client=number)
    job = FitJob(
        architecture=architecture,
        parameters=architecture.initial_parameters(seed, settings.dtype),
        streams={"own": Stream(tensors, batch_plan(order, training.batch_size))},
        terms=(Term("own", objective),),
        optimizer=training.optimizer,
    )
    (result,) = choose_runner(runner, architecture, current_device().is_cuda)([job])
    return result.parameters
