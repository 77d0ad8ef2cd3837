"""Follow a run in Weights & Biases: online where there is an API key and a network, else offline until it is synced."""

import json
import os
import shlex
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from fedfuse.errors import ConfigurationError, unknown_name
from fedfuse.results import LOCAL_ONLY, write_text
from fedfuse.tracking.scalars import grouped, scalars

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled"]

MODES: tuple[Mode, ...] = ("online", "offline", "disabled")
PROGRESS_FILE = "tracking/wandb.json"
CLIENT_COLUMNS = (
    "client_id",
    "model",
    "num_examples",
    "local_only_accuracy",
    "personal_accuracy",
    "gain",
    "general_accuracy",
)

# Seconds that a run waits for W&B at most: to find out whether there is a network, to begin, and to end.
NETWORK_TIMEOUT = 3.0
BEGIN_TIMEOUT = 30.0
END_TIMEOUT = 120.0

FLUSH_INTERVAL = 0.1  # seconds until what was logged is on disk, where it outlives a run that is killed


@dataclass(frozen=True)
class Progress:
    """What W&B has been told, kept in the run's directory so that a resumed run continues the same W&B run.

    Parameters
    ----------
    run_id : str
        The id of the W&B run.
    next_step : int
        W&B's own count of what was logged: rounds of all stages, and the end. It drops what comes with a lower count.
    last_rounds : mapping of str to int
        Up to which round of each stage W&B surely has all.
    """

    run_id: str
    next_step: int
    last_rounds: Mapping[str, int]


@dataclass(frozen=True)
class Choice:
    """Where W&B records a run, and why not online (empty if it does)."""

    mode: Mode
    reason: str


