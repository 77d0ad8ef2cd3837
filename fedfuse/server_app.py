"""The Flower ServerApp: configuration to data, strategy and rounds; thin."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedfuse import results
from fedfuse.assembly import (
    configuration_of,
    load_server_labels,
    load_shared,
    make_architectures,
    make_client_settings,
    make_round_settings,
    make_server,
    make_strategy,
    make_trackers,
    resumed_directory,
)
from fedfuse.checkpoint import FOLDER, SERVER, load_checkpoint, save_checkpoint
from fedfuse.client.client import ClientSettings
from fedfuse.compatibility import check_compatible
from fedfuse.conclusion import conclude
from fedfuse.configuration import Configuration, from_yaml, to_yaml
from fedfuse.engine.remote_grid import RemoteGrid
from fedfuse.errors import ConfigurationError, FedfuseError
from fedfuse.knowledge import Fused
from fedfuse.metrics import RoundRecord
from fedfuse.privacy.chain import check_not_prolonged
from fedfuse.privacy.promise import Promise
from fedfuse.report.display import PlainDisplay
from fedfuse.report.table import print_summary
from fedfuse.rounds import Observers, Rounds
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy
from fedfuse.summary import ClientFacts
from fedfuse.tracking.tracker import Tracker, Trackers

app = ServerApp()

SECONDS_BETWEEN_LOOKS = 0.5
FREE_TO_CHANGE = frozenset({"num_rounds", "engine", "tracking", "output", "local_baseline"})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation that is configured by the one key ``overrides`` of the Flower run.

    With ``resume=DIR`` among the overrides, it goes on with the run that was stopped in this directory.
    """
    console = Console()
    try:
        _run(grid, context, console)
    except FedfuseError as error:
        _show(console, f"fedfuse: error: {error}")
        # Flower reports every exception with its traceback, which would bury the line above.
        logging.getLogger("flwr").addFilter(_without_traceback)
        raise


def _run(grid: Grid, context: Context, console: Console) -> None:
    configuration = configuration_of(context.run_config)
    torch.set_num_threads(configuration.engine.threads)
    parts = prepare(configuration)
    strategy, server = parts.strategy, parts.server
    trackers = Trackers(parts.trackers, lambda line: _show(console, line))
    resumed = resumed_directory(context.run_config)
    if resumed is None:
        output = None if configuration.output is None else Path(configuration.output)
        directory = results.create_directory(output, configuration.strategy.name, configuration.data.name)
    else:
        directory = resumed
        check_continues(directory, configuration)
    record_start(directory, configuration, parts.promise)
    with trackers, PlainDisplay(console) as display:
        trackers.begin(directory, asdict(configuration))
        for line in warnings_of(parts):
            display.note(line)
        display.note(f"Results go to {directory.resolve()}; waiting for {configuration.num_clients} clients.")
        display.stage(
            configuration.strategy.name,
            configuration.num_rounds,
            first_round=len(results.read_metrics(directory)) + 1,
        )

        def round_finished(metrics: Mapping[str, Any]) -> None:
            display.round_finished(metrics)
            trackers.round_finished(metrics, "federated")

        reached = RemoteGrid(grid, SECONDS_BETWEEN_LOOKS)
        initial = strategy.initial(server)
        serve(
            Service(
                configuration,
                reached,
                strategy,
                server,
                directory,
                parts.promise,
                initial,
                round_finished,
                only_means=parts.promise.is_claimed,
            )
        )
        # What a client holds is its own business; that it takes part, and with which model, is known.
        rounds = strategy.rounds
        known = {} if rounds is None else rounds.roster.descriptions
        facts = [
            ClientFacts(client, server.architectures[description.architecture].name, None, None)
            for client, description in sorted(known.items())
        ]
        print_summary(console, conclude(directory, configuration, facts, server.class_names, trackers), directory)


@dataclass(frozen=True)
class ServerParts:
    """What a server is made of."""

    strategy: FusionStrategy
    server: Server
    settings: ClientSettings
    trackers: list[Tracker]

    @property
    def promise(self) -> Promise:
        """What is promised of all that is sent."""
        assert self.settings.exposure is not None, "a server knows how much it asks for"
        return Promise(self.settings.protectors, self.strategy, self.settings.exposure)


def warnings_of(parts: ServerParts) -> list[str]:
    """Say what is promised of what clients send, and what a reader of the results must know."""
    stated = [str(guarantee) for guarantee in parts.promise.in_the_end]
    return [*stated, *([parts.strategy.caution] if parts.strategy.caution else [])]


