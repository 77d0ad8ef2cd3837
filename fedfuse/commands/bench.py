"""``fedfuse bench``: the same work by fedfuse, a plain loop, Flower's Ray runtime and pfl-research, side by side."""

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedfuse.benchmark.cells import MODELS, WORKS, cells_of
from fedfuse.commands.parser import Commands
from fedfuse.errors import ConfigurationError, unknown_name

CLIENTS, REPEATS = (100,), 3
QUICK_MODELS, QUICK_CLIENTS, QUICK_REPEATS = ("mlp64",), (100,), 2

EXAMPLES = """\
It writes bench.json and bench.png. Compare ratios, and let nothing else run on the machine.

examples:
  fedfuse bench                                    some minutes
  fedfuse bench --quick                            about a minute
  fedfuse bench --clients 10 100 1000 --repeats 5  everything
  fedfuse bench --models lenet --work round        whole rounds of one model
"""


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast fedfuse is, beside a plain loop and other simulators",
        description="Measure local training, distillation and whole KnFu rounds, of everybody in turns.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help=f"of {', '.join(MODELS)}; all without")
    parser.add_argument("--work", nargs="+", metavar="NAME", help=f"of {', '.join(WORKS)}; all without")
    parser.add_argument("--clients", nargs="+", metavar="N", help=f"how many; {_list(CLIENTS)} without")
    parser.add_argument("--repeats", metavar="N", help=f"how often, after once to warm up; {REPEATS} without")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new or empty directory; one in outputs/ without")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"without other words: {_list(QUICK_MODELS)}, {_list(QUICK_CLIENTS)} clients, {QUICK_REPEATS} repeats",
    )


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Measure what the words say."""
    if rest:
        options = ("--models", "--work", "--clients", "--repeats", "--output", "--quick", "--help")
        raise unknown_name("option" if rest[0].startswith("-") else "argument", rest[0], options)
    quick = arguments.quick
    models = _names("model", arguments.models or (QUICK_MODELS if quick else MODELS), MODELS)
    works = _names("work", arguments.work or WORKS, WORKS)
    clients = [
        _number("--clients", word) for word in arguments.clients or map(str, QUICK_CLIENTS if quick else CLIENTS)
    ]
    repeats = _number("--repeats", arguments.repeats or str(QUICK_REPEATS if quick else REPEATS))
    cells = list(cells_of(models, works, dict.fromkeys(clients), repeats))

    # Slow to import, because of torch: not before all errors above are found.
    from rich.console import Console

    from fedfuse.benchmark.measured import Outcome
    from fedfuse.benchmark.record import LOG_FILE, write_figure, write_json
    from fedfuse.benchmark.referee import hold, opponents_for
    from fedfuse.benchmark.table import print_line, print_outcomes, progress_line

    directory = _open_directory(arguments.output)
    console = Console()
    print_line(console, f"{len(cells)} cells, each measured {repeats} times after once to warm up, in {directory}")
    outcomes: list[Outcome] = []
    with opponents_for(works, directory / LOG_FILE) as opponents:
        for outcome in hold(cells, opponents):
            outcomes.append(outcome)
            write_json(directory, outcomes)
            print_line(console, progress_line(len(outcomes), len(cells), outcome))
    write_figure(directory, outcomes)
    print_outcomes(console, outcomes)
    print_line(console, f"Files: {directory}")
    return 0


def _names(kind: str, words: Iterable[str], allowed: Iterable[str]) -> tuple[str, ...]:
    words, allowed = tuple(dict.fromkeys(words)), tuple(allowed)
    for word in words:
        if word not in allowed:
            raise unknown_name(kind, word, allowed)
    return words


def _number(option: str, word: str) -> int:
    if not (word.isdecimal() and int(word) > 0):
        raise ConfigurationError(f"{option} must be a whole number of at least 1, not {word!r}.")
    return int(word)


def _open_directory(output: Path | None) -> Path:
    from fedfuse.results import is_new_or_empty, new_directory

    if output is None:
        return new_directory(Path("outputs", "bench"))
    if not is_new_or_empty(output):
        raise ConfigurationError(f"{output} exists and is not empty: name another directory.")
    output.mkdir(parents=True, exist_ok=True)
    return output


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
