"""The numbers of a comparison: for every method in every setting, means over seeds and the difference to local only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fedfuse.compare.outcome import Measures, Outcome
from fedfuse.compare.plan import LOCAL, Plan, Run
from fedfuse.compare.statistics import Difference, Estimate, estimate, holm, paired_difference

MEASURES = tuple(field.name for field in fields(Measures))
ACCURACIES = ("own_test", "global_test", "worst_10_percent")
"""The measures that methods are compared by with `LOCAL`."""


@dataclass(frozen=True)
class Row:
    """One method in one setting.

    Parameters
    ----------
    method : str
        Its name.
    runs : tuple of Run
        One a seed.
    num_finished : int
        How many of them have finished.
    errors : tuple of str
        Why others have failed.
    estimates : mapping of str to Estimate or None
        Every one of `MEASURES`, over the seeds that have finished.
    differences : mapping of str to Difference or None
        Every one of `ACCURACIES` compared with `LOCAL`, over the seeds that both have finished; empty for `LOCAL`.
    """

    method: str
    runs: tuple[Run, ...]
    num_finished: int
    errors: tuple[str, ...]
    estimates: Mapping[str, Estimate | None]
    differences: Mapping[str, Difference | None]


@dataclass(frozen=True)
class Block:
    """All methods in one setting, `LOCAL` first; the setting is empty where nothing but methods and seeds differ."""

    setting: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """All settings of a comparison, what a reader must know to judge it, and every single run."""

    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    runs: tuple[tuple[Run, Outcome], ...]


def make_comparison(plan: Plan, outcomes: Mapping[str, Outcome]) -> Comparison:
    """Compare what has finished so far.

    Parameters
    ----------
    plan : Plan
        All runs.
    outcomes : mapping of str to Outcome
        What became of them, by folder.
    """
    settings = dict.fromkeys(run.setting for run in plan.runs)
    blocks = []
    for setting in settings:
        runs = [run for run in plan.runs if run.setting == setting]
        methods = {method: [run for run in runs if run.method == method] for method in _local_first(runs)}
        rows = [_row(method, of_method, methods[LOCAL], outcomes) for method, of_method in methods.items()]
        blocks.append(Block(setting, tuple(_adjusted(rows))))
    return Comparison(tuple(blocks), plan.notes, tuple((run, outcomes[run.folder]) for run in plan.runs))


def to_plain(comparison: Comparison) -> dict[str, Any]:
    """Turn a comparison into what JSON can hold: ``settings`` with their methods, ``runs`` and ``notes``."""
    settings = []
    for block in comparison.blocks:
        methods = [asdict(row) | {"runs": [run.folder for run in row.runs]} for row in block.rows]
        settings.append({"setting": list(block.setting), "methods": methods})
    runs = [asdict(run) | asdict(outcome) for run, outcome in comparison.runs]
    return {"settings": settings, "runs": runs, "notes": list(comparison.notes)}


def _local_first(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys([LOCAL, *(run.method for run in runs)]))


def _row(method: str, runs: Sequence[Run], local: Sequence[Run], outcomes: Mapping[str, Outcome]) -> Row:
    own, base = _by_seed(runs, outcomes), _by_seed(local, outcomes)
    errors = (outcomes[run.folder].error for run in runs)
    return Row(
        method=method,
        runs=tuple(runs),
        num_finished=len(own),
        errors=tuple(dict.fromkeys(error for error in errors if error is not None)),
        estimates={name: estimate(_known(own, name, own)) for name in MEASURES},
        differences={} if method == LOCAL else {name: _difference(own, base, name) for name in ACCURACIES},
    )


def _by_seed(runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> dict[int, Measures]:
    measured = {run.seed: outcomes[run.folder].measures for run in runs}
    return {seed: measures for seed, measures in measured.items() if measures is not None}


def _known(by_seed: Mapping[int, Measures], name: str, seeds: Sequence[int] | Mapping[int, Measures]) -> list[float]:
    values = [getattr(by_seed[seed], name) for seed in seeds]
    return [value for value in values if value is not None]


def _difference(own: Mapping[int, Measures], base: Mapping[int, Measures], name: str) -> Difference | None:
    seeds = [
        seed
        for seed in own
        if seed in base and getattr(own[seed], name) is not None and getattr(base[seed], name) is not None
    ]
    return paired_difference(_known(own, name, seeds), _known(base, name, seeds))


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """Adjust the tests of one setting for how many methods it has, each measure for itself."""
    adjusted: list[dict[str, Difference | None]] = [dict(row.differences) for row in rows]
    for name in ACCURACIES:
        tested = [
            (differences, difference, difference.p)
            for differences in adjusted
            if (difference := differences.get(name)) is not None and difference.p is not None
        ]
        for (differences, difference, _), p in zip(tested, holm([p for _, _, p in tested]), strict=True):
            differences[name] = replace(difference, adjusted_p=p)
    return [replace(row, differences=differences) for row, differences in zip(rows, adjusted, strict=True)]
