"""GNMax: noisy votes, differentially private for each client (Papernot et al., ICLR 2018, arXiv 1802.08908)."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.privacy.accounting import check_delta, check_delta_for, epsilon_to_zcdp, zcdp_to_epsilon
from fedfuse.privacy.discrete_gaussian import DEVIATION, draw
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, SEEDED, Guarantee
from fedfuse.privacy.keystream import Keystream
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

SMALLEST_SIGMA, LARGEST_SIGMA = 1e-3, 1e4


class GNMax(FusionStrategy):
    r"""GNMax: one consensus for all, on each sample the class with most votes after noise on the votes.

    A client's vote is the class that its soft label finds most probable; an even one votes for nothing. With a
    threshold (confident GNMax) a sample is answered only if its winner has so many votes, after noise of its own.
    Samples that are not answered teach nothing. No relevance comes back: it would tell more.

    Protects all that one client votes in all rounds, whatever it is replaced by, against the other clients and whoever
    else reads what comes back. The server sees the votes and is trusted. The guarantee follows in four steps.

    1. Replacing one client's vote on a sample takes one from one count and adds one to another, at most: the counts
       move by :math:`\sqrt 2`, the largest one by 1.
    2. With discrete Gaussian noise on whole counts, and the winner as a function of them, an answer is
       :math:`1 / \sigma^2`-zCDP (Renyi divergence :math:`\alpha / \sigma^2` for every order), and whether a sample
       reaches the threshold :math:`1 / 2 \sigma_t^2`-zCDP.
    3. Over M samples and R rounds, where models, votes and samples may depend on all answers before,
       :math:`\rho = M R (1 / \sigma^2 + 1 / 2 \sigma_t^2)` if every sample is answered; epsilon follows.
    4. With a budget, a sample is looked at only if what was spent so far leaves enough for its test and its answer.
       Whether it does follows from what came back before. A filter that stops so is as private as its budget, although
       nobody knows beforehand what will be answered (Feldman and Zrnic, NeurIPS 2021, arXiv 2008.11193, theorem 4.5);
       as the loss grows with the order in proportion, one rule serves all orders.

    It is the analysis that does not look at the votes. The paper's other one gives a smaller epsilon where clients
    agree, but that epsilon tells of the votes and may not be published as it is. Conversion and noise are those of
    Canonne, Kamath and Steinke, NeurIPS 2020 (arXiv 2004.00010). Unlike in the paper, clients learn again and vote
    again each round, and there is no student of the server's.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise on each class's votes, in votes, from 1e-3 to 1e4.
    threshold : float, optional
        Votes that a winner must have for a sample to be answered; all are if it is left out.
    threshold_sigma : float, optional
        Standard deviation of the noise on the votes that are compared with the threshold; needed with one.
    epsilon : float, optional
        The budget for all rounds: where it is spent, nothing more is answered. Samples come in their order.
    delta : float
        How likely more than epsilon may be lost, in (0, 1), below one in the number of clients.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(
        self,
        sigma: float,
        threshold: float | None = None,
        threshold_sigma: float | None = None,
        epsilon: float | None = None,
        delta: float = 1e-5,
    ) -> None:
        _check_sigma("sigma", sigma)
        if (threshold is None) != (threshold_sigma is None):
            raise ValueError(f"threshold={threshold} and threshold_sigma={threshold_sigma} go together: give both")
        if threshold is not None and not (math.isfinite(threshold) and threshold > 0):
            raise ValueError(f"threshold={threshold} must be finite and positive")
        if threshold_sigma is not None:
            _check_sigma("threshold_sigma", threshold_sigma)
        if epsilon is not None and not (math.isfinite(epsilon) and epsilon > 0):
            raise ValueError(f"epsilon={epsilon} must be finite and positive")
        check_delta(delta)
        self.sigma = sigma
        self.threshold = threshold
        self.threshold_sigma = threshold_sigma
        self.epsilon = epsilon
        self.delta = delta
        self.rho_of_test = 0.0 if threshold_sigma is None else 1 / (2 * threshold_sigma**2)
        self.rho_of_answer = 1 / sigma**2
        self.budget = math.inf if epsilon is None else epsilon_to_zcdp(epsilon, delta)
        # How many samples were looked at so far, and how many of them were answered.
        self.looked_at = 0
        self.answered = 0

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State what the answers of so many rounds lose at most: all of them, or the budget if that is less.

        Raises
        ------
        ConfigurationError
            If delta is not below one in the number of clients.
        """
        check_delta_for("gnmax", self.delta, exposure.num_clients, "client")
        samples = num_rounds * exposure.num_rows
        lost = zcdp_to_epsilon(samples * (self.rho_of_test + self.rho_of_answer), self.delta)
        return Guarantee(
            "gnmax",
            self._mechanism(exposure.num_rows),
            "client",
            "the other clients and whoever else reads what comes back; the server is trusted",
            lost if self.epsilon is None else min(lost, self.epsilon),
            self.delta,
            FROM_THE_SYSTEM if exposure.secure else SEEDED,
        )

    def _mechanism(self, num_rows: int) -> str:
        words = "the winner of the clients' votes with discrete Gaussian noise of deviation "
        words += f"{self.sigma:g}, of {num_rows} samples a round"
        if self.threshold is not None:
            words += f", if it has {self.threshold:g} votes after noise of deviation {self.threshold_sigma:g}"
        return words if self.epsilon is None else f"{words}, until the budget is spent"

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Count the votes on the samples that were asked for, and answer with noisy winners, one class each."""
        rows = knowledge.mask.any(0).nonzero().squeeze(1)
        counts = count_votes(knowledge.soft_labels, knowledge.mask)[rows]
        keystream = server.keystream("gnmax", knowledge.round)
        winners = add_noise(counts, self.sigma, keystream).argmax(1)
        told = self._spend(self._reach_threshold(counts, keystream))
        soft_labels = torch.full_like(knowledge.soft_labels[0], 1 / knowledge.soft_labels.shape[2])
        soft_labels[rows[told]] = torch.nn.functional.one_hot(winners[told], soft_labels.shape[1]).to(soft_labels)
        mask = torch.zeros(len(soft_labels), dtype=torch.bool)
        mask[rows[told]] = True
        return Fused.for_all(soft_labels={"soft_labels": soft_labels, "mask": mask})

    def _reach_threshold(self, counts: Tensor, keystream: Keystream) -> Tensor:
        """Tell which samples, bool ``[R]``, have a winner with enough votes after noise."""
        if self.threshold is None or self.threshold_sigma is None:
            return torch.ones(len(counts), dtype=torch.bool)
        return add_noise(counts.max(1).values, self.threshold_sigma, keystream) >= self.threshold

    def _spend(self, passed: Tensor) -> Tensor:
        """Tell which samples the budget allows to answer, bool ``[R]``, and remember what they cost."""
        looked_at = self.looked_at + torch.arange(1, len(passed) + 1).double()
        answered = self.answered + passed.cumsum(0).double()
        # What each would take the total to if it was answered. It never falls: behind the first too much, all are.
        spent = looked_at * self.rho_of_test + (answered + ~passed) * self.rho_of_answer
        affordable = spent <= self.budget
        self.looked_at += int(affordable.sum())
        self.answered += int((passed & affordable).sum())
        return passed & affordable

    def state_dict(self) -> dict[str, Any]:
        """Return what was spent."""
        return {"looked_at": self.looked_at, "answered": self.answered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.looked_at, self.answered = state["looked_at"], state["answered"]


def count_votes(soft_labels: Tensor, mask: Tensor) -> Tensor:
    """Count how many clients find each class of each sample most probable.

    Parameters
    ----------
    soft_labels : Tensor
        ``[N, M, C]``.
    mask : Tensor
        Bool ``[N, M]``: which samples each client answered.

    Returns
    -------
    Tensor
        int64 ``[M, C]``. Even soft labels count for no class; of several largest probabilities the first one does.
    """
    largest, classes = soft_labels.max(2)
    votes = mask & (largest > soft_labels.min(2).values)
    counts = torch.zeros(soft_labels.shape[1:], dtype=torch.int64)
    return counts.scatter_add_(1, classes.T, votes.T.long())


def add_noise(counts: Tensor, sigma: float, keystream: Keystream) -> Tensor:
    """Add discrete Gaussian noise to whole counts, each in steps so small that two are seldom equal.

    Parameters
    ----------
    counts : Tensor
        int64, of any shape.
    sigma : float
        Standard deviation, in counts.
    keystream : Keystream
        Where the draws come from.

    Returns
    -------
    Tensor
        float64 of the same shape, in counts again.
    """
    # A vote is a whole number of steps, or noise would not hide it; the deviation is that many times sigma, exactly.
    steps = max(1, math.ceil(DEVIATION / Fraction(sigma)))
    noise = draw(counts.numel(), keystream, steps * Fraction(sigma))
    return (counts * steps + torch.from_numpy(noise).reshape(counts.shape)).double() / steps


def _check_sigma(name: str, sigma: float) -> None:
    if not SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:
        raise ValueError(f"{name}={sigma} must be positive, from {SMALLEST_SIGMA:g} to {LARGEST_SIGMA:g}")
