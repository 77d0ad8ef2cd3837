"""How long each verb took, told while it happens and kept for the metrics."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Times the verbs of a phase.

    Parameters
    ----------
    announce : Callable[[str], None], optional
        Called with a verb's name as it begins, for a live display.

    Attributes
    ----------
    seconds : dict[str, float]
        Seconds by verb so far.
    """

    announce: Callable[[str], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def verb(self, name: str) -> Iterator[None]:
        """Announce and time one verb; times of repeated verbs add up."""
        if self.announce is not None:
            self.announce(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
