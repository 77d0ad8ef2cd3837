"""Fused knowledge on its way: what each client has not absorbed yet, also of clients that are away."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedfuse.carriers.soft_labels import pack_fused
from fedfuse.encoding.encoding import Encoding
from fedfuse.encoding.float32 import FLOAT32
from fedfuse.knowledge import Fused, Tensors

INITIAL = 0
NEVER = -1


@dataclass
class Waiting:
    """Fused knowledge that some client may not have absorbed yet, in the form that travels.

    Attributes
    ----------
    common, common_round
        The newest that is the same for all, and the round that it was fused in.
    personal
        The newest for one client, by client id: the round, and tensors by carrier.
    absorbed
        The round of the fused knowledge that each client is known to have absorbed.
    """

    common: Mapping[str, Tensors] | None = None
    common_round: int = NEVER
    personal: dict[int, tuple[int, Mapping[str, Tensors]]] = field(default_factory=dict)
    absorbed: dict[int, int] = field(default_factory=dict)

    def put(self, fused: Fused, round: int, encoding: Encoding = FLOAT32) -> None:
        """Take what a strategy fused, and encode the soft labels of it."""
        if fused.common is not None:
            self.common, self.common_round = _pack(fused.common, encoding), round
        for client_id, carriers in fused.personal.items():
            self.personal[client_id] = (round, _pack(carriers, encoding))

    def newest_for(self, client_id: int) -> tuple[int, Mapping[str, Tensors] | None]:
        """Return the round and tensors that a client should absorb next, or ``(-1, None)``."""
        round, carriers = self.personal.get(client_id, (NEVER, None))
        if self.common_round > round:
            round, carriers = self.common_round, self.common
        if round <= self.absorbed.get(client_id, NEVER):
            return NEVER, None
        return round, carriers

    def confirm(self, client_id: int, round: int) -> None:
        """Note that a client absorbed what was fused in this round."""
        self.absorbed[client_id] = max(round, self.absorbed.get(client_id, NEVER))
        if client_id in self.personal and self.personal[client_id][0] <= round:
            del self.personal[client_id]

    def keep_what_is_left(self) -> None:
        """Copy what clients have not absorbed, because views of it keep what all others got in memory."""
        for client_id, (round, carriers) in self.personal.items():
            self.personal[client_id] = (round, _plain(carriers))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        return {
            "common": None if self.common is None else _plain(self.common),
            "common_round": self.common_round,
            "personal": {client: (round, _plain(carriers)) for client, (round, carriers) in self.personal.items()},
            "absorbed": dict(self.absorbed),
        }


def _pack(carriers: Mapping[str, Tensors], encoding: Encoding) -> dict[str, Tensors]:
    packed = dict(carriers)
    if "soft_labels" in carriers:
        tensors = carriers["soft_labels"]
        packed["soft_labels"] = encoding.encode(pack_fused(tensors), len(tensors["mask"]))
    return packed


def _plain(carriers: Mapping[str, Tensors]) -> dict[str, dict[str, Tensor]]:
    # A clone: a view would take its whole underlying stack into the file.
    return {
        carrier: {name: tensor.clone() for name, tensor in tensors.items()} for carrier, tensors in carriers.items()
    }
