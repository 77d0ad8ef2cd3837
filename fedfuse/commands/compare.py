"""``fedfuse compare``: every combination of strategies, settings and seeds side by side, against local training."""

import shlex
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedfuse.commands.parser import Commands, add_config_dir
from fedfuse.compare.plan import Plan, key_of, make_plan, open_directory, read_plan
from fedfuse.composition import compose, expand
from fedfuse.errors import ConfigurationError, unknown_name

FAILED = 1
WIDTH_OF_A_PIPE = 120  # characters, so that no cell is folded

EXAMPLES = """\
Whatever has several values is varied. strategy=local is always one of the methods: all others are compared with it,
seed by seed. The runs share partitions and initial weights, which follow from the seed.

examples:
  fedfuse compare strategy=fedmd,knfu seed=0,1,2                          two methods against local training
  fedfuse compare strategy=fedmd,knfu seed=0,1,2 partition.alpha=0.1,1    in two settings
  fedfuse compare strategy=knfu strategy.divergence=kl,js seed=0,1,2      two variants of one strategy
  fedfuse compare strategy=fedavg,knfu model=mlp_small seed=0,1 jobs=2    two runs at a time
  fedfuse compare strategy=fedmd,knfu seed=0,1 output=mine                in a directory of this name
  fedfuse compare resume=mine                                             run what is missing there
"""


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "compare",
        help="run strategies side by side over seeds and settings, and test the differences",
        description="Run every combination, each in a process of its own, and compare the methods over seeds.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="key=value or key=a,b,c, as for fedfuse run; jobs=N; output=DIR")
    add_config_dir(parser)


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Run and compare what the words say."""
    options = [word for word in rest if word.startswith("-")]
    if options:
        raise unknown_name("option", options[0], ("--config-dir", "--help"))
    words = [*arguments.overrides, *rest]  # argparse leaves those that follow an option in the rest
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in ("jobs", "resume")}
    words = [word for word in words if key_of(word) not in ("jobs", "resume")]
    jobs = _jobs(own.get("jobs", "1"))
    if "resume" in own:
        if words or arguments.config_dir:
            raise ConfigurationError(f"resume=DIR goes with jobs=N only, not with {[*words, '--config-dir'][0]}.")
        directory = Path(own["resume"])
        plan = read_plan(directory)
    else:
        output = _output(words)
        plan = make_plan([word for word in words if key_of(word) != "output"], arguments.config_dir)
        directory = open_directory(plan, output)
    return _carry_out(directory, plan, jobs)


def _carry_out(directory: Path, plan: Plan, jobs: int) -> int:
    # Slow to import, because of the page and its figure: not before all errors above are found.
    from rich.console import Console

    from fedfuse.compare.display import make_display, print_comparison, print_line
    from fedfuse.compare.execution import carry_out
    from fedfuse.compare.outcome import read_measures
    from fedfuse.compare.processes import claim, start_process
    from fedfuse.compare.report import read_comparison
    from fedfuse.compare.table import error_lines
    from fedfuse.compare.warm_start import prepare

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_A_PIPE
    prepare()
    with claim(directory) as lock:
        num_finished = sum(read_measures(directory, run) is not None for run in plan.runs)
        already = f", of which {num_finished} have finished" if num_finished else ""
        print_line(console, f"{len(plan.runs)} runs{already}, {jobs} at a time, in {directory}")
        for note in plan.notes:
            print_line(console, note)
        try:
            with make_display(console) as display:
                start = partial(start_process, directory, plan, lock, jobs)
                comparison = carry_out(directory, plan, jobs, start, display)
        except KeyboardInterrupt:
            print_comparison(console, read_comparison(directory, plan), directory)
            print_line(console, f"Interrupted. To continue: fedfuse compare {shlex.quote(f'resume={directory}')}")
            raise
    print_comparison(console, comparison, directory)
    if error_lines(comparison):
        print_line(console, f"To try again what failed: fedfuse compare {shlex.quote(f'resume={directory}')}")
        return FAILED
    return 0


def _jobs(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise ConfigurationError(f"jobs must be a whole number of at least 1, not {text!r}.")
    return int(text)


def _output(words: Sequence[str]) -> Path | None:
    """Find the directory that is asked for."""
    named = [word for word in words if key_of(word) == "output"]
    if len(expand(named)) > 1:
        raise ConfigurationError(f"{named[-1]} names several directories: a comparison has one.")
    output = compose(named).output
    return None if output is None else Path(output)
