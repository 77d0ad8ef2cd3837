"""Everything of a client that must survive between messages, and where it is kept, in generations.

Share r starts from the newest generation before it and writes ``(r, SHARED)``; absorb r starts from ``(r, SHARED)``
and writes ``(r, ABSORBED)``. The last two are kept, so repeating the last message repeats its reply.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fedfuse.knowledge import Tensors, is_finite
from fedfuse.privacy.keystream import KEY_BYTES

SHARED, ABSORBED = 0, 1
KEPT_GENERATIONS = 2


class Generation(NamedTuple):
    """A moment in a client's life: a round, and which of its phases was finished."""

    round: int
    phase: int


@dataclass(frozen=True)
class PrivacyState:
    """What a client must not forget of its own protection.

    Parameters
    ----------
    key : bytes
        What its noise is drawn from; it never leaves the client.
    answered : str
        The digest of the request that it answered last: another one for the same round would release more.
    spent : tuple[tuple[float, float, int], ...]
        How its private training was done so far: sampling rate, noise multiplier, and number of such steps.
    """

    key: bytes = bytes(KEY_BYTES)
    answered: str = ""
    spent: tuple[tuple[float, float, int], ...] = ()


@dataclass(frozen=True)
class ClientState:
    """What one client has become.

    Parameters
    ----------
    parameters : Tensors
        The model's parameters and buffers.
    objective_state : Tensors
        What the objectives remember, see `fedfuse.client.fit.FitJob`.
    received : Mapping[str, Tensors]
        Fused knowledge that later rounds need, by carrier.
    absorbed_round : int
        The round of the fused knowledge absorbed last; -1 before any.
    privacy : PrivacyState
        What it must remember of its own protection.
    """

    parameters: Tensors
    objective_state: Tensors = field(default_factory=dict)
    received: Mapping[str, Tensors] = field(default_factory=dict)
    absorbed_round: int = -1
    privacy: PrivacyState = field(default_factory=PrivacyState)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and tensors, which `torch.save` writes and reads without pickled code."""
        return {
            "parameters": dict(self.parameters),
            "objective_state": dict(self.objective_state),
            "received": {carrier: dict(tensors) for carrier, tensors in self.received.items()},
            "absorbed_round": self.absorbed_round,
            "privacy": dict(vars(self.privacy)),
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> "ClientState":
        """Read what `to_dict` gave."""
        return ClientState(**{**plain, "privacy": PrivacyState(**plain["privacy"])})


class StateStore(Protocol):
    """Where the states of clients are kept."""

    def load(self, client_id: int, generation: Generation) -> ClientState | None:
        """Return exactly this generation, or nothing."""
        ...

    def load_before(self, client_id: int, generation: Generation) -> ClientState | None:
        """Return the newest generation before this one, or nothing for a client that has none."""
        ...

    def newest(self, client_id: int) -> Generation | None:
        """Return the newest generation that there is, or nothing for a client that has none."""
        ...

    def save(self, client_id: int, generation: Generation, state: ClientState) -> None:
        """Keep this generation, replacing it and whatever came after it; older ones than the last two are dropped."""
        ...


class MemoryStore:
    """Keeps states in this process."""

    def __init__(self) -> None:
        self._states: dict[int, dict[Generation, ClientState]] = {}

    def load(self, client_id: int, generation: Generation) -> ClientState | None:
        """See `StateStore.load`."""
        return self._states.get(client_id, {}).get(generation)

    def load_before(self, client_id: int, generation: Generation) -> ClientState | None:
        """See `StateStore.load_before`."""
        states = self._states.get(client_id, {})
        earlier = [other for other in states if other < generation]
        return states[max(earlier)] if earlier else None

    def newest(self, client_id: int) -> Generation | None:
        """See `StateStore.newest`."""
        return max(self._states.get(client_id, {}), default=None)

    def save(self, client_id: int, generation: Generation, state: ClientState) -> None:
        """See `StateStore.save`."""
        states = self._states.get(client_id, {})
        kept = sorted(other for other in states if other < generation)[-(KEPT_GENERATIONS - 1) :]
        self._states[client_id] = {other: states[other] for other in kept} | {generation: state}


class DirectoryStore:
    """Keeps states in a directory, a file for each client and generation, so that they outlive the process.

    Parameters
    ----------
    directory : Path
        Made if it is missing. Its owner alone may read it: a model tells of the data it learnt from.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A directory that was there already may be open to others.
        directory.chmod(0o700)
        self._directory = directory

    def load(self, client_id: int, generation: Generation) -> ClientState | None:
        """See `StateStore.load`."""
        path = self._path(client_id, generation)
        return ClientState.from_dict(torch.load(path, weights_only=True)) if path.exists() else None

    def load_before(self, client_id: int, generation: Generation) -> ClientState | None:
        """See `StateStore.load_before`."""
        earlier = [other for other in self._generations(client_id) if other < generation]
        return self.load(client_id, max(earlier)) if earlier else None

    def newest(self, client_id: int) -> Generation | None:
        """See `StateStore.newest`."""
        return max(self._generations(client_id), default=None)

    def save(self, client_id: int, generation: Generation, state: ClientState) -> None:
        """See `StateStore.save`. The file appears whole or not at all."""
        path = self._path(client_id, generation)
        partial = path.with_suffix(".partial")
        torch.save(state.to_dict(), partial)
        partial.replace(path)
        generations = self._generations(client_id)
        kept = [other for other in generations if other <= generation][-KEPT_GENERATIONS:]
        for other in generations:
            if other not in kept:
                self._path(client_id, other).unlink(missing_ok=True)

    def _path(self, client_id: int, generation: Generation) -> Path:
        phase = "absorbed" if generation.phase == ABSORBED else "shared"
        return self._directory / f"client-{client_id:06d}.{generation.round:06d}.{phase}.pt"

    def _generations(self, client_id: int) -> list[Generation]:
        found = []
        for path in self._directory.glob(f"client-{client_id:06d}.*.pt"):
            _, round, phase = path.stem.split(".")
            found.append(Generation(int(round), ABSORBED if phase == "absorbed" else SHARED))
        return sorted(found)


def parameters_are_finite(parameters: Mapping[str, Tensor]) -> bool:
    """Tell whether no tensor holds a NaN, an infinity or a number that only a diverged model has."""
    return all(is_finite(tensor) for tensor in parameters.values())
