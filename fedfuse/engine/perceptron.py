"""How the stacked runner trains stacks of linear layers with ReLU on the processor: without autograd, tile by tile.

A step of a small perceptron is bound by dispatch, and many of them together by memory. So the passes are written by
hand (`fedfuse.models.perceptron`), and only as many clients as fit the cache are trained together, from their first
step to their last. The objectives' gradients by the logits are known for cross-entropy and distillation; for others
autograd finds them, and those by the features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from fedfuse.client.fit import (
    FitJob,
    FitResult,
    Stream,
    Term,
    initial_objective_state,
    loss_of_outputs,
    make_optimizer,
    named_terms,
    pull_back,
)
from fedfuse.configuration import OptimizerSettings
from fedfuse.data.samples import as_numbers
from fedfuse.engine.private_gradients import add_noise, clip_factors, expected_batch_sizes, learning
from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.models.perceptron import Passes, StackedPerceptron
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD

# How much is gone through in a step of the clients that are trained together: half a cache of 32 MiB (measured).
TILE_BYTES = 2**24


def fit(jobs: Sequence[FitJob]) -> list[FitResult]:
    """Train clients of one architecture that is a perceptron, see `fedfuse.engine.stacked.fit`."""
    # Those with equally many steps side by side: what is computed for who has ended is thrown away.
    order = sorted(range(len(jobs)), key=lambda row: jobs[row].num_steps)
    height = max(1, TILE_BYTES // _bytes_of(jobs[0]))
    results: dict[int, FitResult] = {}
    with torch.no_grad():
        for first in range(0, len(order), height):
            rows = order[first : first + height]
            results |= zip(rows, _Tile([jobs[row] for row in rows]).run(), strict=True)
    return [results[row] for row in range(len(jobs))]


def can_fit(job: FitJob) -> bool:
    """Tell whether there is a way by hand; private steps need the gradient by the logits of every sample."""
    return job.private is None or all(type(term.objective) in (CrossEntropy, KD) for term in job.terms)


def _bytes_of(job: FitJob) -> int:
    """How much memory a step of one client goes through: parameters, gradients and momentum, and activations."""
    biases = [tensor for name, tensor in job.parameters.items() if name.endswith(".bias")]
    samples = sum(stream.plan.shape[1] for stream in job.streams.values())
    # What leaves each layer, and the gradient by it.
    activations = 2 * samples * sum(len(bias) for bias in biases)
    return (3 * sum(tensor.numel() for tensor in job.parameters.values()) + activations) * biases[0].element_size()


def _momentum_apart(settings: OptimizerSettings) -> tuple[float, OptimizerSettings]:
    """Leave the momentum to the gradients, where that is the same: the optimiser would read and write all of it."""
    if settings.name == "sgd" and settings.weight_decay == 0:
        return settings.momentum, replace(settings, momentum=0.0)
    return 0.0, settings


class _Tile:
    """The training of some clients together."""

    def __init__(self, jobs: Sequence[FitJob]) -> None:
        first = jobs[0]
        assert first.architecture.perceptron is not None
        self._jobs = jobs
        self._parameters = {name: torch.stack([job.parameters[name] for job in jobs]) for name in first.parameters}
        fading, optimizer = _momentum_apart(first.optimizer)
        self._stacked = StackedPerceptron(first.architecture.perceptron, self._parameters, fading)
        self._optimizer = make_optimizer(optimizer, self._parameters.values())
        self._start = [value.clone() for value in self._parameters.values()] if first.proximal else []
        self._state = {
            name: torch.stack([job.objective_state.get(name, value) for job in jobs])
            for name, value in initial_objective_state(first.terms).items()
        }
        self._lessons = [
            _Lesson(
                self._stacked,
                _Batches([job.streams[name] for job in jobs]),
                {key: term for key, term in named_terms(first.terms).items() if term.stream == name},
                next(iter(self._parameters.values())).dtype,
                jobs,
            )
            for name in first.streams
        ]

    def run(self) -> list[FitResult]:
        """Train to the end and return the results."""
        results: dict[int, FitResult] = {}
        last_steps = [job.num_steps for job in self._jobs]
        for step in range(max(last_steps) + 1):
            if step in last_steps:
                results |= {row: self._result(row) for row, last in enumerate(last_steps) if last == step}
            if step < max(last_steps):
                self._take_step(step)
        return [results[row] for row in range(len(self._jobs))]

    def _result(self, row: int) -> FitResult:
        parameters = {name: tensor[row].clone() for name, tensor in self._parameters.items()}
        return FitResult(parameters, {name: tensor[row].clone() for name, tensor in self._state.items()})

    def _take_step(self, step: int) -> None:
        self._stacked.forget_gradients()
        for lesson in self._lessons:
            self._state |= lesson.learn(step, self._state)
        if self._jobs[0].private is not None:
            trained = learning(self._parameters)
            # Every layer up to the logits has learnt.
            add_noise({name: own.grad for name, own in trained.items() if own.grad is not None}, self._jobs, step)
        if self._start:
            pull_back(self._parameters.values(), self._start, self._jobs[0].proximal)
        self._optimizer.step()


class _Batches:
    """The batches of one stream of some clients; where these share a tensor, it is not copied."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        steps = max(len(stream.plan) for stream in streams)
        padded = [functional.pad(own.plan, (0, 0, 0, steps - len(own.plan)), value=-1) for own in streams]
        plan = torch.stack(padded, dim=1)
        self.masks = plan >= 0
        # Padding repeats the first sample of its batch: nothing enters that would not enter anyway.
        rows = torch.where(self.masks, plan, plan[:, :, :1].clamp_min(0))
        lengths = torch.tensor([len(next(iter(own.tensors.values()))) for own in streams])
        # The batches of a client that has ended may be anything that is there.
        rows_of_all = (rows + (lengths.cumsum(0) - lengths).unsqueeze(1)).clamp_max(int(lengths.sum()) - 1)
        # No step goes beyond its last sample: the end of an epoch may be a small part of a batch.
        columns = torch.arange(1, plan.shape[2] + 1)
        self.widths: list[int] = (self.masks.any(1) * columns).amax(1).clamp_min(1).tolist()
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}
        for name, first in streams[0].tensors.items():
            tensors = [own.tensors[name] for own in streams]
            if all(tensor is first for tensor in tensors):
                self._tables[name] = first, rows
            else:
                self._tables[name] = torch.cat(tensors), rows_of_all
        self.constants = {name: torch.stack([own.constants[name] for own in streams]) for name in streams[0].constants}

    @property
    def names(self) -> list[str]:
        """What a batch holds for every sample."""
        return list(self._tables)

    def table(self, name: str) -> tuple[Tensor, Tensor]:
        """Return all rows of a tensor, and which of them each step takes: int64 ``[steps, K, B]``."""
        return self._tables[name]

    def take(self, table: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Return what one step takes, ``[K, width of the step, ...]``."""
        tensor, rows = table
        taken = rows[step, :, : self.widths[step]]
        return tensor.index_select(0, taken.flatten()).reshape(*taken.shape, *tensor.shape[1:])


class _Target:
    """A term whose gradient by the logits is known: how far the model's answers are from soft labels."""

    def __init__(self, term: Term, batches: _Batches, num_classes: int, dtype: torch.dtype, mean: bool = True) -> None:
        self._batches = batches
        self.on_fused_head = term.on_fused_head
        if isinstance(term.objective, KD):
            self._temperature = term.objective.temperature
            soft_labels, rows = batches.table("soft_labels")
            # Classes before samples in memory: a softmax over a few neighbouring numbers takes 20 times as long.
            logits = soft_labels.t().contiguous().clamp_min_(SMALLEST_PROBABILITY).log_().div_(self._temperature)
            self._soft_labels = torch.softmax(logits, 0).t().to(dtype).contiguous(), rows
        else:
            self._temperature = 1.0
            labels, rows = batches.table("labels")
            self._soft_labels = functional.one_hot(labels, num_classes).to(dtype), rows
        counted = batches.masks.to(dtype)
        if "weights" in batches.names:
            weights, rows = batches.table("weights")
            counted = torch.where(batches.masks, weights[rows].to(dtype), 0)
        factors = self._temperature * term.weight * counted
        if mean:
            factors = factors / batches.masks.sum(2, keepdim=True).clamp_min(1)
        if "scale" in batches.constants:
            factors = factors * batches.constants["scale"].to(dtype).unsqueeze(1)
        self._factors = factors.unsqueeze(2)

    def slope(self, logits: Tensor, step: int) -> Tensor:
        """Return the gradient of the loss by the logits ``[K, width of the step, C]``."""
        slope = torch.softmax(logits.transpose(1, 2) / self._temperature, 1)
        slope.sub_(self._batches.take(self._soft_labels, step).transpose(1, 2)).mul_(
            self._factors[step, ..., : logits.shape[1]]
        )
        return slope.transpose(1, 2)


class _Lesson:
    """What clients learn from one stream."""

    def __init__(
        self,
        stacked: StackedPerceptron,
        batches: _Batches,
        terms: Mapping[str, Term],
        dtype: torch.dtype,
        jobs: Sequence[FitJob],
    ) -> None:
        self._passes = Passes(stacked, max(batches.widths, default=0))
        self._batches, self._dtype = batches, dtype
        num_classes = stacked.heads[0].weight.shape[1]
        known = {name: term for name, term in terms.items() if type(term.objective) in (CrossEntropy, KD)}
        self._private = jobs[0].private
        self._expected = expected_batch_sizes(jobs).to(dtype).unsqueeze(1)
        mean = self._private is None
        self._targets = [_Target(term, batches, num_classes, dtype, mean) for term in known.values()]
        self._others = {name: term for name, term in terms.items() if name not in known}

    def learn(self, step: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add to the parameters' gradients, and return what the objectives remember next."""
        names = self._batches.names if self._others else {"inputs", "features"} & set(self._batches.names)
        batch = {name: self._batches.take(self._batches.table(name), step) for name in names}
        if "inputs" in batch:
            batch["inputs"] = as_numbers(batch["inputs"], self._dtype)
            outputs = self._passes.forward(batch["inputs"].flatten(2))
        else:
            outputs = self._passes.at_head(batch["features"])
        slopes: dict[str, Tensor | None] = {}
        for target in self._targets:
            head, logits = "by_logits", outputs.logits
            if target.on_fused_head and outputs.fused_logits is not None:
                head, logits = "by_fused_logits", outputs.fused_logits
            slopes[head] = _sum(slopes.get(head), target.slope(logits, step))
        next_state: dict[str, Tensor] = {}
        if self._others:
            mask = self._batches.masks[step, :, : self._batches.widths[step]]
            found, next_state = _autograd(self._others, outputs, batch | self._batches.constants, mask, state)
            for head, slope in found.items():
                slopes[head] = _sum(slopes.get(head), slope)
        if self._private is None:
            self._passes.backward(**slopes)
        else:
            by_logits = slopes["by_logits"]
            assert by_logits is not None, "private steps learn from labels"
            squared_norms = self._passes.backward_of_samples(by_logits)
            self._passes.learn_scaled(clip_factors(squared_norms, self._private.clip) / self._expected)
        return next_state


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _autograd(
    terms: Mapping[str, Term],
    outputs: Outputs,
    batch: dict[str, Tensor],
    mask: Tensor,
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Find the gradients by what the models answered for one stream, and what its objectives remember next."""
    stream = next(iter(terms.values())).stream

    def loss_of_client(
        answers: Sequence[Tensor], batch: dict[str, Tensor], mask: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return loss_of_outputs({stream: Outputs(*answers)}, terms, {stream: batch}, {stream: mask}, state)

    own = {name: value for name, value in state.items() if name.startswith(tuple(terms))}
    with torch.enable_grad():
        answers = [answer.detach().requires_grad_() for answer in outputs if answer is not None]
        losses, next_state = torch.vmap(loss_of_client)(answers, batch, mask, own)
        slopes = torch.autograd.grad(losses.sum(), answers, allow_unused=True)
    return dict(zip(("by_logits", "by_features", "by_fused_logits"), slopes, strict=False)), next_state
