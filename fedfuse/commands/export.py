"""``fedfuse export``: write what a simulation would deal out into files, one a client, to rehearse a deployment."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from fedfuse.commands.parser import Commands, add_config_dir
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError, unknown_name

SHARED_FILE = "transfer.npz"


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "export",
        help="write the data of a simulation into files, one a client",
        description="Write the data of a simulation into files: DIR/transfer.npz, which everybody holds, and a "
        "DIR/client-K.npz for each client. They are examples of what fedfuse client and fedfuse server read.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a new or empty directory")
    parser.add_argument("overrides", nargs="*", default=[], help="key=value, or group=NAME, as for fedfuse run")
    add_config_dir(parser)


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Write the files, and say what is in them."""
    options = [word for word in rest if word.startswith("-")]
    if options:
        raise unknown_name("option", options[0], ("--config-dir", "--help"))
    if "=" in str(arguments.directory):
        raise ConfigurationError(f"The first word after export is a directory, not {str(arguments.directory)!r}.")
    configuration = compose([*arguments.overrides, *rest], arguments.config_dir)
    from fedfuse.assembly import deal_data  # slow, because of torch: not before all errors above are found
    from fedfuse.data.files import write_client, write_shared
    from fedfuse.results import is_new_or_empty

    directory = arguments.directory
    if not is_new_or_empty(directory):
        raise ConfigurationError(f"{directory} exists and is not empty: name another directory.")
    dealt = deal_data(configuration)
    directory.mkdir(parents=True, exist_ok=True)
    write_shared(directory / SHARED_FILE, dealt.shared)
    tests = 0 if dealt.shared.global_test is None else len(dealt.shared.global_test)
    sys.stdout.write(
        f"{directory / SHARED_FILE}: {len(dealt.shared.transfer)} transfer samples, {tests} test samples, "
        f"{dealt.shared.num_classes} classes\n"
    )
    for client_id, own in enumerate(dealt.clients):
        path = directory / f"client-{client_id}.npz"
        write_client(path, own.samples, own.order)
        sys.stdout.write(f"{path}: {len(own.samples)} samples\n")
    return 0
