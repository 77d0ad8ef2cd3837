"""Run a whole federation in this process: the rounds, the local-only baseline, the table and the figures."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid
from rich.console import Console

from fedfuse import catalogue, results
from fedfuse.assembly import (
    load_federation,
    make_architectures,
    make_audits,
    make_client_settings,
    make_clients,
    make_server,
    make_strategy,
    make_trackers,
)
from fedfuse.audit.audit import Evidence, Finding, PlantedAudit, names_of, plant
from fedfuse.audit.evidence import Witness
from fedfuse.audit.record import read_findings, write_findings
from fedfuse.checkpoint import CLIENTS, FOLDER, check_version, open_client_states
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client_app import make_app, simulated_node
from fedfuse.compatibility import check_audits, check_compatible
from fedfuse.conclusion import conclude
from fedfuse.configuration import Component, Configuration, from_yaml, to_yaml
from fedfuse.data.federation import Federation
from fedfuse.device import choose_device, computing_on
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.engine.probe import probed_once
from fedfuse.engine.ray import check_installed, run_on_ray
from fedfuse.engine.workers import Workers, choose_number
from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import size_in_words
from fedfuse.privacy.chain import check_not_prolonged
from fedfuse.privacy.promise import Promise
from fedfuse.report.audit_table import print_findings
from fedfuse.report.display import Display, make_display
from fedfuse.report.table import print_summary
from fedfuse.server import Server
from fedfuse.server_app import Service, record_start, serve
from fedfuse.strategy import FusionStrategy
from fedfuse.summary import ClientFacts
from fedfuse.tracking.tracker import Tracker, Trackers

LOCAL = "local"
LOG = "run.log"


@dataclass(frozen=True)
class Simulation:
    """The parts of one run, assembled."""

    configuration: Configuration
    federation: Federation
    clients: tuple[Client, ...]
    settings: ClientSettings
    server: Server
    strategy: FusionStrategy
    trackers: list[Tracker]
    audits: tuple[PlantedAudit, ...] = ()

    @property
    def promise(self) -> Promise:
        """What is promised of all that is sent."""
        assert self.settings.exposure is not None, "a simulation knows how much it releases"
        return Promise(self.settings.protectors, self.strategy, self.settings.exposure)


def simulate(configuration: Configuration, directory: Path | None = None, trackers: Sequence[Tracker] = ()) -> Path:
    """Start a run.

    Parameters
    ----------
    configuration : Configuration
        What to run.
    directory : Path, optional
        Where its files go; by default ``configuration.output``, or a new directory under ``outputs/``.
    trackers : Sequence[Tracker]
        Who follows the run, besides those that are configured.

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
    record_start(directory, configuration, simulation.promise)
    _run(replace(simulation, trackers=[*simulation.trackers, *trackers]), directory)
    return directory


