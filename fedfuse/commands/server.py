"""``fedfuse server``: run one federation with real clients: a Flower SuperLink, its nodes' keys, and the run."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from fedfuse import __version__
from fedfuse.commands.parser import Commands, check_directory
from fedfuse.commands.termination import interrupted_by_sigterm
from fedfuse.composition import compose, quote
from fedfuse.configuration import from_yaml
from fedfuse.deploy import flower
from fedfuse.deploy.certificates import AUTHORITY_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY
from fedfuse.deploy.node_keys import node_names, public_path
from fedfuse.errors import ConfigurationError, FedfuseError, unknown_name
from fedfuse.report.overrides import overrides_of

OPTIONS = ("--host", "--port", "--certificates", "--insecure", "--state", "--app", "--help")
SECONDS_TO_START, SECONDS_TO_STOP = 60, 10
REGISTERED_AT_ONCE = 4
RESUME = "resume="


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "server",
        help="run a federation with real clients",
        description="Run a federation with real clients. Prints the Flower commands that it runs; stops when the run "
        "ends. Clients that connect again after a stop go on where they were: resume=DIR.",
        epilog="example: fedfuse server num_clients=3 strategy=knfu transfer.path=transfer.npz --host=0.0.0.0",
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="key=value, or group=NAME, as for fedfuse run; or resume=DIR")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", default=str(flower.DEFAULT_PORT), help="the one port that clients need")
    parser.add_argument(
        "--certificates", type=Path, default=Path("certs"), metavar="DIR", help="made by fedfuse certs (default: certs)"
    )
    parser.add_argument("--insecure", action="store_true", help="no encryption and no authentication: for rehearsals")
    parser.add_argument(
        "--state", type=Path, default=Path("fedfuse-server"), metavar="DIR", help="Flower's files and its log"
    )
    parser.add_argument("--app", type=Path, metavar="DIR", help="a clone to run, not the fedfuse that is installed")


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Check everything, start a SuperLink, let the nodes in, and run."""
    options = [word for word in rest if word.startswith("-")]
    if options:
        raise unknown_name("option", options[0], OPTIONS)
    if not arguments.port.isdecimal() or not 0 < int(arguments.port) < 65536:
        raise ConfigurationError(f"--port must be a whole number from 1 to 65535, not {arguments.port!r}.")
    port = int(arguments.port)
    tls, keys = (None, []) if arguments.insecure else _security(arguments.certificates)
    state = arguments.state.resolve()
    check_directory(state)
    if arguments.app is not None and not (arguments.app / "pyproject.toml").is_file():
        raise ConfigurationError(f"--app={arguments.app} is no clone: it has no pyproject.toml.")
    address = f"{'127.0.0.1' if arguments.host in ('0.0.0.0', '::') else arguments.host}:{port}"
    if _listens(address):
        raise ConfigurationError(f"Somebody listens on {address} already: stop it, or take another --port.")
    overrides, directory = _overrides([*arguments.overrides, *rest])
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = state / "flower"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(flower.connection(address, None if tls is None else tls.authority))
    environment = flower.environment(home)
    app = arguments.app or _installed_app(state)
    command = flower.superlink(arguments.host, port, state / "superlink.db", tls)
    try:
        with interrupted_by_sigterm(), _superlink(command, environment, state / "superlink.log", address):
            _register_all(keys, environment)
            before = _runs(environment)
            _show(flower.submit(app, overrides))
            subprocess.run(flower.submit(app, overrides), env=environment, check=False)
            after = _runs(environment)
    except KeyboardInterrupt:
        sys.stdout.write(f"Interrupted. To continue: {_continuation(directory)}\n")
        raise
    new = [status for run, status in after.items() if run not in before]
    if new != ["finished:completed"]:
        ended = f"The run ended as {new[0]!r}" if new else "The run was not started"
        raise FedfuseError(f"{ended}. Once mended, continue with: {_continuation(directory)}")
    return 0


def _security(certificates: Path) -> tuple[flower.ServerFiles, list[Path]]:
    """Find the server's certificate and the public keys of the nodes that may take part."""
    tls = flower.ServerFiles(
        certificates / AUTHORITY_CERTIFICATE, certificates / SERVER_CERTIFICATE, certificates / SERVER_KEY
    )
    for path in (tls.authority, tls.certificate, tls.key):
        if not path.is_file():
            raise ConfigurationError(
                f"There is no file {path}: make it with fedfuse certs init, or say --insecure for a rehearsal."
            )
    keys = [public_path(certificates, name) for name in node_names(certificates)]
    for key in keys:
        if not key.is_file():
            raise ConfigurationError(f"There is no file {key}, by which the server knows a client: bring it here.")
    if not keys:
        raise ConfigurationError(f"No client has a key in {certificates}: make one with fedfuse certs node NAME.")
    return tls, keys


