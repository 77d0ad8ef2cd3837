"""The Flower ClientApp: describe, share, absorb; thin. Each handler is the call for many clients, made with one."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedfuse.assembly import configuration_of, load_federation, make_architectures, make_client_settings, make_clients
from fedfuse.client import phases
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.failure import failure_of
from fedfuse.client.state import ABSORBED, SHARED, DirectoryStore, Generation
from fedfuse.engine.runner import choose_runner
from fedfuse.messages import Request
from fedfuse.stopwatch import Stopwatch

logger = logging.getLogger(__name__)
app = ClientApp()


@dataclass(frozen=True)
class Assembled:
    """What a process keeps between messages; all of it follows from the configuration."""

    clients: tuple[Client, ...]
    settings: ClientSettings
    runner: str
    threads: int


@functools.lru_cache(maxsize=2)
def assemble(overrides: str) -> Assembled:
    """Compose the configuration and load the data, once a process."""
    configuration = configuration_of({"overrides": overrides})
    federation = load_federation(configuration)
    architectures = make_architectures(configuration, federation)
    # With one client a cohort, stacking has nothing to gain.
    runner = "stacked" if configuration.engine.runner == "stacked" else "sequential"
    return Assembled(
        clients=make_clients(federation, architectures),
        settings=make_client_settings(configuration, federation),
        runner=runner,
        threads=configuration.engine.threads,
    )


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this client is."""
    try:
        assembled, client = _client_of(context)
        return Message(phases.describe(client, assembled.settings).to_record(), reply_to=message)
    except Exception as error:
        return _failed(message, error)


@app.train("share")
def share(message: Message, context: Context) -> Message:
    """Catch up, learn, express, protect."""
    return _answer(phases.share, SHARED, message, context)


@app.train("absorb")
def absorb(message: Message, context: Context) -> Message:
    """Absorb the fused knowledge and evaluate."""
    return _answer(phases.absorb_and_evaluate, ABSORBED, message, context)


def _answer(phase: phases.Phase, finished: int, message: Message, context: Context) -> Message:
    try:
        assembled, client = _client_of(context)
        torch.set_num_threads(assembled.threads)
        request = Request.from_record(message.content)
        store = DirectoryStore(_state_directory(context))
        generation = Generation(request.round, finished)
        state = phases.start_state(store, client, generation, assembled.settings)
        fit = choose_runner(assembled.runner, client.architecture)
        (answer,) = phase([client], [state], [request], assembled.settings, fit, Stopwatch())
        store.save(client.client_id, generation, answer.state)
        return Message(answer.reply.to_record(), reply_to=message)
    except Exception as error:
        return _failed(message, error)


def _failed(message: Message, error: Exception) -> Message:
    logger.exception("a message of type %s failed", message.metadata.message_type)
    return Message(failure_of(error).to_record(), reply_to=message)


def _client_of(context: Context) -> tuple[Assembled, Client]:
    assembled = assemble(str(context.run_config.get("overrides", "")))
    clients = {client.client_id: client for client in assembled.clients}
    return assembled, clients[int(context.node_config["partition-id"])]


def _state_directory(context: Context) -> Path:
    """Find this client's durable state; Flower's own state keeps only the place, because a restart loses it."""
    default = Path.home() / ".fedfuse" / "clients"
    directory = Path(str(context.node_config.get("state-dir", default))) / str(context.run_id)
    context.state = RecordDict({"state": ConfigRecord({"directory": str(directory)})})
    return directory
