"""The numbers of a round under the names that every tracker gives them."""

from collections.abc import Mapping
from typing import Any

NOT_SPREAD = ("round", "participants", "left_out")


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of one round in groups, so that a tracker shows what belongs together side by side.

    Parameters
    ----------
    metrics : mapping
        A line of ``metrics.jsonl``, see `fedfuse.metrics.round_metrics`.

    Returns
    -------
    dict
        ``personal/mean``, ``general/worst``, ``bytes/up``, ``seconds/learn`` and so on; ``clients/participants`` and
        ``clients/left_out`` are how many. What is unknown is left out.
    """
    values: dict[str, float] = {
        "clients/participants": metrics["participants"],
        "clients/left_out": len(metrics["left_out"]),
    }
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            values |= {f"{name}/{part}": number for part, number in value.items() if number is not None}
        elif name not in NOT_SPREAD and isinstance(value, int | float):
            values[grouped(name)] = value
    return values


def grouped(name: str) -> str:
    """Turn the name of a metric into that of a scalar: ``personal_worst_10_percent``, ``personal/worst_10_percent``."""
    return name.replace("_", "/", 1)
