"""``fedfuse client``: keep the Flower SuperNode of one client running, with its data, its state and its keys."""

import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedfuse.commands.parser import Commands, check_directory
from fedfuse.commands.termination import interrupted_by_sigterm
from fedfuse.deploy import flower
from fedfuse.errors import ConfigurationError, unknown_name

FAILED = 1  # how a SuperNode ends whatever went wrong, also that the server does not know its key yet
SECONDS_BETWEEN_STARTS = 5
OPTIONS = ("--id", "--data", "--transfer", "--server", "--state", "--authority", "--key", "--insecure", "--help")


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "client",
        help="take part in a deployment as one client",
        description="Take part in a deployment as one client. Prints the Flower command that it runs, and stays until "
        "it is stopped, also while the server is away.",
        epilog="example: fedfuse client --id=0 --data=my.npz --server=fusion.example.org:8000 "
        "--authority=ca.crt --key=nodes/clinic-a",
        allow_abbrev=False,
    )
    parser.add_argument("--id", metavar="N", help="the client's place in the federation, from 0; required")
    parser.add_argument("--data", type=Path, metavar="PATH", help="its own samples (.npz: inputs, labels); required")
    parser.add_argument("--transfer", type=Path, metavar="PATH", help="what everybody holds (.npz), if not configured")
    parser.add_argument("--server", default=f"127.0.0.1:{flower.DEFAULT_PORT}", metavar="HOST:PORT")
    parser.add_argument("--state", type=Path, metavar="DIR", help="what must survive (default: fedfuse-client-N)")
    parser.add_argument("--authority", type=Path, metavar="PATH", help="ca.crt, by which the server is known")
    parser.add_argument(
        "--key", type=Path, metavar="PATH", help="this client's private key, made by fedfuse certs node"
    )
    parser.add_argument("--insecure", action="store_true", help="no encryption and no authentication: for rehearsals")


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Check the files, print the command of Flower, and keep it running."""
    if rest:
        raise unknown_name("option", rest[0], OPTIONS)
    client_id = _client_id(arguments.id)
    if arguments.data is None:
        raise ConfigurationError("--data=PATH is missing: the file of this client's own samples.")
    host, _, port = arguments.server.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"--server must be HOST:PORT, not {arguments.server!r}.")
    _check_security(arguments)
    for path in (arguments.data, arguments.transfer, arguments.authority, arguments.key):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"There is no file {path}.")
    _check_data(arguments.data, arguments.transfer)
    state = (arguments.state or Path(f"fedfuse-client-{client_id}")).resolve()
    check_directory(state)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    node_config: dict[str, str | int] = {"partition-id": client_id, "data": str(arguments.data.resolve())}
    if arguments.transfer is not None:
        node_config["transfer"] = str(arguments.transfer.resolve())
    node_config["state"] = str(state)
    command = flower.supernode(arguments.server, flower.free_port(), node_config, arguments.authority, arguments.key)
    sys.stdout.write(f"$ {flower.shown(command)}\n")
    sys.stdout.flush()
    return _keep_running(command, flower.environment(state / "flower"))


def _keep_running(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a SuperNode, and start it again when it fails: it may well be there before the server knows its key."""
    with interrupted_by_sigterm():
        while True:
            process = subprocess.Popen(command, env=environment)
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.terminate()  # the keyboard's interrupt has reached it by itself, others have not
                process.wait()
                raise
            if code != FAILED:
                return code if code >= 0 else 128 - code
            sys.stdout.write(
                "The SuperNode ended; why, stands above (code 2004: the server does not know this key, or not yet). "
                f"Starting it again in {SECONDS_BETWEEN_STARTS} s.\n"
            )
            sys.stdout.flush()
            time.sleep(SECONDS_BETWEEN_STARTS)


def _client_id(text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise ConfigurationError(f"--id=N must be the client's place in the federation, from 0, not {text!r}.")
    return int(text)


def _check_security(arguments: Namespace) -> None:
    if arguments.insecure and (arguments.authority or arguments.key):
        raise ConfigurationError("--insecure goes neither with --authority nor with --key.")
    if not arguments.insecure and not (arguments.authority and arguments.key):
        raise ConfigurationError(
            "--authority=ca.crt and --key=nodes/NAME are needed (see fedfuse certs), or --insecure for a rehearsal."
        )


def _check_data(data: Path, transfer: Path | None) -> None:
    """Find now what every message would fail at; without the transfer set, the data can only be checked then."""
    if transfer is None:
        return
    from fedfuse.data.files import read_client, read_shared  # slow, because of torch

    read_client(data, read_shared(transfer))