def resume(directory: Path, num_rounds: int | None = None, workers: int | None = None) -> Path:
    """Continue a run that was stopped, with the results that it would have had.

    Parameters
    ----------
    directory : Path
        The run's directory.
    num_rounds : int, optional
        Go on until this round instead of the one that was configured.
    workers : int, optional
        Go on in so many processes instead of those that were configured; results are the same.

    Raises
    ------
    ConfigurationError
        If there is no run to continue, it is past that round, or of an earlier version of fedfuse, or noise was
        calibrated to fewer rounds.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise ConfigurationError(f"resume={directory}: no config.yaml there, so this is no run's directory.")
    check_version(directory)
    configuration = from_yaml(path.read_text())
    if configuration.audit:
        raise ConfigurationError(
            f"resume={directory}: a run with audits goes in one piece, they need every round of it."
        )
    if num_rounds is not None:
        done = len(results.read_metrics(directory))
        if num_rounds < done:
            raise ConfigurationError(f"num_rounds={num_rounds}, but {done} rounds are already done.")
        check_not_prolonged(configuration.privacy, configuration.num_rounds, num_rounds)
        configuration = replace(configuration, num_rounds=num_rounds)
    if workers is not None:
        configuration = replace(configuration, engine=replace(configuration.engine, workers=workers))
    results.write_text(directory, "config.yaml", to_yaml(configuration))
    simulation = assemble(configuration)
    results.write_text(directory, results.GUARANTEES_FILE, simulation.promise.to_json())  # more rounds can cost more
    _run(simulation, directory)
    return directory


def assemble(configuration: Configuration) -> Simulation:
    """Build all parts of a run and check that they fit together."""
    if configuration.engine.name == "ray":
        check_installed()
    choose_device(configuration.engine.device)  # says at once if there is none
    strategy = make_strategy(configuration.strategy)
    audits = make_audits(configuration)
    check_audits(configuration, strategy, audits)
    federation, planted = plant(audits, load_federation(configuration), configuration.seed)
    architectures = make_architectures(configuration, federation.shared)
    num_examples = tuple(len(client.train) for client in federation.clients)
    settings = make_client_settings(configuration, federation.shared, num_examples)
    check_compatible(configuration, strategy, settings, architectures)
    return Simulation(
        configuration=configuration,
        federation=federation,
        clients=make_clients(federation, architectures),
        settings=settings,
        server=make_server(configuration, federation.shared, architectures, federation.server_labels),
        strategy=strategy,
        trackers=make_trackers(configuration),
        audits=tuple(planted),
    )


def _run(simulation: Simulation, directory: Path) -> None:
    configuration = simulation.configuration
    torch.set_num_threads(configuration.engine.threads)
    console = Console()
    try:
        with _log_to(directory / LOG):
            display = make_display(console)
            with Trackers(simulation.trackers, display.note) as trackers:
                with display:
                    for line in introduction(simulation):
                        display.note(line)
                    trackers.begin(directory, asdict(configuration))
                    _run_on_engine(simulation, directory, display, trackers)
                facts, class_names = facts_of(simulation), simulation.federation.shared.class_names
                summary = conclude(directory, configuration, facts, class_names, trackers)
    except KeyboardInterrupt:
        if not simulation.audits:
            console.print(f"Interrupted. To continue: fedfuse run resume={directory}", soft_wrap=True)
        raise
    except Exception:
        if not simulation.audits:
            console.print(f"Stopped. Once mended, continue with: fedfuse run resume={directory}", soft_wrap=True)
        raise
    print_summary(console, summary, directory)
    findings = read_findings(directory)
    if findings is not None:
        print_findings(console, findings)


@dataclass(frozen=True)
class _Reached:
    """How the clients of one stage are reached, and how what they saved is made to last if this process keeps it."""

    grid: Grid
    commit_clients: Callable[[], None] | None = None
    witness: Witness | None = None


def _run_on_engine(simulation: Simulation, directory: Path, display: Display, trackers: Trackers) -> None:
    configuration = simulation.configuration
    device = choose_device(configuration.engine.device, configuration.engine.tf32)

    @contextmanager
    def reach_locally(stage: Simulation, directory: Path) -> Iterator[_Reached]:
        clients, settings, engine, verb = stage.clients, stage.settings, configuration.engine, display.verb
        # Audits look into the clients, which are therefore here.
        number = 1 if stage.audits else choose_number(engine, clients, settings, configuration.num_rounds, device)
        path = directory / FOLDER / CLIENTS
        with (
            closing(open_client_states(directory)) as states,
            Workers(clients, settings, engine, number, path, verb) if number > 1 else nullcontext() as workers,
        ):
            measured = probed_once(clients, settings, directory / FOLDER) if engine.runner == "probe" else None
            grid = LocalGrid(clients, settings, measured or engine.runner, verb, device, states, workers)
            witness = Witness(grid, clients, settings) if stage.audits else None
            yield _Reached(witness or grid, states.commit, witness)

    def run_stages(grid: Grid) -> None:
        torch.set_num_threads(configuration.engine.threads)  # it holds for this thread only
        _run_stages(simulation, directory, display, trackers, lambda stage, directory: nullcontext(_Reached(grid)))

    if configuration.engine.name == "local":
        _run_stages(simulation, directory, display, trackers, reach_locally)
        return
    here = directory.resolve()
    display.note("Starting Ray, which takes some seconds.")
    find_node = partial(simulated_node, to_yaml(configuration), here / FOLDER / "clients", here / LOG)
    run_on_ray(configuration.engine, make_app(find_node), configuration.num_clients, run_stages, display.verb)


def _run_stages(
    simulation: Simulation,
    directory: Path,
    display: Display,
    trackers: Trackers,
    reach: Callable[[Simulation, Path], AbstractContextManager[_Reached]],
) -> None:
    configuration = simulation.configuration
    initial = simulation.strategy.initial(simulation.server)

    def run(stage: Simulation, name: str, kind: str, directory: Path) -> None:
        """Run all rounds from the clients' initial weights, or those that are left."""
        done = len(results.read_metrics(directory))
        display.stage(name, configuration.num_rounds, first_round=done + 1)
        directory.mkdir(exist_ok=True)

        def round_finished(metrics: Mapping[str, Any]) -> None:
            display.round_finished(metrics)
            trackers.round_finished(metrics, kind)

        with reach(stage, directory) as reached:
            serve(
                Service(
                    configuration=configuration,
                    grid=reached.grid,
                    strategy=stage.strategy,
                    server=stage.server,
                    directory=directory,
                    promise=stage.promise,
                    only_means=simulation.promise.is_claimed,
                    initial=initial,
                    round_finished=round_finished,
                    verb=display.verb,
                    commit_clients=reached.commit_clients,
                )
            )
            if reached.witness is not None:
                _audit(stage, reached.witness, directory, display)

    run(simulation, configuration.strategy.name, "federated", directory)
    if configuration.local_baseline and configuration.strategy.name != LOCAL:
        run(_local_only(simulation), "local-only", results.LOCAL_ONLY, directory / results.LOCAL_ONLY)


