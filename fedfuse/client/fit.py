"""One training loop for learn and absorb: streams of samples, terms of a loss, and how a step is computed.

A runner (`fedfuse.engine`) executes jobs; what a step computes is defined here, once, for all of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfuse.configuration import OptimizerSettings
from fedfuse.knowledge import Tensors
from fedfuse.models.architecture import Architecture
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, Objective, State
from fedfuse.privacy.keystream import Keystream


@dataclass(frozen=True)
class Stream:
    """Samples to learn from, and which of them each step takes.

    Parameters
    ----------
    tensors : Tensors
        A row for each sample: ``inputs``, or ``features`` that enter the model at its head; ``labels`` or
        ``soft_labels``; and ``weights``, where samples count differently.
    plan : Tensor
        int64 ``[steps, batch_size]`` row numbers; -1 pads a batch that is not full.
    constants : Tensors
        What is the same for every batch, for example ``prototypes`` or ``class_logits``; and ``scale``, a number that
        multiplies the losses of this client on this stream.
    """

    tensors: Tensors
    plan: Tensor
    constants: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """One term of a loss: an objective on a stream, with a weight; on the fused head, it judges ``fused_logits``."""

    stream: str
    objective: Objective
    weight: float = 1.0
    on_fused_head: bool = False


@dataclass(frozen=True)
class PrivateSteps:
    """How every step is made private: DP-SGD (Abadi et al., CCS 2016, arXiv 1607.00133, algorithm 1).

    The gradient of each sample, by all parameters together, is scaled down to a Euclidean norm of ``clip`` at most;
    these are summed, noise is added, and the sum is divided by the batch size that is expected.

    Parameters
    ----------
    clip : float
        The largest norm of a sample's gradient.
    noise_multiplier : float
        The standard deviation of the noise on every number of the sum, in units of ``clip``.
    expected_batch_size : float
        What the sum is divided by, whatever batch was drawn.
    noise : Keystream
        What this client's standard normal numbers are drawn from: once a step, for all parameters in the order of the
        model.
    """

    clip: float
    noise_multiplier: float
    expected_batch_size: float
    noise: Keystream


@dataclass(frozen=True)
class FitJob:
    """What one client trains in one phase.

    Parameters
    ----------
    architecture : Architecture
        Its model.
    parameters : Tensors
        Where it starts.
    streams : Mapping[str, Stream]
        By name: ``private``, ``transfer``, ``head``; those side by side have equally many steps.
    terms : tuple[Term, ...]
        The loss; the same for all jobs of a cohort.
    optimizer : OptimizerSettings
        The same for all jobs of a cohort. It starts afresh.
    objective_state : Tensors
        What the objectives remember, as ``<stream>.<number of the term on it>.<name>``; what is missing starts afresh.
    proximal : float
        How strongly every step pulls back to where the training started: mu of FedProx (Li et al., 2020, arXiv
        1812.06127, equation 2). The same for all jobs of a cohort.
    private : PrivateSteps, optional
        Makes every step private. The only stream is then ``private``, the only term an objective with a loss for each
        sample, and the plan's rows are Poisson samples: a step may have none. All jobs of a cohort have it, or none.
    """

    architecture: Architecture
    parameters: Tensors
    streams: Mapping[str, Stream]
    terms: tuple[Term, ...]
    optimizer: OptimizerSettings
    objective_state: Tensors = field(default_factory=dict)
    proximal: float = 0.0
    private: PrivateSteps | None = None

    @property
    def num_steps(self) -> int:
        """Number of optimiser steps."""
        return max(stream.plan.shape[0] for stream in self.streams.values())


@dataclass(frozen=True)
class FitResult:
    """What a job ended with."""

    parameters: Tensors
    objective_state: Tensors


Fit = Callable[[Sequence[FitJob]], list[FitResult]]


def batch_plan(order: Tensor, batch_size: int) -> Tensor:
    """Cut each epoch's order into batches.

    Parameters
    ----------
    order : Tensor
        int64 ``[epochs, n]``.
    batch_size : int
        At least 1.

    Returns
    -------
    Tensor
        int64 ``[epochs * ceil(n / batch_size), batch_size]``; the last batch of an epoch is padded with -1.
    """
    number = order.shape[1]
    padding = -number % batch_size
    padded = torch.nn.functional.pad(order, (0, padding), value=-1)
    return padded.reshape(-1, batch_size) if number else order.new_empty(0, batch_size)


def loss_of_step(
    forward: Callable[[Tensor], Outputs],
    head: Callable[[Tensor], Tensor],
    terms: Sequence[Term],
    batches: Mapping[str, Batch],
    masks: Mapping[str, Tensor],
    state: State,
    is_full: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute one client's loss for one step.

    Parameters
    ----------
    forward : Callable
        The client's model.
    head : Callable
        Its last layer alone, from features to logits.
    terms : Sequence[Term]
        The loss is the weighted sum of these; each is the mean over the samples that are no padding, of the losses
        times the samples' weights where they have any.
    batches, masks : Mapping
        By stream: the tensors of the batch, and bool ``[B]``, false in padding rows. These repeat a sample of the
        batch: foreign ones could hold a NaN, which no mask keeps out of the gradient.
    state : State
        What the objectives remember.
    is_full : bool
        Whether it is known that nothing is padding; a plain mean is then quicker. That of a batch without samples is
        NaN, whose gradient is nothing.

    Returns
    -------
    loss : Tensor
        A scalar.
    state : dict[str, Tensor]
        The next state, without gradients: a step never reaches back into the step before.
    """
    outputs = {
        name: forward(batch["inputs"]) if "inputs" in batch else Outputs(head(batch["features"]), batch["features"])
        for name, batch in batches.items()
    }
    return loss_of_outputs(outputs, named_terms(terms), batches, masks, state, is_full)


