"""Train privately: what a client's model tells of any one training example is bounded, and so is all that it sends."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedfuse.errors import ConfigurationError, unknown_name
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, SEEDED, Guarantee
from fedfuse.privacy.protector import Context, Role
from fedfuse.privacy.training_accountant import ACCOUNTANTS, Steps, calibrate, epsilon_of


@dataclass(frozen=True)
class DpSgd:
    r"""Differentially private training (DP-SGD): clipped and noised gradient steps on Poisson samples.

    Source: Abadi et al., CCS 2016, arXiv 1607.00133, algorithm 1.

    Neighbours are two sets of private training examples of one client of which one has one example more, trained with
    the same sampling rate and number of steps. Sketch of the proof: the gradients of the examples in a step, each of
    Euclidean norm ``clip`` at most, are summed, so one example changes the sum by ``clip`` at most, and only in the
    steps that it enters, each with probability q, independently of all else. Noise of standard deviation ``clip`` times
    the noise multiplier makes of a step a sampled Gaussian mechanism. The steps of all rounds are composed adaptively
    (see `fedfuse.privacy.training_accountant`). Everything else that happens to the model and to what it answers, at
    the client and at the server, never sees a training example again: it takes nothing away.

    The rate and the number of steps follow from how many examples a client has; so this number itself counts as known,
    though it is not told. Examples for validation and testing are not covered.

    Parameters
    ----------
    clip : float
        The largest norm that an example's gradient keeps, by all parameters together, positive.
    noise_multiplier : float, optional
        Standard deviation of the noise in units of ``clip``, positive; the same for all clients.
    epsilon : float, optional
        Instead of it, the privacy loss that no client exceeds after all rounds of the run, positive. Each finds the
        noise for its own number of examples.
    delta : float
        How likely more is lost, in (0, 1), and not above one over the number of examples of any client.
    accountant : str
        ``"pld"`` or ``"rdp"``; see `fedfuse.privacy.training_accountant`.

    Raises
    ------
    ConfigurationError
        If the accountant is unknown.
    ValueError
        If not exactly one of ``noise_multiplier`` and ``epsilon`` is given, or a number is out of range.
    """

    clip: float = 1.0
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    accountant: str = "pld"
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "training"
    needs_reference: ClassVar[bool] = False
    # Only in its own steps, which are accounted.
    uses_private_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.accountant not in ACCOUNTANTS:
            raise unknown_name("accountant", self.accountant, ACCOUNTANTS)
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("give one of noise_multiplier and epsilon, for example {name: dp_sgd, epsilon: 4}")
        for name in ("clip", "noise_multiplier", "epsilon"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be positive and finite")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta={self.delta} must be above 0 and below 1")

    def check(self, exposure: Exposure) -> None:
        """Refuse what cannot be accounted.

        Raises
        ------
        ConfigurationError
            If a client has more than ``1 / delta`` training examples; or if nobody knows how many they have, and no
            target for epsilon is given.
        """
        if exposure.num_examples is None:
            if self.epsilon is None:
                raise ConfigurationError(
                    f"privacy: dp_sgd with noise_multiplier={self.noise_multiplier:g} has a privacy loss that depends "
                    "on how many training examples each client has, which they do not tell: give epsilon instead, for "
                    "example {name: dp_sgd, epsilon: 4}."
                )
            return
        largest = max(exposure.num_examples, default=0)
        if not self.suits(largest):
            raise ConfigurationError(
                f"privacy: dp_sgd has delta={self.delta:g}; it must be at most {1 / largest:.3g}, one over the largest "
                "number of training examples of a client."
            )

    def suits(self, num_examples: int) -> bool:
        """Tell whether delta is small enough for so many training examples."""
        return self.delta * num_examples <= 1

    def steps_of(self, num_examples: int, exposure: Exposure, num_rounds: int = 1) -> Steps:
        """Say how a client with so many training examples trains in so many rounds.

        Returns
        -------
        Steps
            Its sampling rate, noise multiplier and number of steps: as many as it takes to go through its examples, in
            expectation, as often as configured. Without examples there is nothing to do.
        """
        if num_examples == 0:
            return 1.0, 1.0, 0
        rate = min(1.0, exposure.batch_size / num_examples)
        in_a_round = exposure.epochs * math.ceil(num_examples / exposure.batch_size)
        if self.noise_multiplier is not None:
            noise_multiplier = float(self.noise_multiplier)
        else:
            assert self.epsilon is not None, "one of the two is given"
            in_the_run = in_a_round * exposure.num_rounds
            noise_multiplier = calibrate(rate, in_the_run, float(self.epsilon), self.delta, self.accountant)
        return rate, noise_multiplier, in_a_round * num_rounds

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State the privacy loss of the client that has the largest; before the last round an upper bound of it."""
        self.check(exposure)
        noise = (
            f"noise that each client calibrates to epsilon {self.epsilon:g} after {exposure.num_rounds} rounds"
            if self.noise_multiplier is None
            else f"noise of {self.noise_multiplier:g} times that"
        )
        return Guarantee(
            protector="dp_sgd",
            mechanism=(
                f"DP-SGD on Poisson samples, gradients clipped to norm {self.clip:g}, {noise}, accounted by "
                f"{self.accountant}, numbers of training examples counting as known, validation and test examples not "
                "covered"
            ),
            unit="record",
            adversary="everyone who sees what a client sends, the server included",
            epsilon=self._largest_loss(exposure, num_rounds),
            delta=self.delta,
            draws=FROM_THE_SYSTEM if exposure.secure else SEEDED,
        )

    def _largest_loss(self, exposure: Exposure, num_rounds: int) -> float:
        if exposure.num_examples is None or (self.epsilon is not None and num_rounds >= exposure.num_rounds):
            assert self.epsilon is not None, "otherwise it cannot be accounted"
            return float(self.epsilon)
        sizes = set(exposure.num_examples)
        quick = {size: self._loss(size, exposure, num_rounds, "rdp") for size in sizes}
        if num_rounds < exposure.num_rounds:
            # Every round asks for it, so the quick bound has to do; what holds in the end holds before.
            return min(max(quick.values()), self._largest_loss(exposure, exposure.num_rounds))
        largest = 0.0
        for size in sorted(sizes, key=lambda size: -quick[size]):
            if quick[size] <= largest:
                break
            largest = max(largest, self._loss(size, exposure, num_rounds, self.accountant))
        return largest

    def _loss(self, num_examples: int, exposure: Exposure, num_rounds: int, accountant: str) -> float:
        return epsilon_of([self.steps_of(num_examples, exposure, num_rounds)], self.delta, accountant)

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return the soft labels as they are: it has done its part in training."""
        return soft_labels
