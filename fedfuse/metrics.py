"""What a round was, in numbers: each client's metrics, who was left out, how a measure is spread over clients.

Accuracies are fractions, 0 to 1. What is not known, or not finite, is None: never NaN.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClientMetrics:
    """How good one client was at the end of one round; None where it did not tell.

    Parameters
    ----------
    client_id : int
        Who.
    personal_accuracy : float or None
        Accuracy of the personal predictor on the client's own test data.
    general_accuracy : float or None
        Accuracy of the general predictor on the global test set, which no client trains on.
    validation_accuracy : float or None
        Accuracy of the personal predictor on the client's validation data.
    personal_loss : float or None
        Mean cross-entropy in nats where the personal accuracy was measured. A loss that is not finite counts
        as unknown.
    """

    client_id: int
    personal_accuracy: float | None
    general_accuracy: float | None
    validation_accuracy: float | None
    personal_loss: float | None


@dataclass(frozen=True)
class LeftOut:
    """A client whose reply was not used: in which phase (``share``, ``absorb`` or ``describe``), and why."""

    client_id: int
    phase: str
    reason: str


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """Everything that is recorded of one round.

    Parameters
    ----------
    round : int
        Counted from 1.
    clients : tuple of ClientMetrics
        The participants that answered, by id.
    left_out : tuple of LeftOut
        The participants that did not, or whose answer was refused.
    bytes_up, bytes_down : int
        Bytes of knowledge from all clients to the server, and back.
    seconds : mapping of str to float
        Time of each verb (learn, express, protect, absorb, evaluate) summed over the clients, of the server's ``fuse``,
        and the wall time of the whole ``round``.
    relevance : ndarray or None
        ``[n, n]``, rows sum to one: how much each client (row) listened to each client (column).
    relevance_clients : tuple of int
        The ids of the ``n`` clients of the rows and columns of ``relevance``.
    """

    round: int
    clients: tuple[ClientMetrics, ...]
    left_out: tuple[LeftOut, ...]
    bytes_up: int
    bytes_down: int
    seconds: Mapping[str, float]
    relevance: NDArray[np.floating[Any]] | None
    relevance_clients: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """How a measure is spread over clients.

    Parameters
    ----------
    mean, std : float
        Mean and population standard deviation; every client counts the same.
    worst : float
        The lowest value.
    worst_10_percent : float
        The mean of the ``ceil(n / 10)`` lowest values.
    """

    mean: float
    std: float
    worst: float
    worst_10_percent: float


def summarise(values: Sequence[float]) -> Spread:
    """Summarise one measure over clients.

    Raises
    ------
    ValueError
        If there are no values.
    """
    if len(values) == 0:
        raise ValueError("there is nothing to summarise: no client has a value")
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    num_worst = -(-len(ascending) // 10)  # ceil(0.1 n) in floating point is 4 for n = 30
    return Spread(
        mean=float(ascending.mean()),
        std=float(ascending.std()),
        worst=float(ascending[0]),
        worst_10_percent=float(ascending[:num_worst].mean()),
    )


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Summarise the values that are known; None if none is."""
    known = [value for value in map(known_or_none, values) if value is not None]
    return summarise(known) if known else None


def without_metrics(record: RoundRecord) -> RoundRecord:
    """Keep who took part, and nothing of how good each was."""
    names = [field.name for field in fields(ClientMetrics) if field.name != "client_id"]
    unknown = dict.fromkeys(names)
    return replace(record, clients=tuple(replace(client, **unknown) for client in record.clients))  # type: ignore[arg-type]


def round_metrics(record: RoundRecord, only_means: bool = False) -> dict[str, Any]:
    """Make the flat line of ``metrics.jsonl`` for one round; what is unknown is None, never NaN.

    With ``only_means``, everything but the means over clients counts as unknown.

    Returns
    -------
    dict
        ``round``, ``participants`` (how many answered), ``left_out`` (a dict a client), ``personal_`` and
        ``general_`` followed by ``mean``, ``std``, ``worst`` and ``worst_10_percent``, ``validation_mean``,
        ``bytes_up``, ``bytes_down`` and ``seconds`` by verb.
    """
    validation = spread_of(client.validation_accuracy for client in record.clients)
    return {
        "round": record.round,
        "participants": len(record.clients),
        "left_out": [asdict(left_out) for left_out in record.left_out],
        **_flat_of(record, "personal", only_means),
        **_flat_of(record, "general", only_means),
        "validation_mean": None if validation is None else validation.mean,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "seconds": {verb: float(seconds) for verb, seconds in record.seconds.items()},
    }


def _flat_of(record: RoundRecord, prefix: str, only_means: bool) -> dict[str, float | None]:
    numbers = flat(prefix, spread_of(getattr(client, f"{prefix}_accuracy") for client in record.clients))
    mean = f"{prefix}_mean"
    return {name: value if name == mean or not only_means else None for name, value in numbers.items()}


def flat(prefix: str, spread: Spread | None) -> dict[str, float | None]:
    """Name the numbers of a spread ``<prefix>_mean`` and so on; all None without a spread."""
    return {
        f"{prefix}_{field.name}": None if spread is None else getattr(spread, field.name) for field in fields(Spread)
    }


def known_or_none(value: float | None) -> float | None:
    """Return a value that is a finite number, else None."""
    return float(value) if value is not None and math.isfinite(value) else None
