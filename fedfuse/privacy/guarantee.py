"""What is promised of what is sent, in words that can be checked."""

from dataclasses import dataclass

NOBODY = "none"
FROM_THE_SYSTEM = "the operating system's generator"
SEEDED = "the run's seed: for simulation only, whoever knows it can take the noise away"


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
            f"{self.protector}: {self.mechanism}; guarantee: epsilon {self.epsilon:.4g}, delta {self.delta:g} "
            f"for one {self.unit} against {self.adversary}{drawn}"
        )
