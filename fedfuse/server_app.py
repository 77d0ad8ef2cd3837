"""The Flower ServerApp: configuration to data, strategy and rounds; thin."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedfuse import results
from fedfuse.assembly import (
    check_compatible,
    configuration_of,
    load_federation,
    make_architectures,
    make_client_settings,
    make_round_settings,
    make_server,
    make_strategy,
)
from fedfuse.checkpoint import FOLDER, SERVER, load_checkpoint, save_checkpoint
from fedfuse.client.client import ClientSettings
from fedfuse.configuration import Configuration, to_yaml
from fedfuse.errors import ConfigurationError
from fedfuse.knowledge import Fused
from fedfuse.metrics import RoundRecord
from fedfuse.privacy.protector import Protector
from fedfuse.rounds import Observers, Rounds
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation that is configured by the one key ``overrides`` of the Flower run."""
    configuration = configuration_of(context.run_config)
    torch.set_num_threads(configuration.engine.threads)
    federation = load_federation(configuration)
    architectures = make_architectures(configuration, federation)
    settings = make_client_settings(configuration, federation)
    strategy = make_strategy(configuration.strategy)
    check_compatible(configuration, strategy, settings, architectures)
    server = make_server(configuration, federation, architectures)
    output = None if configuration.output is None else Path(configuration.output)
    directory = results.create_directory(output, configuration.strategy.name, configuration.data.name)
    record_start(directory, configuration, settings)
    serve(Service(configuration, grid, strategy, server, directory, strategy.initial(server)))


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
    initial : Fused, optional
        What every client starts from.
    round_finished : Callable
        Told the metrics of each round.
    verb : Callable
        Told each verb, the clients done and in all.
    client_states, load_client_states : Callable, optional
        Where the grid's clients keep their states in this process: how to read and restore them.
    """

    configuration: Configuration
    grid: Grid
    strategy: FusionStrategy
    server: Server
    directory: Path
    initial: Fused | None = None
    round_finished: Callable[[Mapping[str, Any]], None] = lambda metrics: None
    verb: Callable[[str, int, int], None] = lambda verb, done, total: None
    client_states: Callable[[], dict[str, Any]] | None = None
    load_client_states: Callable[[dict[str, Any]], None] | None = None


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
        service.round_finished(results.append_round(directory, record))

    def checkpoint() -> None:
        state = {"rounds": rounds.state_dict(), "strategy": strategy.state_dict()}
        save_checkpoint(directory, state, service.client_states() if service.client_states else None)

    rounds = Rounds(
        make_round_settings(service.configuration),
        service.server,
        Observers(round_finished, checkpoint, service.verb),
    )
    strategy.rounds = rounds
    initial, first_round = service.initial, 1
    # Without the server's file, which is written last, the run was stopped before it began.
    if (directory / FOLDER / SERVER).is_file():
        state, client_states = load_checkpoint(directory)
        if (client_states is None) != (service.load_client_states is None):
            raise ConfigurationError(f"The run in {directory} was not made by this kind of engine: resume it there.")
        rounds.load_state_dict(state["rounds"])
        strategy.load_state_dict(state["strategy"])
        if client_states is not None and service.load_client_states is not None:
            service.load_client_states(client_states)
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


def record_start(directory: Path, configuration: Configuration, settings: ClientSettings) -> None:
    """Write what is known before round 1: the resolved configuration and what each protector promises."""
    results.write_text(directory, "config.yaml", to_yaml(configuration))
    results.write_text(directory, "guarantees.json", guarantees_json(settings.protectors))


def guarantees_json(protectors: tuple[Protector, ...]) -> str:
    """State what each protector promises, and what all of them do not."""
    guarantees = [asdict(protector.guarantee()) for protector in protectors]
    accounted = any(guarantee["epsilon"] is not None for guarantee in guarantees)
    return (
        json.dumps(
            {
                "protectors": guarantees,
                "differential_privacy": accounted,
                "summary": "See protectors." if accounted else "No differential privacy is guaranteed.",
            },
            indent=2,
        )
        + "\n"
    )