def _audit(simulation: Simulation, witness: Witness, directory: Path, display: Display) -> None:
    """Attack the run that is over, and write what was found."""
    configuration = simulation.configuration
    findings: list[Finding] = []
    for one in simulation.audits:
        display.note(f"Audit {one.name} attacks the run.")
        evidence = Evidence(
            federation=simulation.federation,
            clients=simulation.clients,
            settings=simulation.settings,
            shared=witness.shared,
            fused=witness.fused,
            states=witness.states,
            runner=configuration.engine.runner,
            planted=one.planted,
            seed=configuration.seed,
        )
        with computing_on(choose_device(configuration.engine.device, configuration.engine.tf32)):
            findings += one.audit.measure(evidence)
    write_findings(directory, findings)


def introduction(simulation: Simulation) -> list[str]:
    """Say what is about to run, what travels, and what is promised."""
    configuration, strategy = simulation.configuration, simulation.strategy
    models = ", ".join(dict.fromkeys(size_in_words(client.architecture) for client in simulation.clients))
    names = configuration.strategy.name, configuration.data.name, configuration.partition.name
    lines = [
        f"{names[0]} on {names[1]}, {names[2]} partition, seed {configuration.seed}",
        f"{configuration.num_clients} clients, {len(simulation.settings.transfer)} transfer samples",
        f"Models: {models}",
        f"Clients send {_list(strategy.sends)} and get back {_list(strategy.returns)}; "
        f"private facts told to the strategy: {_list(strategy.needs)}.",
    ]
    if simulation.federation.num_unused:
        lines.append(
            f"{simulation.federation.num_unused} samples are nobody's: the partition leaves them over, or they overlap "
            "with another set. See fedfuse data describe."
        )
    promise = simulation.promise
    stated = promise.in_the_end
    lines += [str(guarantee) for guarantee in stated]
    if promise.is_claimed:
        lines.append(
            f"These hold for all {configuration.num_rounds} rounds together. So that they do, no counts are told, and "
            "accuracies are recorded as means over clients only."
        )
    if strategy.sends and not stated:
        lines.append("No protector: what is sent is not noised, and nothing is guaranteed.")
    if simulation.audits:
        lines.append(
            f"Audits: {names_of(simulation.audits)}. What they planted is trained on and answered, so that accuracies "
            "are not those of a run without them."
        )
    if strategy.caution:
        lines.append(strategy.caution)
    return lines


def _local_only(simulation: Simulation) -> Simulation:
    values = catalogue.read("strategy", LOCAL, catalogue.folders())
    strategy = make_strategy(Component(LOCAL, values.pop("_target_"), values))
    # Nothing is sent, so there is nothing to protect or to attack.
    alone = replace(simulation.settings, protectors=(), protection="")
    return replace(simulation, strategy=strategy, settings=alone, audits=())


def _list(names: AbstractSet[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def facts_of(simulation: Simulation) -> list[ClientFacts]:
    """Say what the report may know of each client; no counts where a guarantee is claimed."""
    if simulation.promise.is_claimed:
        return [ClientFacts(client.client_id, client.architecture.name, None, None) for client in simulation.clients]
    # The simulator holds all data itself: these counts did not travel.
    num_classes = simulation.federation.shared.num_classes
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
