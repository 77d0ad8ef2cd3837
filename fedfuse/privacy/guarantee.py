"""What is promised of what is sent, in words that can be checked."""

import math
from dataclasses import dataclass

NOBODY = "none"
FROM_THE_SYSTEM = "the operating system's generator"
SEEDED = "the run's seed: for simulation only, whoever knows it can take the noise away"


def rounded_up(epsilon: float) -> str:
    """Write a privacy loss in four digits that do not understate it."""
    if epsilon == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(epsilon)) - 3)
    up = math.ceil(epsilon / unit - 1e-9) * unit
    return f"{up:.4g}"


@dataclass(frozen=True)
class Guarantee:
    """The promise of one protector, or of a strategy.

    Parameters
    ----------
    protector : str
        Its name.
    mechanism : str
        What it does to the knowledge.
    unit : str
        Whose presence is protected: ``"record"``, ``"client"`` or ``"none"``.
    adversary : str
        Against whom.
    epsilon, delta : float, optional
        The accounted privacy loss; absent where nothing is guaranteed.
    draws : str
        Where its randomness comes from, where something is guaranteed.
    """

    protector: str
    mechanism: str
    unit: str = NOBODY
    adversary: str = NOBODY
    epsilon: float | None = None
    delta: float | None = None
    draws: str = NOBODY

    @property
    def holds(self) -> bool:
        """Whether anything is guaranteed."""
        return self.epsilon is not None

    def __str__(self) -> str:
        if self.epsilon is None:
            return f"{self.protector}: {self.mechanism}; guarantee: none"
        drawn = "" if self.draws == NOBODY else f"; drawn from {self.draws}"
        return (
            f"{self.protector}: {self.mechanism}; guarantee: epsilon {rounded_up(self.epsilon)}, delta {self.delta:g} "
            f"for one {self.unit} against {self.adversary}{drawn}"
        )
