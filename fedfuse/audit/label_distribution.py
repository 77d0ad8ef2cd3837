"""Label distribution inference: how much what a client sent tells of the classes that it is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.audit.audit import Evidence, Finding
from fedfuse.audit.averages import mean_answers
from fedfuse.audit.intervals import interval_of_mean, interval_of_ratio
from fedfuse.audit.shadows import Course, live_together, without_protection
from fedfuse.client.client import Client
from fedfuse.data.federation import Federation
from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.randomness import numpy_generator

# Of the uniform distribution in both label mixes, so that the divergence from a class that nobody guessed stays finite.
SMOOTHING = 0.01
LARGEST_EXPONENT = 64.0
BISECTIONS = 30


@dataclass(frozen=True)
class LabelDistribution:
    r"""Label distribution inference: guess each client's label mix from the soft labels that it sent.

    After the attack of that name on federated distillation with public data (arXiv 2502.08001, of which we read the
    abstract only). The attacker is the server, honest but curious, and knows nothing but what clients sent. It
    averages each client's soft labels over the first rounds, before clients have learnt from each other and become
    alike, and sharpens them all by one exponent, by which they are as sure on average as clients usually are; this
    undoes temperatures and noise. The guess is the mean over transfer samples, divided by that of all clients, so that
    what all answer alike tells nothing, and normalised.

    Measured is KL(true \|\| guess) with a hundredth of the uniform distribution in both, averaged over clients, in
    nats; lower is more leak. Its floor is the KL of the prior, which guesses for every client the mean of what all
    sent. The share revealed, 1 - KL(guess) / KL(prior), is 0 for the prior, 1 if all is known and negative if the guess
    is worse than the prior. Intervals resample clients. The control are clients with the same data that have learnt
    them by heart and answer once, with nothing to protect them. Nothing is planted.

    Parameters
    ----------
    rounds : int
        How many of the first rounds that a client took part in are averaged.
    confidence : float
        How sure clients usually are: the mean largest probability that answers are sharpened to, above 0 and below 1.
        Surer answers stay as they are.
    control_epochs : int
        How often the control sees each of its samples.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    rounds: int = 3
    confidence: float = 0.7
    control_epochs: int = 100
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} must be at least 1")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence={self.confidence} must be above 0 and below 1")
        if self.control_epochs < 1:
            raise ValueError(f"control_epochs={self.control_epochs} must be at least 1")

    def plant(self, federation: Federation, seed: int) -> tuple[Federation, None]:
        """Plant nothing."""
        return federation, None

    def measure(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Guess the label mix of all clients that have sent something, and of their controls."""
        settings = evidence.settings
        clients = [client for client in evidence.clients if evidence.shared[client.client_id]]
        if not clients:
            return ()
        sent = []
        for client in clients:
            first = evidence.shared[client.client_id][: self.rounds]
            answered = torch.tensor(sorted({row for rows, _ in first for row in rows.tolist()}))
            sent.append(mean_answers(first, len(settings.transfer), settings.num_classes)[answered])
        control = self._controls(clients, evidence)

        true = torch.stack([_mix_of(client, settings.num_classes) for client in clients])
        guessed = divergences(true, label_mixes(sent, self.confidence))
        by_prior = divergences(true, prior_of(sent).expand_as(true))
        of_control = divergences(true, label_mixes(control, self.confidence))
        generator = numpy_generator(evidence.seed, "audit label distribution")
        low, high = interval_of_ratio(guessed, by_prior, generator)
        _, high_control = interval_of_ratio(of_control, by_prior, generator)
        subject = "soft labels sent"
        share = Finding(
            audit="label_distribution",
            subject=subject,
            measure="share of the label mix revealed",
            value=1 - (guessed.sum() / by_prior.sum()).item(),
            low=1 - high,
            high=1 - low,
            floor=0.0,
            control=1 - (of_control.sum() / by_prior.sum()).item(),
            has_power=1 - high_control > 0,
        )
        low, high = interval_of_mean(guessed, generator)
        divergence = Finding(
            audit="label_distribution",
            subject=subject,
            measure="KL from the true label mix, less is more",
            value=guessed.mean().item(),
            low=low,
            high=high,
            floor=by_prior.mean().item(),
            control=of_control.mean().item(),
            has_power=share.has_power,
        )
        return share, divergence

    def _controls(self, clients: Sequence[Client], evidence: Evidence) -> list[Tensor]:
        """Return what unprotected clients answer to the transfer set that have learnt their data by heart."""
        settings = without_protection(evidence.settings, self.control_epochs)
        course = Course((torch.arange(len(settings.transfer)),))
        lived = live_together(clients, [course] * len(clients), settings, evidence.runner)
        return [one.shared[0][1].double() for one in lived]


def label_mixes(answers: Sequence[Tensor], confidence: float) -> Tensor:
    """Guess the label mixes of clients.

    Parameters
    ----------
    answers : Sequence[Tensor]
        For each of N clients its soft labels, float64 ``[R, C]``; R need not be the same.
    confidence : float
        The mean largest probability that they are sharpened to.

    Returns
    -------
    Tensor
        float64 ``[N, C]``; rows sum to one.
    """
    together = _sharpen(torch.cat(list(answers)), confidence)
    sharpened = torch.split(together, [len(own) for own in answers])
    means = torch.stack([own.mean(0) for own in sharpened])
    ratio = means / means.mean(0).clamp_min(SMALLEST_PROBABILITY)
    return ratio / ratio.sum(1, keepdim=True)


def prior_of(answers: Sequence[Tensor]) -> Tensor:
    """Return the label mix of the population as all answers tell it, float64 ``[C]``."""
    return torch.stack([own.mean(0) for own in answers]).mean(0)


def divergences(true: Tensor, guessed: Tensor) -> Tensor:
    """Return KL(true || guessed) of each row, ``[N]`` in nats, a little smoothed; both are ``[N, C]``."""
    smooth_true, smooth_guess = ((1 - SMOOTHING) * mix + SMOOTHING / mix.shape[1] for mix in (true, guessed))
    return (smooth_true * (smooth_true / smooth_guess).log()).sum(1)


def _sharpen(soft_labels: Tensor, confidence: float) -> Tensor:
    """Raise soft labels ``[R, C]`` to the power, at least 1, by which they are as sure as that on average."""
    logarithms = torch.log(soft_labels.clamp_min(SMALLEST_PROBABILITY))
    low, high = 1.0, LARGEST_EXPONENT
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        if torch.softmax(middle * logarithms, dim=1).amax(1).mean() < confidence:
            low = middle
        else:
            high = middle
    return torch.softmax(low * logarithms, dim=1)


def _mix_of(client: Client, num_classes: int) -> Tensor:
    counts = torch.bincount(client.data.train.labels, minlength=num_classes).double()
    return counts / counts.sum()
