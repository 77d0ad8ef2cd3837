"""Answer with the most probable class, or by chance with any other one."""

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.privacy.accounting import check_delta, check_delta_for, randomised_response_epsilon
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, SEEDED, Guarantee
from fedfuse.privacy.protector import Context, Role

# Below, the share of each class could not be told from an even one in 64 bits.
SMALLEST_EPSILON = 1e-6


@dataclass(frozen=True)
class RandomisedResponse:
    r"""Randomised response on the most probable class; differentially private for a client's data as a whole.

    Protects all data of one client, whatever they are replaced by, against everyone who sees what the client sends,
    the server included. The class that a soft label finds most probable is answered with probability
    :math:`e^{\epsilon_0} / (e^{\epsilon_0} + C - 1)`, each other one with :math:`1 / (e^{\epsilon_0} + C - 1)`, rounded
    to 64 bits such that they never differ by more than a factor of :math:`e^{\epsilon_0}`. So whatever the data, an
    answer loses :math:`\epsilon_0`; all answers together lose what `randomised_response_epsilon` says. What is sent is
    the probability of every class given the answer, if all classes were equally likely before: it follows from the
    answer alone.

    Source: Kairouz, Bonawitz and Ramage, ICML 2016 (arXiv 1602.07387), section 2, after Warner, 1965.

    Parameters
    ----------
    epsilon_per_answer : float
        The loss for one sample in one round, at least 1e-6.
    delta : float
        How likely more than the epsilon of all answers may be lost, in (0, 1), below one in the number of clients.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    epsilon_per_answer: float
    delta: float = 1e-5
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "mechanism"
    needs_reference: ClassVar[bool] = False
    uses_private_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not SMALLEST_EPSILON <= self.epsilon_per_answer < math.inf:
            raise ValueError(
                f"epsilon_per_answer={self.epsilon_per_answer} must be positive and finite, "
                f"at least {SMALLEST_EPSILON:g}"
            )
        check_delta(self.delta)

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State what all answers of so many rounds lose.

        Raises
        ------
        ConfigurationError
            If delta is not below one in the number of clients.
        """
        check_delta_for("randomised_response", self.delta, exposure.num_clients, "client")
        num_answers = num_rounds * exposure.num_rows
        return Guarantee(
            "randomised_response",
            f"randomised response of epsilon {self.epsilon_per_answer:g} on the most probable class of "
            f"{exposure.num_rows} samples a round",
            "client",
            "everyone who sees what it sends, the server included",
            randomised_response_epsilon(self.epsilon_per_answer, exposure.num_classes, num_answers, self.delta),
            self.delta,
            FROM_THE_SYSTEM if exposure.secure else SEEDED,
        )

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return what the answers say of every class, ``[R, C]``."""
        num_rows, num_classes = soft_labels.shape
        share = share_of_another(self.epsilon_per_answer, num_classes)
        # One draw decides all: the shares of the other classes come first, one after the other, then that of the own.
        others = context.keystream.integers(num_rows) // np.uint64(share)
        ahead = np.where(others < num_classes - 1, others + np.uint64(1), np.uint64(0)).astype(np.int64)
        answers = (soft_labels.argmax(1) + torch.from_numpy(ahead)) % num_classes
        another = share / 2**64
        told = soft_labels.new_full((num_rows, num_classes), another)
        return told.scatter_(1, answers.unsqueeze(1), 1 - (num_classes - 1) * another)


def share_of_another(epsilon: float, num_classes: int) -> int:
    r"""Return how many of ``2**64`` draws answer with each class that is not the own one.

    It is :math:`2^{64} / (e^\epsilon + C - 1)`, rounded up: the own class keeps what the others leave, so the ratio of
    the two is never above :math:`e^\epsilon`.
    """
    with localcontext() as context:
        context.prec = 60
        # Far above the ratio of 64-bit numbers, a larger epsilon changes nothing but the time that its power takes.
        exact = 2**64 / (Decimal(min(epsilon, 100.0)).exp() + num_classes - 1)
        return int(exact.to_integral_value(ROUND_CEILING))
