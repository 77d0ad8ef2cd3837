"""The command ``fedfuse``: find what its first word names, and turn every error into one line and an exit code."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from fedfuse import __version__
from fedfuse.commands import audit, bench, certs, client, compare, data, export, list, report, run, server
from fedfuse.errors import ConfigurationError, FedfuseError, unknown_name

INTERRUPTED = 130
COMMANDS: dict[str, ModuleType] = {
    "run": run,
    "compare": compare,
    "audit": audit,
    "report": report,
    "list": list,
    "data": data,
    "server": server,
    "client": client,
    "certs": certs,
    "export": export,
    "bench": bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : Sequence[str] | None
        The words after ``fedfuse``; None takes them from the process.

    Returns
    -------
    int
        The exit code: 0, that of the error (2 for a mistake in the configuration), or 130 after an interrupt.
    """
    parser = _parser()
    words = [*(sys.argv[1:] if argv is None else argv)]
    try:
        if words and not words[0].startswith("-") and words[0] not in COMMANDS:
            raise unknown_name("command", words[0], COMMANDS)
        arguments, rest = parser.parse_known_args(words)
        if arguments.command is None and rest:
            raise unknown_name("option", rest[0], ("--help", "--version"))
        if arguments.command is None:
            parser.print_help()
            return 0
        _search_working_directory_last()
        exit_code: int = COMMANDS[arguments.command].execute(arguments, rest)
    except FedfuseError as error:
        sys.stderr.write(f"fedfuse: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("fedfuse: interrupted\n")
        return INTERRUPTED
    return exit_code


class _Parser(ArgumentParser):
    """Reports a mistake in the words as every other mistake is; the parsers of commands are of this class too."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")


def _parser() -> ArgumentParser:
    parser = _Parser(
        "fedfuse", description="Federated knowledge fusion: clients share what they know.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fedfuse {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar=f"{{{','.join(COMMANDS)}}}")
    for command in COMMANDS.values():
        command.add(commands)
    return parser


def _search_working_directory_last() -> None:
    """Let a user's own modules be imported, while none of them can take the place of an installed one."""
    here = str(Path.cwd())
    sys.path[:] = [path for path in sys.path if path not in ("", here)] + [here]
