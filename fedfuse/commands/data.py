"""``fedfuse data describe``: what a data source holds and how it would be shared out, before anything is trained."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedfuse.commands.parser import Commands, add_config_dir
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError, unknown_name

DEFAULT_FIGURE = Path("partition.png")


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "data",
        help="look at a data source and at its partition",
        description="Look at a data source and at how it is shared out.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", title="actions", metavar="{describe}", required=True)
    describe = actions.add_parser(
        "describe",
        help="say who would have what, in numbers and in a picture",
        description="Say what a data source holds and who would have what of it in a run with the same words. "
        "Nothing is trained.",
        allow_abbrev=False,
    )
    describe.add_argument("overrides", nargs="*", default=[], help="key=value, or group=NAME, as for fedfuse run")
    describe.add_argument(
        "--figure",
        type=Path,
        default=DEFAULT_FIGURE,
        metavar="FILE",
        help=f"where to draw the classes of the clients, as PNG; {DEFAULT_FIGURE} if not given",
    )
    describe.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    describe.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="where to write the split, which partition=file partition.path=FILE repeats",
    )
    add_config_dir(describe)


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Describe the data, and write the files."""
    options = [word for word in rest if word.startswith("-")]
    if options:
        raise unknown_name("option", options[0], ("--figure", "--json", "--save", "--config-dir", "--help"))
    configuration = compose([*arguments.overrides, *rest], arguments.config_dir)
    for path in (arguments.figure, arguments.json, arguments.save):
        _check_writable(path)
    from rich.console import Console

    from fedfuse.assembly import deal_data, load_data  # slow, because of torch: not before the errors above are found
    from fedfuse.data.description import describe_data
    from fedfuse.data.saved_split import write_split
    from fedfuse.report.data_table import print_description
    from fedfuse.report.partition_picture import partition_picture, write_picture
    from fedfuse.results import write_text

    data = load_data(configuration.data)
    dealt = deal_data(configuration, data)
    description = describe_data(data, dealt, configuration.seed)
    console = Console()
    print_description(console, configuration.data.name, description)
    written = {"Picture": arguments.figure, "Numbers": arguments.json, "Split": arguments.save}
    try:
        write_picture(arguments.figure, partition_picture(description.label_counts, data.class_names))
        if arguments.json is not None:
            numbers = {**asdict(description), "label_counts": description.label_counts.tolist()}
            write_text(arguments.json.parent, arguments.json.name, json.dumps(numbers, indent=1) + "\n")
        if arguments.save is not None:
            write_split(arguments.save, dealt.split)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {error.filename}: {error.strerror}.") from error
    for name, path in written.items():
        if path is not None:
            console.print(f"{name + ':':<9}{path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _check_writable(path: Path | None) -> None:
    """Refuse what cannot become a file, before the data is loaded."""
    if path is None:
        return
    try:
        is_directory, has_directory = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # for example a name that is too long
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}.") from error
    if is_directory:
        raise ConfigurationError(f"{path} is a directory; name a file.")
    if not has_directory:
        raise ConfigurationError(f"Cannot write {path}: there is no directory {path.parent}.")