def loss_of_outputs(
    outputs: Mapping[str, Outputs],
    terms: Mapping[str, Term],
    batches: Mapping[str, Batch],
    masks: Mapping[str, Tensor],
    state: State,
    is_full: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute one client's loss, of all terms or some, from what its model answered; see `loss_of_step`."""
    total: Tensor | None = None
    next_state: dict[str, Tensor] = {}
    for prefix, term in terms.items():
        own_state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        batch, mask = batches[term.stream], masks[term.stream]
        answered = outputs[term.stream]
        if term.on_fused_head and answered.fused_logits is not None:
            answered = Outputs(answered.fused_logits, answered.features)
        loss, own_state = term.objective(answered, batch, mask, own_state)  # type: ignore[assignment]
        next_state |= {f"{prefix}{key}": value.detach() for key, value in own_state.items()}
        if loss.ndim == 1:
            weighted = loss * batch["weights"] if "weights" in batch else loss
            # Padding is replaced, not multiplied: 0 * inf would be NaN.
            loss = weighted.mean() if is_full else torch.where(mask, weighted, 0).sum() / mask.sum().clamp_min(1)
        if "scale" in batch:
            loss = loss * batch["scale"]
        total = term.weight * loss if total is None else total + term.weight * loss
    assert total is not None, "a fit needs at least one term"
    return total, next_state


def pull_back(parameters: Iterable[Tensor], start: Iterable[Tensor], strength: float) -> None:
    """Add to the gradients that of ``strength / 2`` times the squared distance to where the training started."""
    for parameter, anchor in zip(parameters, start, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=strength)


def initial_objective_state(terms: Sequence[Term]) -> dict[str, Tensor]:
    """Return the first state of all terms, as ``<stream>.<number of the term on it>.<name>``."""
    return {
        f"{prefix}{name}": value
        for prefix, term in named_terms(terms).items()
        for name, value in term.objective.initial_state().items()
    }


def named_terms(terms: Sequence[Term]) -> dict[str, Term]:
    """Give each term the name that its memory goes by, ``<stream>.<number of the term on it>.``."""
    # Not numbered through all terms: what is learnt on a stream keeps its memory, whatever else is learnt beside it.
    streams = [term.stream for term in terms]
    return {f"{name}.{streams[:row].count(name)}.": terms[row] for row, name in enumerate(streams)}


def make_optimizer(
    settings: OptimizerSettings, parameters: Iterable[Tensor], capturable: bool = False
) -> torch.optim.Optimizer:
    """Make a fresh torch optimiser; ``fused`` where torch has it, which is quicker and gives the same numbers.

    ``capturable`` lets a CUDA graph hold its steps.
    """
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            capturable=capturable,
        )
    optimizer = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return optimizer(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True, capturable=capturable)
