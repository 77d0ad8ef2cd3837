"""What a protector promises, in words that can be checked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guarantee:
    """The promise of one protector.

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
    """

    protector: str
    mechanism: str
    unit: str = "none"
    adversary: str = "none"
    epsilon: float | None = None
    delta: float | None = None

    def __str__(self) -> str:
        if self.epsilon is None:
            return f"{self.protector}: {self.mechanism}; guarantee: none"
        return (
            f"{self.protector}: {self.mechanism}; guarantee: epsilon {self.epsilon:g}, delta {self.delta:g} "
            f"for one {self.unit} against {self.adversary}"
        )
