"""What the words of several commands have in common."""

from argparse import ArgumentParser, _SubParsersAction
from pathlib import Path
from typing import TypeAlias

from fedfuse.errors import ConfigurationError

Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"


def check_directory(path: Path) -> None:
    """Refuse a file where there must be a directory, or where one is to be made.

    Raises
    ------
    ConfigurationError
        If there is a file.
    """
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"{path} is not a directory.")


def add_config_dir(parser: ArgumentParser) -> None:
    """Let the user bring parts of their own."""
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="your own parts, for example DIR/strategy/mine.yaml",
    )
