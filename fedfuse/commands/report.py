"""``fedfuse report DIR``: write the report of a run, or of a comparison, as one file of HTML."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from fedfuse.commands.parser import Commands
from fedfuse.errors import ConfigurationError, unknown_name


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "report",
        help="write report.html for a run or a comparison",
        description="Write report.html into the directory of a run, finished or not, or of a comparison. "
        "It is one file that needs nothing else: open it in a browser, or send it to somebody.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the run or the comparison wrote its files")


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Write the report and say where it is."""
    if rest:
        raise unknown_name("argument", rest[0], ("--help",))
    sys.stdout.write(f"{_write(arguments.directory)}\n")
    return 0


def _write(directory: Path) -> Path:
    from fedfuse.report import html, recorded_run  # slow, as what they read with is: not before the words are read

    if recorded_run.is_run(directory):
        return html.write_report(directory)
    if (directory / "plan.json").is_file():
        from fedfuse.compare.report import write_report

        return write_report(directory)
    if not directory.is_dir():
        raise ConfigurationError(f"There is nothing to report on in {str(directory)!r}: no such directory.")
    raise ConfigurationError(
        f"There is nothing to report on in {str(directory)!r}: it has neither the config.yaml of a run nor the "
        "plan.json of a comparison. DIR is what the line 'Files:' at the end of a run names."
    )
