"""Canary exposure: what was memorised by one client, and whether others learn it from what that client sends."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.audit.attacker_models import distilled, overfitted, probabilities
from fedfuse.audit.audit import Evidence, Finding
from fedfuse.audit.averages import mean_answers
from fedfuse.audit.exposure import exposures, exposures_of_strangers
from fedfuse.audit.intervals import interval_of_mean
from fedfuse.audit.planting import with_probes, with_training_samples
from fedfuse.client.client import Client
from fedfuse.configuration import TrainingSettings
from fedfuse.data.federation import Federation
from fedfuse.data.samples import BRIGHTEST
from fedfuse.errors import ConfigurationError
from fedfuse.knowledge import Tensors
from fedfuse.models.architecture import Architecture
from fedfuse.randomness import numpy_generator

FEWEST_CANARIES = 20
FEWEST_CANDIDATES = 1000


@dataclass(frozen=True, eq=False)
class PlantedCanaries:
    """What was planted. Of P patterns the first K are the canaries', the next K are decoys, the rest is unused.

    Parameters
    ----------
    owner : int
        The client that trains on the canaries.
    patterns : Tensor
        ``[P, *shape]``.
    labels : Tensor
        int64 ``[K]``, of the canaries.
    counts : Tensor
        int64 ``[K]``: how often each is inserted.
    probes : Tensor
        int64 ``[2K]``: the transfer rows of canaries and decoys; empty where they are not in the transfer set.
    """

    owner: int
    patterns: Tensor
    labels: Tensor
    counts: Tensor
    probes: Tensor


@dataclass(frozen=True)
class _Exposed:
    """How far the canaries stand out in one subject, float64 ``[K]``, and those that nobody has seen, on average."""

    canaries: Tensor
    floor: float
    num_candidates: int


@dataclass(frozen=True)
class Canary:
    """Canary exposure: whether random labels of random inputs, which one client has memorised, reach others.

    A canary is a pattern (a random input in the range of the transfer set) with a random label, inserted some times
    into the training data of one client, the owner. The candidates for each are all labels of its own pattern and of
    the patterns that were never inserted. The patterns of the canaries, and as many decoys, are appended to the
    transfer set, so that soft labels speak of them: the attacker controls the transfer set and knows the candidates,
    but neither which patterns were inserted nor their labels. After Swing Distillation (Li et al., 2022, arXiv
    2212.08349), which looks for canaries in students.

    Attacked are the owner's model in the end; the models of all other clients (the mean over them); the soft labels
    that the owner sent (mean over rounds, by probability, among the probed patterns only); and the server model: a
    fresh model of the first architecture that learns from the fused soft labels of the last round, or the common
    weights where weights are shared. The floor is the exposure of decoys. The control is an unprotected client of the
    owner's architecture that has learnt the owner's data by heart, its soft labels, and for students and the server
    model, a student that learns these soft labels alone by heart, those of the probes too.

    Parameters
    ----------
    canaries : int
        K, at least 20.
    counts : Sequence[int]
        How often canaries are inserted, in turn.
    candidates : int
        The least number of candidates, at least 1,000.
    probed : bool
        Whether the patterns are appended to the transfer set.
    owner : int, optional
        The client that trains on the canaries; by default the one with most training samples.
    control_epochs : int
        How often each control sees each of its samples.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    canaries: int = 24
    counts: Sequence[int] = (1, 4, 16)
    candidates: int = 1000
    probed: bool = True
    owner: int | None = None
    control_epochs: int = 150
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        _whole_number("canaries", self.canaries, FEWEST_CANARIES)
        _whole_number("candidates", self.candidates, FEWEST_CANDIDATES)
        _whole_number("control_epochs", self.control_epochs, 1)
        if self.owner is not None:
            _whole_number("owner", self.owner, 0)
        if not self.counts:
            raise ValueError("counts must name at least one number")
        for count in self.counts:
            _whole_number("counts", count, 1)

    def plant(self, federation: Federation, seed: int) -> tuple[Federation, PlantedCanaries]:
        """Insert the canaries into the owner's training data, and append the probes to the transfer set.

        Raises
        ------
        ConfigurationError
            If there is no such owner.
        """
        clients, number, num_classes = federation.clients, self.canaries, federation.shared.num_classes
        owner = max(range(len(clients)), key=lambda one: len(clients[one].train)) if self.owner is None else self.owner
        if owner >= len(clients):
            raise ConfigurationError(
                f"Audit canary: owner={owner} must be one of the {len(clients)} clients, 0 to {len(clients) - 1}."
            )
        generator = numpy_generator(seed, "audit canary")
        unseen = max(number, math.ceil(self.candidates / num_classes))
        low, high = federation.shared.transfer.inputs.amin(0), federation.shared.transfer.inputs.amax(0)
        drawn = torch.from_numpy(generator.random((number + unseen, *low.shape))).to(low.dtype)
        patterns = low + drawn * (high - low)
        if clients[owner].train.inputs.dtype == torch.uint8:
            patterns = (BRIGHTEST * patterns).round().to(torch.uint8)
        labels = torch.from_numpy(generator.integers(num_classes, size=number))
        counts = torch.tensor([self.counts[canary % len(self.counts)] for canary in range(number)])
        inserted = torch.repeat_interleave(torch.arange(number), counts)
        federation = with_training_samples(federation, owner, patterns[inserted], labels[inserted])
        probes = torch.empty(0, dtype=torch.int64)
        if self.probed:
            federation, probes = with_probes(federation, patterns[: 2 * number])
        return federation, PlantedCanaries(owner, patterns, labels, counts, probes)

    def measure(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Measure the exposure in every subject that there is, of all canaries and by how often they were inserted."""
        planted = evidence.planted
        assert isinstance(planted, PlantedCanaries), "what this class planted"
        by_id = {client.client_id: client for client in evidence.clients}
        owner = by_id.pop(planted.owner)
        first = evidence.clients[0].architecture
        settings, runner = evidence.settings, evidence.runner
        control = overfitted(owner, settings, runner, self.control_epochs)
        of_control = _in_model(planted, owner.architecture, control)
        of_control_student = of_control
        if any(evidence.fused.values()):
            inputs = settings.transfer.inputs
            if not self.probed:
                probes = planted.patterns[: 2 * self.canaries]
                inputs = with_probes(evidence.federation, probes)[0].shared.transfer.inputs
            taught = probabilities(owner.architecture, control, inputs)
            training = replace(settings.absorb, epochs=self.control_epochs)
            student = distilled(first, inputs, taught, training, settings, runner, "audit control student")
            of_control_student = _in_model(planted, first, student)

        of_owner = _in_model(planted, owner.architecture, evidence.states[planted.owner].parameters)
        findings = [*_findings("owner's model", planted, of_owner, of_control, evidence.seed)]
        if by_id:
            of_students = _in_students(planted, list(by_id.values()), evidence)
            findings += _findings("another client's student", planted, of_students, of_control_student, evidence.seed)
        if evidence.shared[planted.owner] and self.probed:
            sent = mean_answers(evidence.shared[planted.owner], len(settings.transfer), settings.num_classes)
            of_sent = _exposed(planted, sent[planted.probes])
            in_control = probabilities(owner.architecture, control, planted.patterns[: 2 * self.canaries])
            findings += _findings("soft labels sent", planted, of_sent, _exposed(planted, in_control), evidence.seed)
        server_model = _server_model(evidence)
        if server_model is not None:
            of_server = _in_model(planted, first, server_model)
            findings += _findings("server model", planted, of_server, of_control_student, evidence.seed)
        return tuple(findings)


def _whole_number(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")


def _exposed(planted: PlantedCanaries, answers: Tensor) -> _Exposed:
    """Rank each canary in answers ``[P, C]`` to some patterns, the canaries' first and then those never inserted."""
    number = len(planted.labels)
    losses = -torch.log(answers)
    own, unseen = losses[:number], losses[number:].flatten()
    chosen = torch.zeros_like(own, dtype=torch.bool).scatter(1, planted.labels.unsqueeze(1), True)
    others = torch.cat([own[~chosen].reshape(number, -1), unseen.expand(number, -1)], dim=1)
    decoys = exposures_of_strangers(unseen)[: number * own.shape[1]]
    return _Exposed(exposures(own[chosen], others), decoys.mean().item(), others.shape[1] + 1)


def _in_model(planted: PlantedCanaries, architecture: Architecture, parameters: Tensors) -> _Exposed:
    return _exposed(planted, probabilities(architecture, parameters, planted.patterns))


def _in_students(planted: PlantedCanaries, clients: Sequence[Client], evidence: Evidence) -> _Exposed:
    each = [_in_model(planted, one.architecture, evidence.states[one.client_id].parameters) for one in clients]
    return replace(
        each[0],
        canaries=torch.stack([one.canaries for one in each]).mean(0),
        floor=sum(one.floor for one in each) / len(each),
    )


def _server_model(evidence: Evidence) -> Tensors | None:
    """Return what the server has for a model, or could make from what it fused last; None where it has neither."""
    settings, first = evidence.settings, evidence.clients[0].architecture
    last = [rounds[-1] for rounds in evidence.fused.values() if rounds]
    if last:
        fused = mean_answers(last, len(settings.transfer), settings.num_classes)
        rows = torch.tensor(sorted({row for rows, _ in last for row in rows.tolist()}))
        inputs = settings.transfer.inputs[rows]
        return distilled(first, inputs, fused[rows], _budget(evidence), settings, evidence.runner, "audit server model")
    models = [
        evidence.states[one.client_id].parameters
        for one in evidence.clients
        if one.architecture.signature == first.signature
    ]
    is_common = len(models) > 1 and all(
        torch.equal(tensor, model[name]) for model in models[1:] for name, tensor in models[0].items()
    )
    return models[0] if is_common else None


def _budget(evidence: Evidence) -> TrainingSettings:
    """Return as much training as clients have with fused soft labels, over all rounds."""
    rounds = max(len(own) for own in evidence.fused.values())
    absorb = evidence.settings.absorb
    return replace(absorb, epochs=absorb.epochs * rounds)


def _findings(
    subject: str, planted: PlantedCanaries, found: _Exposed, control: _Exposed, seed: int
) -> Iterator[Finding]:
    """Sum up a subject: all canaries, then those of each count."""
    counts = sorted(set(planted.counts.tolist()))
    everything = torch.ones_like(planted.counts, dtype=torch.bool)
    parts = [("", everything)]
    if len(counts) > 1:
        parts += [(f", inserted {count} x", planted.counts == count) for count in counts]
    for words, chosen in parts:
        generator = numpy_generator(seed, f"audit canary {subject}{words}")
        low, high = interval_of_mean(found.canaries[chosen], generator)
        control_low, _ = interval_of_mean(control.canaries[chosen], generator)
        yield Finding(
            audit="canary",
            subject=subject,
            measure=f"exposure in bits, |R| {found.num_candidates}{words}",
            value=found.canaries[chosen].mean().item(),
            low=low,
            high=high,
            floor=found.floor,
            control=control.canaries[chosen].mean().item(),
            has_power=control_low > found.floor,
        )
