"""What a comparison consists of: a run for every combination of what was asked for, and its baselines."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedfuse.composition import compose, expand
from fedfuse.configuration import Configuration, to_yaml
from fedfuse.errors import ConfigurationError
from fedfuse.results import is_new_or_empty, new_directory, write_text

PLAN_FILE = "plan.json"
RUNS = "runs"
LOCAL = "local"
"""The strategy that every other one is compared with."""

BUDGET = ("num_rounds", "learn", "absorb")
LONGEST_FOLDER = 80  # characters; a longer name is cut


@dataclass(frozen=True)
class Run:
    """One combination.

    Parameters
    ----------
    folder : str
        Its directory, below ``runs`` of the comparison.
    overrides : tuple of str
        What it is composed from.
    method : str
        The strategy, with whatever else of the method was varied: ``knfu divergence=kl``.
    setting : tuple of str
        The other overrides that were varied, but for the seed: ``("partition.alpha=0.1",)``.
    seed, num_rounds, threads : int
        Of its configuration.
    engine : str
        What executes it.
    """

    folder: str
    overrides: tuple[str, ...]
    method: str
    setting: tuple[str, ...]
    seed: int
    num_rounds: int
    threads: int
    engine: str = "local"


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison, in the order in which they are run.

    Parameters
    ----------
    words : tuple of str
        The overrides that were asked for.
    config_dir : str or None
        The folder with the user's own parts.
    runs : tuple of Run
        Seed by seed, so that all methods can be compared early.
    notes : tuple of str
        What a reader must know to judge the comparison.
    """

    words: tuple[str, ...]
    config_dir: str | None
    runs: tuple[Run, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Combination:
    """One combination before it is composed; ``varied`` are those of its overrides that have several values."""

    overrides: tuple[str, ...]
    varied: tuple[str, ...]

    @property
    def strategy(self) -> str | None:
        """The strategy that is named, if any."""
        named = [word.partition("=")[2] for word in self.overrides if key_of(word) == "strategy"]
        return named[-1] if named else None


def make_plan(words: Sequence[str], config_dir: Path | None = None) -> Plan:
    """List every combination, and `LOCAL` in every setting.

    Parameters
    ----------
    words : sequence of str
        Overrides, of which some have several values: ``strategy=fedmd,knfu``, ``seed=0,1,2``.
    config_dir : Path, optional
        A folder of the user's own, see `fedfuse.composition.compose`.

    Raises
    ------
    ConfigurationError
        If one of the combinations cannot be composed, or if two are the same run.
    """
    combinations = _combinations(words)
    # What is trained alone has no strategy to vary and sends nothing to protect or to attack: those overrides are not
    # for it.
    baselines = dict.fromkeys(map(_baseline, combinations))
    others = [one for one in combinations if one.strategy != LOCAL]
    composed = [(one, _compose(one, config_dir)) for one in (*baselines, *others)]
    _refuse_repetition(composed)
    composed = _seed_by_seed(composed)
    folders = _folders([(configuration, one.varied) for one, configuration in composed])
    runs = tuple(
        Run(
            folder=folder,
            overrides=one.overrides,
            method=_method(configuration, one.varied),
            setting=_setting(one.varied),
            seed=configuration.seed,
            num_rounds=configuration.num_rounds,
            threads=configuration.engine.threads,
            engine=configuration.engine.name,
        )
        for folder, (one, configuration) in zip(folders, composed, strict=True)
    )
    notes = [] if len(others) < len(combinations) else [f"strategy={LOCAL} was added: all others are compared with it."]
    notes += _budget_notes(runs)
    return Plan(tuple(words), None if config_dir is None else str(config_dir.resolve()), runs, tuple(notes))


def key_of(override: str) -> str:
    """Read the key of an override: ``strategy.strength`` of ``++strategy.strength=2``."""
    return override.partition("=")[0].lstrip("+")


def open_directory(plan: Plan, output: Path | None) -> Path:
    """Make the directory of a comparison and write its plan there, or find that it was begun there.

    Parameters
    ----------
    plan : Plan
        What is to be run.
    output : Path or None
        Where; None makes a new directory ``outputs/compare/<YYYY-MM-DD_HH-MM-SS>-<n>``.

    Raises
    ------
    ConfigurationError
        If ``output`` holds anything but this comparison.
    """
    if output is None:
        output = new_directory(Path("outputs", "compare"))
    elif (output / PLAN_FILE).is_file():
        begun = read_plan(output)
        if (begun.words, begun.config_dir) != (plan.words, plan.config_dir):
            raise ConfigurationError(
                f"output={output} holds another comparison, of {shlex.join(begun.words) or 'the defaults'}. Use "
                f"resume={output} to continue that one, or name another directory."
            )
        return output
    elif not is_new_or_empty(output):
        raise ConfigurationError(f"output={output} exists and holds no comparison: name another directory.")
    write_text(output, PLAN_FILE, json.dumps(asdict(plan), indent=2) + "\n")
    return output


def read_plan(directory: Path) -> Plan:
    """Read the plan of a comparison.

    Raises
    ------
    ConfigurationError
        If there is none, or it cannot be read.
    """
    path = directory / PLAN_FILE
    if not path.is_file():
        is_run = (directory / "config.yaml").is_file()
        hint = f" It is a run: fedfuse run resume={directory}" if is_run else ""
        raise ConfigurationError(f"No {PLAN_FILE} in {directory}: it is not the directory of a comparison.{hint}")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        runs = tuple(_read_run(run) for run in plain["runs"])
        return Plan(tuple(plain["words"]), plain["config_dir"], runs, tuple(plain["notes"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} cannot be read as the plan of a comparison.") from error


def _read_run(plain: Mapping[str, Any]) -> Run:
    return Run(**{**plain, "overrides": tuple(plain["overrides"]), "setting": tuple(plain["setting"])})


def _combinations(words: Sequence[str]) -> list[_Combination]:
    expanded = expand(words)
    is_varied = [len(set(values)) > 1 for values in zip(*expanded, strict=True)]
    return [
        _Combination(tuple(overrides), tuple(word for word, varied in zip(overrides, is_varied, strict=True) if varied))
        for overrides in expanded
    ]


def _baseline(one: _Combination) -> _Combination:
    overrides = [word for word in one.overrides if not _is_of_method(word)]
    varied = [word for word in one.varied if not _is_of_method(word)]
    return _Combination((*overrides, f"strategy={LOCAL}"), tuple(varied))


def _is_of_method(override: str) -> bool:
    """Say whether it belongs to what is compared, rather than to the setting in which all are compared."""
    return re.split(r"[./\[]", key_of(override))[0] in ("strategy", "privacy", "encoding", "audit")


def _compose(one: _Combination, config_dir: Path | None) -> Configuration:
    try:
        # The baseline is a run of its own here.
        return compose([*one.overrides, "local_baseline=false"], config_dir)
    except ConfigurationError as error:
        where = f" (in {' '.join(one.overrides)})" if one.varied else ""
        raise ConfigurationError(f"{error}{where}") from error


def _refuse_repetition(composed: Iterable[tuple[_Combination, Configuration]]) -> None:
    """Refuse to count one result twice."""
    seen: dict[str, _Combination] = {}
    for one, configuration in composed:
        first = seen.setdefault(to_yaml(configuration), one)
        if first is not one:
            same = f"{' '.join(first.overrides)} and {' '.join(one.overrides)}"
            raise ConfigurationError(f"Two combinations are the same run: {same}. Give each value of a key once.")


def _seed_by_seed(composed: list[tuple[_Combination, Configuration]]) -> list[tuple[_Combination, Configuration]]:
    """Order by seed, then by setting as asked for; the baselines stay before all others."""
    seeds = list(dict.fromkeys(configuration.seed for _, configuration in composed))
    settings = list(dict.fromkeys(_setting(one.varied) for one, _ in composed))
    return sorted(composed, key=lambda pair: (seeds.index(pair[1].seed), settings.index(_setting(pair[0].varied))))


def _setting(varied: Iterable[str]) -> tuple[str, ...]:
    return tuple(word.lstrip("+") for word in varied if key_of(word) != "seed" and not _is_of_method(word))


def _method(configuration: Configuration, varied: Iterable[str]) -> str:
    words = [word.lstrip("+") for word in varied if _is_of_method(word) and key_of(word) != "strategy"]
    return " ".join([configuration.strategy.name, *(word.removeprefix("strategy.") for word in words)])


def _folders(parts: Sequence[tuple[Configuration, tuple[str, ...]]]) -> list[str]:
    """Name the directory of each run: ``knfu-alpha=0.1-seed=0``."""
    keys = {key_of(word) for _, varied in parts for word in varied}
    endings = [key.rpartition(".")[2] for key in keys]
    short = {key: ending if endings.count(ending := key.rpartition(".")[2]) == 1 else key for key in keys}
    folders: list[str] = []
    for configuration, varied in parts:
        words = [word for word in varied if key_of(word) not in ("strategy", "seed")]
        values = [f"{short[key_of(word)]}={word.partition('=')[2]}" for word in words]
        name = "-".join([configuration.strategy.name, *values, f"seed={configuration.seed}"])
        folders.append(_safe_name(name, folders))
    return folders


def _safe_name(name: str, taken: Iterable[str]) -> str:
    """Make a name that every file system can hold, and that no other run has; a digest stands for what is lost."""
    safe = re.sub(r"[^\w.=+-]+", "_", name, flags=re.ASCII)[:LONGEST_FOLDER]
    if safe == name and safe.lower() not in {other.lower() for other in taken}:
        return safe
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _budget_notes(runs: Sequence[Run]) -> list[str]:
    """Say that settings differ in how long they train; within one, all methods have the same budget."""
    keys = dict.fromkeys(key_of(word) for run in runs for word in run.setting)
    budget = [key for key in keys if key.partition(".")[0] in BUDGET]
    if not budget:
        return []
    return [f"The settings differ in their budget ({', '.join(budget)}): compare methods within a setting only."]
