"""How far fedfuse is above or below others in a finished comparison, seed by seed, and whether that is within a margin.

Usage: ``python simulations/flagship/margins.py DIR [METHOD...]`` with the directory of a `fedfuse compare`. Of the
methods that are named, the one that is best on average in a setting is taken; local training is always beside it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedfuse.compare.statistics import Difference, paired_difference

OURS, LOCAL = "fedfuse", "local"
MEASURES = {"own_test": "own test", "global_test": "global test"}
MARGIN = 0.005

Values = Mapping[str, Mapping[int, float]]


def main(directory: Path, others: Sequence[str]) -> None:
    """Print a table in Markdown: a line a setting, measure and other method."""
    runs = json.loads((directory / "comparison.json").read_text())["runs"]
    settings = list(dict.fromkeys(", ".join(run["setting"]) for run in runs))
    print("| setting | measure | against | difference | 95 % interval | not below by more than 0.5 |")
    print("|---|---|---|---:|---:|---|")
    for setting in settings:
        for measure, title in MEASURES.items():
            values: dict[str, dict[int, float]] = {}
            for run in runs:
                if ", ".join(run["setting"]) == setting and run["error"] is None:
                    values.setdefault(run["method"], {})[run["seed"]] = run["measures"][measure]
            best = max(others, key=lambda method: sum(values[method].values()) / len(values[method]))
            for other in [LOCAL, best] if measure == "own_test" else [best]:
                print(f"| {setting or 'all'} | {title} | {other} | {_in_words(_difference(values, other))} |")


def _difference(values: Values, other: str) -> Difference:
    seeds = sorted(values[OURS].keys() & values[other].keys())
    difference = paired_difference([values[OURS][seed] for seed in seeds], [values[other][seed] for seed in seeds])
    assert difference is not None, "the comparison has runs of both"
    return difference


def _in_words(difference: Difference) -> str:
    low, high = difference.low, difference.high
    if low is None or high is None:
        return f"{100 * difference.mean:+.1f} | - | -"
    # Below by less than the margin with 95 % confidence; else on average, or not at all.
    verdict = "yes" if low >= -MARGIN else "on average" if difference.mean >= -MARGIN else "no"
    return f"{100 * difference.mean:+.1f} | [{100 * low:+.1f}, {100 * high:+.1f}] | {verdict}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
