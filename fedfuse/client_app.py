"""The Flower ClientApp: describe, share, absorb; thin. Each handler is the call for many clients, made with one."""

import functools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedfuse.assembly import (
    configuration_of,
    load_client,
    load_federation,
    load_shared,
    make_architectures,
    make_client,
    make_client_settings,
)
from fedfuse.client import phases
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.failure import failure_of
from fedfuse.client.state import ABSORBED, SHARED, DirectoryStore, Generation
from fedfuse.configuration import Configuration, EngineSettings, from_yaml, to_yaml
from fedfuse.data.federation import ClientData, Shared
from fedfuse.device import choose_device, computing_on
from fedfuse.engine.runner import choose_runner
from fedfuse.errors import ConfigurationError
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request
from fedfuse.models.architecture import Architecture
from fedfuse.privacy.chain import promises
from fedfuse.stopwatch import Stopwatch

RUN = re.compile(r"[0-9a-f]{16}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """Where one client runs, and what it has there.

    Parameters
    ----------
    configuration : str
        Of the run, as YAML.
    client_id : int
        Its place in the federation.
    states : Path
        The directory in which it keeps what must survive; one for each run is made in it.
    data : Path, optional
        The file of its own samples (see `fedfuse.data.files`). Without one it takes its part of the configured data.
    transfer : Path, optional
        The file of what everybody holds, where it is not where the configuration says.
    """

    configuration: str
    client_id: int
    states: Path
    data: Path | None = None
    transfer: Path | None = None


def deployed_node(context: Context) -> Node:
    """Read what the Flower run and the SuperNode are configured with.

    The node's configuration may have ``partition-id`` (the client id), ``data``, ``transfer`` and ``state`` (paths).

    Raises
    ------
    ConfigurationError
        If the run's overrides are wrong, or the node has no client id.
    """
    here = context.node_config
    client_id = here.get("partition-id")
    if isinstance(client_id, bool) or not isinstance(client_id, int) or client_id < 0:
        raise ConfigurationError(f"The node needs partition-id=N, its client id from 0 on, not {client_id!r}.")

    def path(name: str) -> Path | None:
        return Path(str(here[name])) if name in here else None

    return Node(
        configuration=_configuration(str(context.run_config.get("overrides", ""))),
        client_id=client_id,
        states=path("state") or Path.home() / ".fedfuse" / "clients",
        data=path("data"),
        transfer=path("transfer"),
    )


def simulated_node(configuration: str, states: Path, log: Path, context: Context) -> Node:
    """Make the virtual node of a simulation, whose worker logs where the whole run does."""
    _log_to(log)
    return Node(configuration, int(context.node_config["partition-id"]), states)


@functools.cache
def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("fedfuse").addHandler(handler)


@functools.lru_cache(maxsize=2)
def _configuration(overrides: str) -> str:
    return to_yaml(configuration_of({"overrides": overrides}))


def make_app(find_node: Callable[[Context], Node]) -> ClientApp:
    """Make the app of all clients.

    Parameters
    ----------
    find_node : Callable[[Context], Node]
        Says which client a message is for, and where it runs.
    """
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        """Say who this client is."""
        try:
            client, settings, _ = load(find_node(context))
            return Message(phases.describe(client, settings).to_record(), reply_to=message)
        except Exception as error:
            return _failed(message, error)

    @app.train("share")
    def share(message: Message, context: Context) -> Message:
        """Catch up, learn, express, protect."""
        return _answer(phases.share, SHARED, message, context, find_node)

    @app.train("absorb")
    def absorb(message: Message, context: Context) -> Message:
        """Absorb the fused knowledge and evaluate."""
        return _answer(phases.absorb_and_evaluate, ABSORBED, message, context, find_node)

    return app


app = make_app(deployed_node)


@dataclass(frozen=True)
class Assembled:
    """What a process keeps between messages: all that follows from the configuration and the files."""

    configuration: Configuration
    shared: Shared
    architectures: tuple[Architecture, ...]
    settings: ClientSettings
    clients: tuple[ClientData, ...]


@functools.lru_cache(maxsize=2)
def assemble(text: str, transfer: Path | None, own_data: bool) -> Assembled:
    """Compose what all clients in a process have in common, once.

    Parameters
    ----------
    text : str
        The configuration, as YAML.
    transfer : Path, optional
        The file of what everybody holds.
    own_data : bool
        Whether clients bring their own data; without, that of all of them is loaded, because in a simulation one
        process is many clients in turn.

    Raises
    ------
    ConfigurationError
        If the configuration, the data or the transfer set cannot be used.
    """
    configuration = from_yaml(text)
    if transfer is not None:
        configuration = replace(configuration, transfer=replace(configuration.transfer, path=str(transfer)))
    clients: tuple[ClientData, ...] = ()
    if own_data:
        shared = load_shared(configuration)
    else:
        federation = load_federation(configuration)
        clients = federation.clients
        shared = federation.shared
    return Assembled(
        configuration=configuration,
        shared=shared,
        architectures=make_architectures(configuration, shared),
        settings=make_client_settings(configuration, shared),
        clients=clients,
    )


def load(node: Node) -> tuple[Client, ClientSettings, EngineSettings]:
    """Load the client of a node, how it works, and how its work is executed.

    Raises
    ------
    ConfigurationError
        If the configuration, the data or the transfer set of the node cannot be used.
    """
    common = assemble(node.configuration, node.transfer, own_data=node.data is not None)
    if node.client_id >= common.configuration.num_clients:
        raise ConfigurationError(f"partition-id={node.client_id}, but num_clients={common.configuration.num_clients}.")
    settings = common.settings
    if node.data is None:
        data = common.clients[node.client_id]
    else:
        data = load_client(common.configuration, common.shared, node.client_id, node.data)
        if promises(settings.protectors):  # nobody averages these before the server sees them
            settings = replace(settings, share_facts=settings.share_facts - {"test_metrics"})
    return make_client(node.client_id, common.architectures, data), settings, common.configuration.engine


def _answer(
    phase: phases.Phase, finished: int, message: Message, context: Context, find_node: Callable[[Context], Node]
) -> Message:
    try:
        node = find_node(context)
        client, settings, engine = load(node)
        torch.set_num_threads(engine.threads)
        request = Request.from_record(message.content)
        store = DirectoryStore(_state_directory(node, request, context))
        generation = Generation(request.round, finished)
        state = phases.start_state(store, client, generation, request, settings)
        device = choose_device(engine.device, engine.tf32)
        # With one client a cohort, stacking has nothing to gain but on CUDA; who asks for it still gets it.
        stacked = engine.runner == "stacked" or (device.is_cuda and engine.runner == "auto")
        fit = choose_runner("stacked" if stacked else "sequential", client.architecture, device.is_cuda)
        with computing_on(device):
            (answer,) = phase([client], [state], [request], settings, fit, Stopwatch())
        store.save(client.client_id, generation, answer.state)
        return Message(answer.reply.to_record(), reply_to=message)
    except Exception as error:
        return _failed(message, error)


def _failed(message: Message, error: Exception) -> Message:
    kind = message.metadata.message_type
    if isinstance(error, ConfigurationError):
        logger.error("a message of type %s failed: %s", kind, error)
    else:
        logger.exception("a message of type %s failed", kind)
    return Message(failure_of(error).to_record(), reply_to=message)


def _state_directory(node: Node, request: Request, context: Context) -> Path:
    """Find this client's durable state; Flower's own state keeps only the place, because a restart loses it."""
    if not RUN.fullmatch(request.run):  # it comes from the wire, and becomes part of a path
        raise InvalidKnowledgeError("the run of the message has no valid name")
    directory = node.states / request.run
    context.state = RecordDict({"state": ConfigRecord({"directory": str(directory)})})
    return directory
