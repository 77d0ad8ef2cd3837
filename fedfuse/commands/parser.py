"""What the words of several commands have in common."""

from argparse import ArgumentParser, _SubParsersAction
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"


def add_config_dir(parser: ArgumentParser) -> None:
    """Let the user bring parts of their own."""
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="DIR",
        help="your own parts, for example DIR/strategy/mine.yaml",
    )
