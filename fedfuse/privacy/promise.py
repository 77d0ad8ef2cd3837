"""All that a run promises: of its protectors and its strategy together, composed over its rounds."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from fedfuse.privacy.chain import guarantees_of
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.protector import Protector


class Promising(Protocol):
    """Who may add noise of its own at the server: a strategy."""

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee | None:
        """State what is promised of all that comes back to clients in so many rounds; nothing by default."""
        ...


@dataclass(frozen=True)
class Promise:
    """What a run promises.

    Parameters
    ----------
    protectors : tuple[Protector, ...]
        What clients do.
    strategy : Promising
        What the server does.
    exposure : Exposure
        How much is released in the whole run.
    """

    protectors: tuple[Protector, ...]
    strategy: Promising
    exposure: Exposure

    def after(self, num_rounds: int) -> list[Guarantee]:
        """State every guarantee of so many rounds, those that promise nothing included."""
        stated: Sequence[Guarantee] = guarantees_of(self.protectors, self.exposure, num_rounds)
        of_strategy = self.strategy.guarantee(self.exposure, num_rounds)
        return [*stated, *([] if of_strategy is None else [of_strategy])]

    @property
    def in_the_end(self) -> list[Guarantee]:
        """What holds after the last round."""
        return self.after(self.exposure.num_rounds)

    @property
    def is_claimed(self) -> bool:
        """Whether anything is guaranteed."""
        return any(guarantee.holds for guarantee in self.in_the_end)

    def spent(self, num_rounds: int) -> dict[str, float]:
        """Return the epsilon of so many rounds for each unit that is protected; of several guarantees the largest."""
        spent: dict[str, float] = {}
        for guarantee in self.after(num_rounds):
            if guarantee.epsilon is not None:
                spent[guarantee.unit] = max(guarantee.epsilon, spent.get(guarantee.unit, 0.0))
        return spent

    def to_json(self) -> str:
        """Write what holds after the last round, and whether anything does."""
        stated = self.in_the_end
        summary = "See protectors." if self.is_claimed else "No differential privacy is guaranteed."
        facts = {
            "protectors": [asdict(guarantee) for guarantee in stated],
            "differential_privacy": self.is_claimed,
            "rounds": self.exposure.num_rounds,
            "summary": summary,
        }
        return json.dumps(facts, indent=2) + "\n"
