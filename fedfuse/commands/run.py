"""``fedfuse run``: simulate a federation, every combination of several, or what is left of one that was stopped."""

import os
import shlex
import subprocess
import sys
import textwrap
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from fedfuse import catalogue
from fedfuse.commands.list import CARRIER, TABLES
from fedfuse.commands.parser import Commands, add_config_dir
from fedfuse.composition import compose, expand, quote
from fedfuse.errors import ConfigurationError, unknown_name

RUN_EXAMPLES = """\
examples:
  fedfuse run                                              all defaults, on a data set that needs no download
  fedfuse run strategy=fedavg model=mlp_small              another strategy, one model for all clients
  fedfuse run partition.alpha=0.1 num_clients=20 seed=3    fewer classes a client, more clients, another seed
  fedfuse run 'model=[mlp_small,{name: cnn_small, channels: [4, 8]}]' 'privacy=[swing]'
  fedfuse run -m strategy=knfu,local seed=0,1,2            six runs, one after another
  fedfuse run output=my_run                                write to my_run, not to a new directory in outputs/
  fedfuse run resume=my_run num_rounds=40                  go on where my_run stopped, up to round 40
  fedfuse run resume=my_run engine.workers=2               the same in two processes, with equal results
  fedfuse run strategy=custom strategy._target_=my_package.MyStrategy ++strategy.strength=2
"""


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "run",
        help="simulate a federation and write its results",
        description="Simulate a federation on this machine and write its results to a directory of its own.",
        epilog=f"{_groups()}\n{RUN_EXAMPLES}\n{_defaults()}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="key=value, or group=NAME; see below")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of a=1,2 b=3,4")
    add_config_dir(parser)


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Run what the words say."""
    options = [word for word in rest if word.startswith("-")]
    if options:
        raise unknown_name("option", options[0], ("-m", "--multirun", "--config-dir", "--help"))
    overrides = [*arguments.overrides, *rest]  # argparse leaves those that follow an option in the rest
    if any(override.startswith("resume=") for override in overrides):
        return _resume(overrides, arguments)
    if arguments.multirun:
        return _run_each(overrides, arguments.config_dir)
    configuration = compose(overrides, arguments.config_dir)
    from fedfuse.simulate import simulate  # slow, because of torch: not before all errors above are found

    simulate(configuration)
    return 0


def _resume(overrides: Sequence[str], arguments: Namespace) -> int:
    """Continue the run in a directory, which holds its configuration."""
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    directory = Path(given.pop("resume"))
    num_rounds, workers = given.pop("num_rounds", None), given.pop("engine.workers", None)
    if given or arguments.multirun or arguments.config_dir:
        other = next(iter(given), "-m" if arguments.multirun else "--config-dir")
        raise ConfigurationError(f"resume=DIR goes with num_rounds=N and engine.workers=N only, not with {other}.")
    for key, value in (("num_rounds", num_rounds), ("engine.workers", workers)):
        if value is not None and not (value.isdecimal() and int(value) > 0):
            raise ConfigurationError(f"{key} must be a whole number of at least 1, not {value!r}.")
    if not directory.is_dir():
        raise ConfigurationError(f"There is no run to resume in {str(directory)!r}: no such directory.")
    from fedfuse.simulate import resume  # slow, as in _run

    resume(directory, *(None if number is None else int(number) for number in (num_rounds, workers)))
    return 0


def _run_each(overrides: Sequence[str], config_dir: Path | None) -> int:
    """Run every combination, each in a process of its own; return the first exit code that is not 0."""
    combinations = expand(overrides)
    # All are composed before the first one runs, so that a mistake in the last one is found at once.
    configurations = [compose(combination, config_dir) for combination in combinations]
    exit_code = 0
    for index, (combination, configuration) in enumerate(zip(combinations, configurations, strict=True)):
        words = [f"--config-dir={config_dir}"] if config_dir else []
        words += [word for word in combination if not word.startswith("output=")]
        if configuration.output is not None:
            words.append(f"output={quote(f'{configuration.output}/{index}')}")
        sys.stdout.write(f"[{index + 1}/{len(combinations)}] fedfuse run {shlex.join(words)}\n")
        sys.stdout.flush()
        code = _run_process(words)
        exit_code = exit_code or code
    return exit_code


def _run_process(words: Sequence[str]) -> int:
    """Run one combination; its modules are searched exactly where those of this process are."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-P", "-m", "fedfuse", "run", *words], env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it is interrupted too, and saves its checkpoint first
        raise
    return code if code >= 0 else 128 - code


def _groups() -> str:
    """Say what can be chosen by name."""
    folders = catalogue.folders()
    groups = [group for table in TABLES.values() for group in table if group != CARRIER]
    lines = [
        textwrap.fill(
            ", ".join(catalogue.names(group, folders)),
            120,
            initial_indent=f"  {group:<16} ",
            subsequent_indent=" " * 19,
        )
        for group in groups
    ]
    return "\n".join(["chosen by name (see also fedfuse list):", *lines, ""])


def _defaults() -> str:
    """Show the keys of the main configuration as its file does: with their defaults and what they are for."""
    text = (catalogue.folders()[0] / "config.yaml").read_text(encoding="utf-8")
    values = text.partition("\n\n")[2].strip()  # what stands above is the list of parts
    return "\n".join(["keys and their defaults (inner ones with dots: learn.optimizer.lr=0.01):", values])