def _overrides(words: Sequence[str]) -> tuple[str, Path]:
    """Check the configuration as the run will, and write it as the one text that Flower carries.

    Returns
    -------
    str
        Overrides, written as in a shell.
    Path
        The directory of the run on this machine.
    """
    from fedfuse.results import create_directory
    from fedfuse.server_app import check_continues, prepare  # slow, because of torch: not before errors above are found

    resumed = [Path(word.removeprefix(RESUME)) for word in words if word.startswith(RESUME)]
    others = [word for word in words if not word.startswith(RESUME)]
    if resumed:
        directory = resumed[-1].resolve()
        others = [*_overrides_before(directory), *others]
        configuration = compose(others)
        check_continues(directory, configuration)
        others.append(f"{RESUME}{directory}")
    else:
        configuration = compose(others)
    prepare(configuration)
    if not resumed:
        output = None if configuration.output is None else Path(configuration.output)
        directory = create_directory(output, configuration.strategy.name, configuration.data.name).resolve()
        others = [word for word in others if not word.startswith("output=")]
        others.append(f"output={quote(str(directory))}")
    return shlex.join(others), directory


def _overrides_before(directory: Path) -> list[str]:
    """Find the overrides that a run was started with, from its configuration."""
    path = directory / "config.yaml"
    if not path.is_file():
        raise ConfigurationError(f"{RESUME}{directory}: no config.yaml there, so this is no run's directory.")
    overrides = overrides_of(from_yaml(path.read_text()))
    if overrides is None:
        raise ConfigurationError(
            f"The overrides that {path} came from cannot be found again; start the run with Flower's own command."
        )
    return overrides


def _installed_app(state: Path) -> Path:
    app = state / "app"
    app.mkdir(exist_ok=True)
    (app / "pyproject.toml").write_text(flower.INSTALLED_APP.format(version=__version__))
    return app


@contextmanager
def _superlink(command: Sequence[str], environment: dict[str, str], log: Path, address: str) -> Iterator[None]:
    """Keep a SuperLink running, and leave none of its processes behind."""
    _show(command)
    with log.open("wb") as file:
        # In a session of its own: an interrupt is for us, and all that it starts can be stopped together.
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait_for(process, address, log)
        yield
    finally:
        _stop(process)


def _continuation(directory: Path) -> str:
    if not (directory / "config.yaml").is_file():
        return "the same command"  # the run had not begun, and its directory is still empty
    return shlex.join(["fedfuse", "server", f"{RESUME}{directory}"])


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_for(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _listens(address):
            return
        time.sleep(0.2)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise FedfuseError(f"The SuperLink did not start; {log} ends with: {''.join(last) or 'nothing'}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask all processes to end, and end those that do not; also when a second interrupt comes meanwhile."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(SECONDS_TO_STOP)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _register_all(keys: Sequence[Path], environment: dict[str, str]) -> None:
    """Let nodes in, a few at a time: each is a process that takes more than a second to start."""
    for key in keys:
        _show(flower.register(key))
    with ThreadPoolExecutor(REGISTERED_AT_ONCE) as executor:
        for _ in executor.map(lambda key: _register(key, environment), keys):
            pass


def _register(key: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(flower.register(key), env=environment, capture_output=True, text=True, check=False)
    output = " ".join((done.stdout + done.stderr).split())
    if done.returncode != 0 and "already in use" not in output:
        raise FedfuseError(f"Flower does not let {key} in: {output}")


def _runs(environment: dict[str, str]) -> dict[str, str]:
    """List the status of each run that the SuperLink knows, by its id."""
    done = subprocess.run(flower.list_runs(), env=environment, capture_output=True, text=True, check=False)
    try:
        return {run["run-id"]: run["status"] for run in json.loads(done.stdout)["runs"]}
    except (ValueError, KeyError, TypeError) as error:
        output = " ".join((done.stdout + done.stderr).split())
        raise FedfuseError(f"Flower does not tell how its runs are: {output[:300] or 'it says nothing'}") from error


def _show(command: Sequence[str]) -> None:
    sys.stdout.write(f"$ {flower.shown(command)}\n")
    sys.stdout.flush()
