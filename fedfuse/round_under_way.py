"""What is known so far of the round that is being run; a checkpoint between its two exchanges keeps it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedfuse.metrics import ClientMetrics, LeftOut


@dataclass
class RoundUnderWay:
    """One round, from its first message on.

    Attributes
    ----------
    participants
        The clients that take part; after share, those whose knowledge was valid.
    sent
        The round of the fused knowledge that went along with each client's last message.
    rows
        The transfer samples that clients are asked for; chosen again if the share phase is.
    shared
        Whether the share phase is over.
    """

    round: int
    left_out: list[LeftOut] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    participants: list[int] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    relevance: Tensor | None = None
    relevance_clients: list[int] = field(default_factory=list)
    clients: list[ClientMetrics] = field(default_factory=list)
    shared: bool = False
    rows: Tensor | None = None

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add times by verb."""
        for verb, value in seconds.items():
            self.seconds[verb] = self.seconds.get(verb, 0.0) + value

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of a block under one name."""
        start = time.perf_counter()
        yield
        self.add_seconds({name: time.perf_counter() - start})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for the checkpoint after the share phase."""
        return {
            "round": self.round,
            "left_out": [(entry.client_id, entry.phase, entry.reason) for entry in self.left_out],
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": dict(self.seconds),
            "participants": list(self.participants),
            "relevance": self.relevance,
            "relevance_clients": list(self.relevance_clients),
            "shared": self.shared,
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> "RoundUnderWay":
        """Read what `to_dict` gave."""
        left_out = [LeftOut(*entry) for entry in plain["left_out"]]
        return RoundUnderWay(**{**plain, "left_out": left_out})