def prepare(configuration: Configuration) -> ServerParts:
    """Build all parts of a server and check that they fit together.

    Raises
    ------
    ConfigurationError
        If they do not, or the transfer set cannot be used.
    """
    if configuration.audit:
        names = ",".join(audit.name for audit in configuration.audit)
        raise ConfigurationError(
            f"audit=[{names}] looks into clients in one process: use fedfuse audit or fedfuse run."
        )
    strategy = make_strategy(configuration.strategy)
    shared = load_shared(configuration)
    architectures = make_architectures(configuration, shared)
    settings = make_client_settings(configuration, shared)
    check_compatible(configuration, strategy, settings, architectures)
    return ServerParts(
        strategy=strategy,
        server=make_server(configuration, shared, architectures, load_server_labels(configuration)),
        settings=settings,
        trackers=make_trackers(configuration),
    )


def check_continues(directory: Path, configuration: Configuration) -> None:
    """Refuse to go on with another run than the one in a directory.

    Raises
    ------
    ConfigurationError
        If there is no run, it is past the number of rounds, it is configured differently, or noise was calibrated to
        fewer rounds.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise ConfigurationError(f"resume={directory}: no config.yaml there, so this is no run's directory.")
    before = from_yaml(path.read_text())
    if before.engine.precision != configuration.engine.precision:
        raise ConfigurationError(f"resume={directory}: that run has engine.precision={before.engine.precision}.")
    for field in fields(Configuration):
        then, now = getattr(before, field.name), getattr(configuration, field.name)
        if field.name not in FREE_TO_CHANGE and then != now:
            raise ConfigurationError(
                f"resume={directory}: that run has another {field.name}; give the overrides that it was started with."
            )
    check_not_prolonged(configuration.privacy, before.num_rounds, configuration.num_rounds)
    done = len(results.read_metrics(directory))
    if configuration.num_rounds < done:
        raise ConfigurationError(f"num_rounds={configuration.num_rounds}, but {done} rounds are already done.")


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _show(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Service:
    """What `serve` needs.

    Parameters
    ----------
    configuration : Configuration
        Of the run.
    grid : Grid
        Reaches the clients.
    strategy : FusionStrategy
        Fuses.
    server : Server
        What the strategy may use.
    directory : Path
        Where results and checkpoint go. A checkpoint that is there is continued from.
    promise : Promise
        What is promised of what the clients send.
    initial : Fused, optional
        What every client starts from.
    round_finished : Callable
        Told the metrics of each round.
    verb : Callable
        Told each verb, the clients done and in all.
    commit_clients : Callable, optional
        Where the grid's clients keep their states in the run's directory: makes last what they saved.
    only_means : bool
        Whether nothing is recorded of a single client's metrics.
    """

    configuration: Configuration
    grid: Grid
    strategy: FusionStrategy
    server: Server
    directory: Path
    promise: Promise
    initial: Fused | None = None
    round_finished: Callable[[Mapping[str, Any]], None] = lambda metrics: None
    verb: Callable[[str, int, int], None] = lambda verb, done, total: None
    commit_clients: Callable[[], None] | None = None
    only_means: bool = False


def serve(service: Service) -> None:
    """Run all rounds, or those that a checkpoint has left, recording each.

    Raises
    ------
    FedfuseError
        If too few clients answer, or the strategy returns what cannot be used.
    ConfigurationError
        If a checkpoint is there but cannot be read.
    """
    directory, strategy = service.directory, service.strategy

    def round_finished(record: RoundRecord) -> None:
        spent = service.promise.spent(record.round)
        service.round_finished(results.append_round(directory, record, spent, service.only_means))

    def checkpoint() -> None:
        state = {"rounds": rounds.state_dict(), "strategy": strategy.state_dict()}
        save_checkpoint(directory, state, service.commit_clients)

    rounds = Rounds(
        make_round_settings(service.configuration),
        service.server,
        Observers(round_finished, checkpoint, service.verb),
    )
    strategy.rounds = rounds
    initial, first_round = service.initial, 1
    # Without the server's file, which is written last, the run was stopped before it began.
    if (directory / FOLDER / SERVER).is_file():
        state = load_checkpoint(directory, clients_here=service.commit_clients is not None)
        rounds.load_state_dict(state["rounds"])
        strategy.load_state_dict(state["strategy"])
        initial, first_round = None, rounds.under_way.round
        results.truncate(directory, first_round - 1)
    timeout = service.configuration.engine.timeout
    rounds.prepare(service.grid, timeout, initial)
    checkpoint()
    strategy.start(
        service.grid,
        num_rounds=service.configuration.num_rounds,
        timeout=timeout,
        first_round=first_round,
    )


def record_start(directory: Path, configuration: Configuration, promise: Promise) -> None:
    """Write what is known before round 1: the configuration, what is promised, and what it runs with."""
    results.write_text(directory, "config.yaml", to_yaml(configuration))
    results.write_text(directory, results.GUARANTEES_FILE, promise.to_json())
    results.write_text(directory, results.SOFTWARE_FILE, json.dumps(results.software(), indent=2) + "\n")
