"""Run a whole federation in this process: the rounds, the local-only baseline, the table and the figures."""

import logging
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from fedfuse import catalogue, results
from fedfuse.assembly import (
    check_compatible,
    load_federation,
    make_architectures,
    make_client_settings,
    make_clients,
    make_server,
    make_strategy,
)
from fedfuse.client.client import Client, ClientSettings
from fedfuse.configuration import Component, Configuration, from_yaml, to_yaml
from fedfuse.data.federation import Federation
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.errors import ConfigurationError
from fedfuse.knowledge import Fused
from fedfuse.report.display import Display, make_display
from fedfuse.report.figures import draw_figures
from fedfuse.report.table import print_summary
from fedfuse.server import Server
from fedfuse.server_app import Service, record_start, serve
from fedfuse.strategy import FusionStrategy
from fedfuse.summary import ClientFacts, write_summary

LOCAL = "local"


@dataclass(frozen=True)
class Simulation:
    """The parts of one run, assembled."""

    configuration: Configuration
    federation: Federation
    clients: tuple[Client, ...]
    settings: ClientSettings
    server: Server
    strategy: FusionStrategy


def simulate(configuration: Configuration, directory: Path | None = None) -> Path:
    """Start a run.

    Parameters
    ----------
    configuration : Configuration
        What to run.
    directory : Path, optional
        Where its files go; by default ``configuration.output``, or a new directory under ``outputs/``.

    Returns
    -------
    Path
        The run's directory.

    Raises
    ------
    FedfuseError
        For everything that a user can mend.
    """
    simulation = assemble(configuration)
    output = directory or (None if configuration.output is None else Path(configuration.output))
    directory = results.create_directory(output, configuration.strategy.name, configuration.data.name)
    record_start(directory, configuration, simulation.settings)
    _run(simulation, directory)
    return directory


def resume(directory: Path, num_rounds: int | None = None) -> Path:
    """Continue a run that was stopped, with the results that it would have had.

    Parameters
    ----------
    directory : Path
        The run's directory.
    num_rounds : int, optional
        Go on until this round instead of the one that was configured.

    Raises
    ------
    ConfigurationError
        If there is no run to continue, or it is past that round.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise ConfigurationError(f"resume={directory}: no config.yaml there, so this is no run's directory.")
    configuration = from_yaml(path.read_text())
    if num_rounds is not None:
        done = len(results.read_metrics(directory))
        if num_rounds < done:
            raise ConfigurationError(f"num_rounds={num_rounds}, but {done} rounds are already done.")
        configuration = replace(configuration, num_rounds=num_rounds)
        results.write_text(directory, "config.yaml", to_yaml(configuration))
    _run(assemble(configuration), directory)
    return directory


def assemble(configuration: Configuration) -> Simulation:
    """Build all parts of a run and check that they fit together."""
    strategy = make_strategy(configuration.strategy)
    federation = load_federation(configuration)
    architectures = make_architectures(configuration, federation)
    settings = make_client_settings(configuration, federation)
    check_compatible(configuration, strategy, settings, architectures)
    return Simulation(
        configuration=configuration,
        federation=federation,
        clients=make_clients(federation, architectures),
        settings=settings,
        server=make_server(configuration, federation, architectures),
        strategy=strategy,
    )


def _run(simulation: Simulation, directory: Path) -> None:
    configuration = simulation.configuration
    torch.set_num_threads(configuration.engine.threads)
    console = Console()
    initial = simulation.strategy.initial(simulation.server)
    try:
        with _log_to(directory / "run.log"), make_display(console) as display:
            for line in introduction(simulation):
                display.note(line)
            _stage(simulation, initial, configuration.strategy.name, directory, display)
            if configuration.local_baseline and configuration.strategy.name != LOCAL:
                _stage(_local_only(simulation), initial, "local-only", directory / results.LOCAL_ONLY, display)
    except KeyboardInterrupt:
        console.print(f"Interrupted. To continue: fedfuse run resume={directory}", soft_wrap=True)
        raise
    except Exception:
        console.print(f"Stopped. Once mended, continue with: fedfuse run resume={directory}", soft_wrap=True)
        raise
    summary = write_summary(directory, _names(configuration), _facts(simulation), simulation.federation.class_names)
    draw_figures(directory, summary)
    print_summary(console, summary, directory)


def _stage(
    simulation: Simulation,
    initial: Fused | None,
    name: str,
    directory: Path,
    display: Display,
) -> None:
    """Run all rounds from the clients' initial weights, or those that are left."""
    done = len(results.read_metrics(directory))
    display.stage(name, simulation.configuration.num_rounds, first_round=done + 1)
    directory.mkdir(exist_ok=True)
    grid = LocalGrid(simulation.clients, simulation.settings, simulation.configuration.engine.runner, display.verb)
    serve(
        Service(
            configuration=simulation.configuration,
            grid=grid,
            strategy=simulation.strategy,
            server=simulation.server,
            directory=directory,
            initial=initial,
            round_finished=display.round_finished,
            verb=display.verb,
            client_states=grid.state_dict,
            load_client_states=grid.load_state_dict,
        )
    )


def introduction(simulation: Simulation) -> list[str]:
    """Say what is about to run, what travels, and what is promised."""
    configuration, strategy = simulation.configuration, simulation.strategy
    models = ", ".join(model.name for model in configuration.model)
    names = configuration.strategy.name, configuration.data.name, configuration.partition.name
    lines = [
        f"{names[0]} on {names[1]}, {names[2]} partition, seed {configuration.seed}",
        f"{configuration.num_clients} clients with {models}; {len(simulation.settings.transfer)} transfer samples",
        f"Clients send {_list(strategy.sends)} and get back {_list(strategy.returns)}; "
        f"private facts told to the strategy: {_list(strategy.needs)}.",
    ]
    lines += [str(protector.guarantee()) for protector in simulation.settings.protectors]
    if strategy.sends and not simulation.settings.protectors:
        lines.append("No protector: what is sent is not noised, and nothing is guaranteed.")
    return lines


def _local_only(simulation: Simulation) -> Simulation:
    values = catalogue.read("strategy", LOCAL, catalogue.folders())
    strategy = make_strategy(Component(LOCAL, values.pop("_target_"), values))
    # Nothing is sent, so there is nothing to protect.
    return replace(simulation, strategy=strategy, settings=replace(simulation.settings, protectors=()))


def _list(names: AbstractSet[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _names(configuration: Configuration) -> dict[str, object]:
    return {
        "strategy": configuration.strategy.name,
        "data": configuration.data.name,
        "partition": configuration.partition.name,
        "partition_arguments": dict(configuration.partition.arguments),
        "model": [model.name for model in configuration.model],
        "privacy": [protector.name for protector in configuration.privacy],
        "num_clients": configuration.num_clients,
        "seed": configuration.seed,
    }


def _facts(simulation: Simulation) -> list[ClientFacts]:
    # The simulator holds all data itself: these counts did not travel.
    num_classes = simulation.federation.num_classes
    return [
        ClientFacts(
            client_id=client.client_id,
            model=client.architecture.name,
            num_examples=len(client.data.train),
            label_counts=tuple(torch.bincount(client.data.train.labels, minlength=num_classes).tolist()),
        )
        for client in simulation.clients
    ]


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Keep the library's log, with the tracebacks of failed clients, in a file instead of on the screen."""
    logger = logging.getLogger("fedfuse")
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.propagate = propagate
