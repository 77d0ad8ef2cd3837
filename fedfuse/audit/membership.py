"""Membership inference: whether what a client sent tells which samples it was trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.audit.attacker_models import probabilities
from fedfuse.audit.audit import Evidence, Finding
from fedfuse.audit.averages import mean_answers
from fedfuse.audit.detection import area_under_curve, chance_of_true_positive, true_positive_rate
from fedfuse.audit.intervals import interval_of_groups
from fedfuse.audit.lira import likelihood_ratios, logit_confidence
from fedfuse.audit.planting import with_probes
from fedfuse.audit.shadows import Course, Lived, live_together, without_protection
from fedfuse.client.client import Client, ClientSettings
from fedfuse.data.federation import Federation, TransferSet
from fedfuse.data.samples import Samples, as_numbers
from fedfuse.models.architecture import Architecture
from fedfuse.randomness import numpy_generator

FEWEST_SHADOWS = 4
FALSE_POSITIVE_RATE = 0.01
SENT, MODEL = "soft labels sent", "client's model"

Scores = list[tuple[Tensor, Tensor]]
"""For each attacked client, the scores of its members and of the others in its pool."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Training samples of one client, of which half were left to it.

    Parameters
    ----------
    client_id : int
        The client that is attacked.
    samples : Samples
        The P samples of the pool.
    members : Tensor
        Bool ``[P]``: those that the client is trained on.
    rest : Samples
        Its training samples outside the pool.
    rows : Tensor
        int64 ``[P]``: which rows of the transfer set the samples are.
    """

    client_id: int
    samples: Samples
    members: Tensor
    rest: Samples
    rows: Tensor

    def training_samples(self, members: Tensor) -> Samples:
        """Join the rest and the given half of the pool, bool ``[P]``."""
        own = self.samples.select(members)
        return Samples(torch.cat([self.rest.inputs, own.inputs]), torch.cat([self.rest.labels, own.labels]))


@dataclass(frozen=True, eq=False)
class PlantedPools:
    """The pools of all attacked clients."""

    pools: tuple[Pool, ...]

    @property
    def probes(self) -> Tensor:
        """The rows of the transfer set that were appended, int64."""
        return torch.cat([torch.empty(0, dtype=torch.int64), *(pool.rows for pool in self.pools)])


@dataclass(frozen=True)
class Membership:
    """Membership inference by the likelihood ratio attack (LiRA; Carlini et al., 2022, arXiv 2112.03570).

    From the training samples of each attacked client a pool is drawn. A random half of it, the members, stays; the
    other half is taken out; all of it is appended to the transfer set, so that it is queried. Samples that are in the
    transfer set already, as the inputs of canaries are, stay out of pools.

    The attacker is the server, honest but curious, at its strongest. It knows the pool with its labels, though not
    which half stayed, and the rest of the client's training data; its architecture, settings and protectors; the soft
    labels that it sent and those that came back to it. Shadow clients, trained on the rest and random halves of the
    pool, each sample in half of them, go through the same rounds: they absorb what the client absorbed, and answer
    through protectors of their own. The score of a sample is the likelihood ratio of the confidence in its label, in
    soft labels averaged over rounds, because that averages out noise. Shadow clients trained alone for as many epochs
    find far less. What clients receive besides soft labels does not reach shadow clients. An attacker who knows less,
    as in the study of federated distillation with public data (arXiv 2502.08001), finds less.

    Attacked are the soft labels sent, and each client's model in the end, which no attacker of the channel has. Area
    under the ROC curve and true positive rate at 1 % false positives are over the samples of all pools together;
    intervals resample them, members and others of each client apart. The control are clients with the same data, and
    shadow clients, that have learnt theirs by heart and answer once, with nothing to protect them.

    Parameters
    ----------
    clients : int, optional
        How many clients are attacked, from the first on; by default all.
    pool : float
        The share of a client's training samples in its pool, above 0 and at most 1.
    shadows : int
        How many shadow clients each attacked client gets: even, at least 4; 16 to 64 is usual. They cost so many runs
        of the attacked clients.
    control_epochs : int
        How often the control sees each of its samples.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    clients: int | None = None
    pool: float = 0.5
    shadows: int = 16
    control_epochs: int = 100
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})

    def __post_init__(self) -> None:
        if self.clients is not None and self.clients < 1:
            raise ValueError(f"clients={self.clients} must be at least 1")
        if not 0 < self.pool <= 1:
            raise ValueError(f"pool={self.pool} must be above 0 and at most 1")
        if self.shadows < FEWEST_SHADOWS or self.shadows % 2:
            raise ValueError(f"shadows={self.shadows} must be even and at least {FEWEST_SHADOWS}")
        if self.control_epochs < 1:
            raise ValueError(f"control_epochs={self.control_epochs} must be at least 1")

    def plant(self, federation: Federation, seed: int) -> tuple[Federation, PlantedPools]:
        """Take half of each pool out of the training data, and append all of it to the transfer set.

        A client with too few samples for a pool of two, or whose only samples they would be, is not attacked.
        """
        queried = federation.shared.transfer
        pools = []
        for client_id in range(len(federation.clients))[: self.clients]:
            train = federation.clients[client_id].train
            drawn = numpy_generator(seed, "audit membership", client=client_id).permutation(len(train))
            candidates = torch.from_numpy(drawn)[_is_new(train, queried)[drawn]]
            half = int(self.pool * len(candidates)) // 2
            if half == 0:
                continue
            chosen = candidates[: 2 * half]
            outside = torch.ones(len(train), dtype=torch.bool).scatter(0, chosen, False)
            members = torch.arange(2 * half) < half
            federation, rows = with_probes(federation, train.inputs[chosen])
            pool = Pool(client_id, train.select(chosen), members, train.select(outside), rows)
            federation = _with_training_set(federation, client_id, pool.training_samples(members))
            pools.append(pool)
        return federation, PlantedPools(tuple(pools))

    def measure(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Attack the clients of all pools that have sent something, and their controls."""
        planted = evidence.planted
        assert isinstance(planted, PlantedPools), "what this class planted"
        pools = [pool for pool in planted.pools if evidence.shared[pool.client_id]]
        if not pools:
            return ()
        runs = {
            pool.client_id: Lived(evidence.shared[pool.client_id], evidence.states[pool.client_id]) for pool in pools
        }
        courses = {one: Course(tuple(rows for rows, _ in run.shared), evidence.fused[one]) for one, run in runs.items()}
        found = self._attack(evidence, pools, runs, courses, evidence.settings)

        unprotected = without_protection(evidence.settings, self.control_epochs)
        once = dict.fromkeys(runs, Course((torch.arange(len(unprotected.transfer)),)))
        controls = live_together(
            [evidence.clients[one] for one in runs], list(once.values()), unprotected, evidence.runner
        )
        control = self._attack(evidence, pools, dict(zip(runs, controls, strict=True)), once, unprotected)
        return tuple(
            finding
            for subject in (SENT, MODEL)
            for finding in _findings(subject, found[subject], control[subject], evidence.seed)
        )

    def _attack(
        self,
        evidence: Evidence,
        pools: Sequence[Pool],
        runs: Mapping[int, Lived],
        courses: Mapping[int, Course],
        settings: ClientSettings,
    ) -> dict[str, Scores]:
        """Score the samples of all pools, by subject, from what the attacked clients sent and what they have become."""
        members, clients = [], []
        for number, pool in enumerate(pools):
            generator = numpy_generator(evidence.seed, "audit shadows", client=pool.client_id)
            members.append(halves(self.shadows, len(pool.samples), generator))
            attacked = evidence.clients[pool.client_id]
            first_id = len(evidence.clients) + number * self.shadows
            for shadow, own in enumerate(members[-1]):
                data = replace(attacked.data, train=pool.training_samples(own).to(settings.dtype))
                clients.append(Client(first_id + shadow, attacked.architecture, data))
        of_each = [courses[pool.client_id] for pool in pools for _ in range(self.shadows)]
        lived = live_together(clients, of_each, settings, evidence.runner)
        scores: dict[str, Scores] = {SENT: [], MODEL: []}
        for number, (pool, learnt) in enumerate(zip(pools, members, strict=True)):
            architecture = evidence.clients[pool.client_id].architecture
            together = [runs[pool.client_id], *lived[number * self.shadows : (number + 1) * self.shadows]]
            for subject, answers in (
                (SENT, [_sent(one, pool, settings) for one in together]),
                (MODEL, [_answers(one, pool, architecture, settings) for one in together]),
            ):
                confidences = logit_confidence(torch.stack(answers), pool.samples.labels)
                ratios = likelihood_ratios(confidences[0], confidences[1:], learnt)
                scores[subject].append((ratios[pool.members], ratios[~pool.members]))
        return scores


def halves(num_shadows: int, num_samples: int, generator: np.random.Generator) -> Tensor:
    """Draw which samples each shadow client learns.

    Parameters
    ----------
    num_shadows : int
        S, even.
    num_samples : int
        P, even.
    generator : np.random.Generator
        Draws them.

    Returns
    -------
    Tensor
        Bool ``[S, P]``: half of the samples for each shadow client, and each sample for half of them.
    """
    drawn = [generator.permutation(num_samples) < num_samples // 2 for _ in range(num_shadows // 2)]
    first = torch.from_numpy(np.stack(drawn))
    return torch.cat([first, ~first])


def _is_new(samples: Samples, transfer: TransferSet) -> Tensor:
    """Say which samples are not in the transfer set, bool ``[n]``."""
    known = {row.tobytes() for row in transfer.inputs.numpy()}
    inputs = as_numbers(samples.inputs, transfer.inputs.dtype).numpy()
    return torch.tensor([row.tobytes() not in known for row in inputs], dtype=torch.bool)


def _with_training_set(federation: Federation, client_id: int, train: Samples) -> Federation:
    clients = list(federation.clients)
    clients[client_id] = replace(clients[client_id], train=train)
    return replace(federation, clients=tuple(clients))


def _sent(run: Lived, pool: Pool, settings: ClientSettings) -> Tensor:
    return mean_answers(run.shared, len(settings.transfer), settings.num_classes)[pool.rows]


def _answers(run: Lived, pool: Pool, architecture: Architecture, settings: ClientSettings) -> Tensor:
    return probabilities(architecture, run.state.parameters, settings.transfer.inputs[pool.rows])


def _findings(subject: str, found: Scores, control: Scores, seed: int) -> list[Finding]:
    """Sum up a subject."""
    num_others = sum(len(others) for _, others in found)

    def rate(of_members: Tensor, of_others: Tensor) -> Tensor:
        return true_positive_rate(of_members, of_others, FALSE_POSITIVE_RATE)

    measures: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor], float], ...] = (
        ("AUC", area_under_curve, 0.5),
        ("TPR at 1 % FPR", rate, chance_of_true_positive(num_others, FALSE_POSITIVE_RATE)),
    )
    findings = []
    for name, measure, floor in measures:
        generator = numpy_generator(seed, f"audit membership {subject} {name}")
        low, high = interval_of_groups(measure, found, generator)
        control_low, _ = interval_of_groups(measure, control, generator)
        findings.append(
            Finding(
                audit="membership",
                subject=subject,
                measure=name,
                value=_of_all(measure, found),
                low=low,
                high=high,
                floor=floor,
                control=_of_all(measure, control),
                has_power=control_low > floor,
            )
        )
    return findings


def _of_all(measure: Callable[[Tensor, Tensor], Tensor], scores: Scores) -> float:
    of_members, of_others = (torch.cat(side) for side in zip(*scores, strict=True))
    return measure(of_members, of_others).item()