class WeightsAndBiases:
    """Logs every round, the configuration, the figures and the final table of clients to Weights & Biases.

    It sends the numbers of every round, the whole configuration with any paths in it, the summary with a row for
    every client, and the figures, of which one shows how many examples of each class a client has. W&B's library adds
    telemetry of its own: versions, operating system, which of its features and which known packages are used. Not
    sent are the machine's name, hardware and load, code, git state, installed packages and what is printed. Models,
    knowledge and data are never sent.

    Without an API key or a network it records offline, in ``wandb`` of the run's directory, and says how to upload
    that later. ``WANDB_MODE`` or ``mode`` overrule this. W&B's own environment variables apply besides.

    Parameters
    ----------
    project : str
        The W&B project.
    entity : str or None
        The user or team that the project belongs to; None takes W&B's default.
    mode : {"online", "offline", "disabled"} or None
        None decides.
    name : str or None
        The name of the run; None makes one of its strategy, data and seed.
    group : str or None
        What to show the run together with.
    tags : sequence of str
        To find the run by.

    Raises
    ------
    ConfigurationError
        If there is no such mode, or the tags are not a list.
    """

    def __init__(
        self,
        project: str = "fedfuse",
        entity: str | None = None,
        mode: Mode | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        if mode is not None and mode not in MODES:
            raise unknown_name("mode", str(mode), MODES)
        if isinstance(tags, str):
            raise ConfigurationError(f"tags must be a list, for example [{tags}], not {tags!r}.")
        self._project, self._entity, self._mode = project, entity, mode
        self._name, self._group, self._tags = name, group, tuple(tags)
        self._directory = Path()
        self._run: wandb.Run | None = None
        self._progress = Progress("", 0, {})
        self._defined: set[str] = set()

    def begin(self, directory: Path, configuration: Mapping[str, Any]) -> list[str]:
        """Begin the W&B run, or continue that of a run that was resumed; return the line that says where it is."""
        import wandb

        self._directory = directory
        self._progress = _read_progress(directory) or Progress(uuid.uuid4().hex[:12], 0, {})
        _write_progress(directory, self._progress)
        self._defined.clear()
        choice = choose(self._mode)
        if choice.mode == "disabled":
            return ["W&B: disabled"]
        if choice.mode == "online":
            try:
                self._run = self._init("online", configuration)
            except Exception as error:  # whatever W&B or its server object to, the run can be uploaded later
                choice = Choice("offline", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
                wandb.teardown()  # until then W&B refuses the id of a run that could not begin
            else:
                self._progress = _as_of_server(self._progress, self._run.starting_step)
                return [f"W&B: {self._run.url}"]
        self._run = self._init("offline", configuration)
        return [f"W&B: recording offline ({choice.reason}); to upload it later: wandb sync {self._folder()}"]

    def round_finished(self, metrics: Mapping[str, Any], stage: str) -> None:
        """Log a round, unless W&B was told of it before the run was resumed."""
        number = metrics["round"]
        if self._run is None or number <= self._progress.last_rounds.get(stage, 0):
            return
        prefix = f"{LOCAL_ONLY}/" if stage == LOCAL_ONLY else ""
        values = {prefix + name: value for name, value in scalars(metrics).items()}
        self._define(self._run, values.keys())
        self._log(self._run, {"round": number} | values, {**self._progress.last_rounds, stage: number})

    def end(self, summary: Mapping[str, Any] | None, figures: Sequence[Path]) -> None:
        """Log the figures and the final table, set the summary, and wait at most two minutes for the upload."""
        if self._run is None:
            return
        if summary is not None:
            with _artifacts_in(self._directory / "wandb"):
                self._log(self._run, _table_and_images(summary, figures), self._progress.last_rounds)
            # Replaces W&B's own summary of these names, which skips rounds without a value.
            self._run.summary.update({grouped(name): values for name, values in summary["metrics"].items()})
        try:
            self._run.finish(exit_code=1 if summary is None else 0)
        except TimeoutError as error:
            command = f"wandb sync --include-online {self._folder()}"
            raise TimeoutError(f"not all is uploaded after {END_TIMEOUT:.0f} s; to do so later: {command}") from error
        finally:
            self._run = None
            _write_progress(self._directory, self._progress)

    def _folder(self) -> str:
        return shlex.quote(str(self._directory / "wandb"))

    def _init(self, mode: Literal["online", "offline"], configuration: Mapping[str, Any]) -> "wandb.Run":
        import wandb

        return wandb.init(
            project=self._project,
            entity=self._entity,
            dir=str(self._directory),
            id=self._progress.run_id,
            resume="allow",
            mode=mode,
            name=self._name or os.environ.get("WANDB_NAME") or _default_name(configuration),
            group=self._group,
            tags=self._tags or None,
            config=dict(configuration),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=BEGIN_TIMEOUT,
                finish_timeout=END_TIMEOUT,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=FLUSH_INTERVAL,
                host="",
                save_code=False,
                disable_code=True,
                disable_git=True,
                label_disable=True,
                x_save_requirements=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )

    def _define(self, run: "wandb.Run", names: Iterable[str]) -> None:
        """Chart new names by round instead of W&B's step: the baseline, logged last, begins again with round 1."""
        if not self._defined:
            run.define_metric("round", hidden=True)
        for name in names:
            if name not in self._defined:
                run.define_metric(name, step_metric="round", summary="last")
        self._defined.update(names)

    def _log(self, run: "wandb.Run", values: dict[str, Any], last_rounds: Mapping[str, int]) -> None:
        step = self._progress.next_step
        # What a run that is killed logged last may be lost with it. So the file counts a round only with the next one:
        # logged twice it is the same point in a chart.
        self._progress = replace(self._progress, next_step=step + 1)
        _write_progress(self._directory, self._progress)
        run.log(values, step=step, commit=True)
        self._progress = replace(self._progress, last_rounds=last_rounds)


def choose(mode: Mode | None) -> Choice:
    """Choose where to record: as told by ``mode`` or ``WANDB_MODE``, else online where that is possible.

    Never asks, and takes a few seconds at most.
    """
    import wandb

    wandb.termsetup(wandb.Settings(silent=True), None)  # or the next line shows which files it reads
    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
    told = mode or os.environ.get("WANDB_MODE")
    wanted = told or settings.mode
    if wanted == "disabled":
        return Choice("disabled", "as configured")
    if wanted in ("offline", "dryrun"):
        return Choice("offline", "as configured")
    if not has_credentials(settings):
        return Choice("offline", "there is no valid API key: wandb login")
    if not told and not is_reachable(settings.base_url, settings.https_proxy):
        return Choice("offline", f"{urlsplit(settings.base_url).hostname} cannot be reached")
    return Choice("online", "")


def has_credentials(settings: "wandb.Settings") -> bool:
    """Tell whether W&B would find valid credentials: in its environment variables, a netrc file or its settings."""
    from wandb.errors import Error
    from wandb.sdk.lib import wbauth

    try:
        return (
            wbauth.authenticate_session(
                host=settings.base_url, source="fedfuse", prompt=False, verify=False, update_session=False
            )
            is not None
        )
    except Error:  # they are there, but not in the form of an API key
        return False


def is_reachable(url: str, proxy: str | None = None) -> bool:
    """Try whether the server of a URL, or the proxy to it, accepts a connection within a few seconds.

    Parameters
    ----------
    url : str
        Of the server.
    proxy : str or None
        Its proxy; by default that of the environment, such as ``HTTPS_PROXY``.
    """
    connected = threading.Event()

    def connect() -> None:
        with (
            suppress(OSError, ValueError),
            socket.create_connection(_first_hop(url, proxy), timeout=NETWORK_TIMEOUT),
        ):
            connected.set()

    # Looking up a name can take long and cannot be interrupted: then the thread is left behind.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT)
    return connected.is_set()


def _first_hop(url: str, proxy: str | None) -> tuple[str, int]:
    server = urlsplit(url)
    if proxy is None and not proxy_bypass(server.hostname or ""):
        proxy = getproxies().get(server.scheme)
    hop = server if not proxy else urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return hop.hostname or "", hop.port or (443 if hop.scheme == "https" else 80)


def _default_name(configuration: Mapping[str, Any]) -> str:
    strategy, data = configuration["strategy"]["name"], configuration["data"]["name"]
    return f"{strategy} on {data}, seed {configuration['seed']}"


def _table_and_images(summary: Mapping[str, Any], figures: Sequence[Path]) -> dict[str, Any]:
    import wandb

    rows = [[client[column] for column in CLIENT_COLUMNS] for client in summary["clients"]]
    images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures if path.suffix == ".png"}
    return {"clients": wandb.Table(columns=list(CLIENT_COLUMNS), data=rows), **images}


@contextmanager
def _artifacts_in(directory: Path) -> Iterator[None]:
    """Let W&B keep its copy of a table with the run instead of in the user's home, unless the user has a place."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(directory.absolute())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _as_of_server(progress: Progress, starting_step: int) -> Progress:
    """Take back as many rounds of every stage as steps did not reach the server, which may be too many."""
    lost = max(0, progress.next_step - starting_step)
    return replace(
        progress,
        next_step=max(progress.next_step, starting_step),
        last_rounds={stage: max(0, last - lost) for stage, last in progress.last_rounds.items()},
    )


def _read_progress(directory: Path) -> Progress | None:
    path = directory / PROGRESS_FILE
    return Progress(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _write_progress(directory: Path, progress: Progress) -> None:
    write_text(directory, PROGRESS_FILE, json.dumps(asdict(progress), indent=2) + "\n")
