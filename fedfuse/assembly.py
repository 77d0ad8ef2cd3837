"""From a configuration to the objects of a run; server and clients assemble alike, from the same configuration."""

import importlib
import inspect
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedfuse.audit.audit import Audit
from fedfuse.client.client import Client, ClientSettings, Predictors
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.configuration import Component, Configuration
from fedfuse.data.federation import (
    ClientData,
    Dealt,
    Federation,
    MakeTransfer,
    Shared,
    TransferSet,
    deal,
    federate,
    split_client,
)
from fedfuse.data.files import read_client, read_shared
from fedfuse.data.samples import LabelledData, Population
from fedfuse.data.transfer_sets import Chosen, from_elsewhere
from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import Architecture, describe
from fedfuse.predictors.predictor import FUSED_HEAD
from fedfuse.privacy.chain import check_chain, promises, record_of
from fedfuse.privacy.exposure import Exposure
from fedfuse.randomness import numpy_generator
from fedfuse.rounds import RoundSettings
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy
from fedfuse.tracking.tracker import Tracker

RESUME = "resume="
# Facts about a client's data that are not told where a guarantee is claimed: no noise covers them.
COUNTS = frozenset({"num_examples", "label_counts", "private_labels"})
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def configuration_of(run_config: Mapping[str, object]) -> Configuration:
    """Compose the configuration of a Flower run from its one key ``overrides``, written as in a shell."""
    return compose([word for word in _words(run_config) if not word.startswith(RESUME)])


def resumed_directory(run_config: Mapping[str, object]) -> Path | None:
    """Find the directory on the server that a Flower run continues in: ``resume=DIR`` among its ``overrides``."""
    named = [word.removeprefix(RESUME) for word in _words(run_config) if word.startswith(RESUME)]
    return Path(named[-1]) if named else None


def _words(run_config: Mapping[str, object]) -> list[str]:
    text = str(run_config.get("overrides", ""))
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"Cannot read overrides={text!r}: {error}.") from error


def load_data(component: Component) -> LabelledData:
    """Load a data source.

    Raises
    ------
    ConfigurationError
        If it cannot be loaded, or returns something else than `LabelledData`.
    """
    data = build(component, "data")
    if not isinstance(data, LabelledData):
        raise ConfigurationError(
            f"data {component.name} ({component.target}) gave {type(data).__name__}; "
            "it must return fedfuse.data.samples.LabelledData."
        )
    return data


def deal_data(configuration: Configuration, data: LabelledData | None = None) -> Dealt:
    """Load the data, unless it is given, and share it out.

    Raises
    ------
    ConfigurationError
        If the data cannot be shared out in this way.
    """

    def partition(population: Population) -> list[NDArray[np.int64]]:
        parts: list[NDArray[np.int64]] = build(
            configuration.partition,
            "partition",
            population=population,
            num_clients=configuration.num_clients,
            seed=configuration.seed,
        )
        return parts

    data = data or load_data(configuration.data)
    return deal(
        data,
        partition,
        _transfer_maker(configuration, data),
        configuration.split,
        configuration.seed,
        configuration.transfer.labelled,
    )


def _transfer_maker(configuration: Configuration, data: LabelledData) -> MakeTransfer | TransferSet:
    """Say how the transfer set is chosen: read from a file, or made from the clients' data source or another one."""
    settings = configuration.transfer
    if settings.path is not None:
        shared = read_shared(Path(settings.path))
        if shared.class_names != data.class_names:
            raise ConfigurationError(
                f"transfer.path={settings.path} has the classes {', '.join(shared.class_names)}; data "
                f"{configuration.data.name} has {', '.join(data.class_names)}."
            )
        return shared.transfer
    generator = numpy_generator(configuration.seed if settings.seed is None else settings.seed, "transfer set")

    def choose(pool: LabelledData, available: NDArray[np.int64]) -> Chosen:
        chosen: Chosen = build(
            settings.source, "transfer", pool=pool, available=available, size=settings.size, generator=generator
        )
        return chosen

    if settings.data is None:
        return partial(choose, data)
    other = load_data(settings.data)
    return lambda free: from_elsewhere(choose(other, other.population.positions), other, data.samples, free)


def load_federation(configuration: Configuration) -> Federation:
    """Load all data of a run, in the configured precision; for errors see `deal_data`."""
    federation = federate(deal_data(configuration), configuration.split, configuration.seed)
    return Federation(
        shared=federation.shared.to(DTYPES[configuration.engine.precision]),
        clients=tuple(
            _prepare(configuration, client, own, federation.shared.num_classes)
            for client, own in enumerate(federation.clients)
        ),
        server_labels=federation.server_labels,
        num_unused=federation.num_unused,
    )


def load_shared(configuration: Configuration) -> Shared:
    """Load what everybody holds, in the configured precision: from ``transfer.path``, or held out of the data."""
    path = configuration.transfer.path
    shared = deal_data(configuration).shared if path is None else read_shared(Path(path))
    return shared.to(DTYPES[configuration.engine.precision])


def load_server_labels(configuration: Configuration) -> Tensor | None:
    """Load the labels of the first transfer samples, where the server is to know some: int64 ``[L]``."""
    return deal_data(configuration).server_labels if configuration.transfer.labelled else None


def load_client(configuration: Configuration, shared: Shared, client_id: int, path: Path) -> ClientData:
    """Load the data of one client from its own file, in the configured precision.

    Raises
    ------
    ConfigurationError
        If the file cannot be used, or has too few samples.
    """
    own = split_client(client_id, read_client(path, shared), configuration.split, configuration.seed)
    return _prepare(configuration, client_id, own, shared.num_classes)


def _prepare(configuration: Configuration, client_id: int, own: ClientData, num_classes: int) -> ClientData:
    """Corrupt the data of one client as configured, and cast it."""
    for component in configuration.corruption:
        own = build(
            component,
            "corruption",
            data=own,
            client=client_id,
            num_clients=configuration.num_clients,
            num_classes=num_classes,
            seed=configuration.seed,
        )
    return own.to(DTYPES[configuration.engine.precision])


def make_architectures(configuration: Configuration, shared: Shared) -> tuple[Architecture, ...]:
    """Describe the configured models, in the order in which they are dealt to clients.

    They have a second head where a predictor needs one. A model is given ``input_shape`` and ``num_classes`` if it
    names them and the configuration does not.
    """
    input_shape = tuple(shared.transfer.inputs.shape[1:])
    known = {"input_shape": input_shape, "num_classes": shared.num_classes}

    def builder(component: Component) -> Callable[[], nn.Module]:
        given = (known.keys() & _parameters_of(component.target)) - component.arguments.keys()
        return partial(build, component, "model", **{name: known[name] for name in given})

    # Where a model is named for each client, many are the same: each is looked at once.
    different = [
        component for row, component in enumerate(configuration.model) if component not in configuration.model[:row]
    ]
    predictors = make_predictors(configuration)
    fused_head = any(FUSED_HEAD in one.needs for one in (predictors.share, predictors.personal, predictors.general))
    architectures = [describe(one.name, builder(one), input_shape, shared.num_classes, fused_head) for one in different]
    return tuple(architectures[different.index(component)] for component in configuration.model)


def _parameters_of(target: str) -> set[str]:
    """List the parameters that a target names; none if it cannot be looked at, and building it will say why."""
    module_name, _, name = target.rpartition(".")
    try:
        return set(inspect.signature(getattr(importlib.import_module(module_name), name)).parameters)
    except Exception:  # the user's own module can raise anything
        return set()


def make_client(client_id: int, architectures: tuple[Architecture, ...], data: ClientData) -> Client:
    """Make one client; the architectures are dealt to clients in turn."""
    return Client(client_id, architectures[client_id % len(architectures)], data)


def make_clients(federation: Federation, architectures: tuple[Architecture, ...]) -> tuple[Client, ...]:
    """Make all clients of a federation."""
    return tuple(make_client(client_id, architectures, data) for client_id, data in enumerate(federation.clients))


def make_predictors(configuration: Configuration) -> Predictors:
    """Build how clients answer."""
    predictor = configuration.predictor
    return Predictors(
        share=build(predictor.share, "predictor"),
        personal=build(predictor.personal, "predictor"),
        general=build(predictor.general, "predictor"),
    )


def make_client_settings(
    configuration: Configuration, shared: Shared, num_examples: tuple[int, ...] | None = None
) -> ClientSettings:
    """Build what every client works with; ``num_examples`` are all clients' numbers of training examples, if known."""
    protectors = tuple(build(component, "protector") for component in configuration.privacy)
    check_chain(configuration.privacy, protectors)
    return ClientSettings(
        seed=configuration.seed,
        dtype=DTYPES[configuration.engine.precision],
        class_names=shared.class_names,
        transfer=shared.transfer,
        global_test=shared.global_test,
        learn=configuration.learn,
        absorb=configuration.absorb,
        objective=build(configuration.objective, "objective"),
        predictors=make_predictors(configuration),
        protectors=protectors,
        share_facts=frozenset(configuration.share_facts) - (COUNTS if promises(protectors) else frozenset()),
        lesson=tuple(build(component, "transfer lesson") for component in configuration.transfer.lesson),
        encoding=build(configuration.encoding, "encoding"),
        exposure=exposure_of(configuration, shared, num_examples),
        secure_rng=configuration.secure_rng,
        protection=record_of(configuration.privacy, configuration.secure_rng),
    )


def exposure_of(configuration: Configuration, shared: Shared, num_examples: tuple[int, ...] | None = None) -> Exposure:
    """Say how much clients release in a run, at most."""
    num_transfer = len(shared.transfer)
    policy = build(configuration.transfer.policy, "transfer policy")
    return Exposure(
        num_rounds=configuration.num_rounds,
        # A policy of a user's own need not say.
        num_rows=policy.most_rows(num_transfer) if hasattr(policy, "most_rows") else num_transfer,
        num_classes=shared.num_classes,
        num_clients=configuration.num_clients,
        epochs=configuration.learn.epochs,
        batch_size=configuration.learn.batch_size,
        num_examples=num_examples,
        secure=configuration.secure_rng,
    )


def make_server(
    configuration: Configuration,
    shared: Shared,
    architectures: tuple[Architecture, ...],
    labels: Tensor | None = None,
) -> Server:
    """Build what the server has; ``labels`` are those of the first transfer samples, which it alone knows."""
    return Server(
        seed=configuration.seed,
        transfer_inputs=shared.transfer.inputs,
        transfer_digest=shared.transfer.digest,
        class_names=shared.class_names,
        architectures={architecture.signature: architecture for architecture in architectures},
        dtype=DTYPES[configuration.engine.precision],
        transfer_rows=build(configuration.transfer.policy, "transfer policy"),
        labels=labels,
        training=configuration.absorb,
        secure_rng=configuration.secure_rng,
    )


def make_round_settings(configuration: Configuration) -> RoundSettings:
    """Pick what the round loop needs."""
    return RoundSettings(
        seed=configuration.seed,
        num_clients=configuration.num_clients,
        fraction=configuration.fraction,
        min_clients=configuration.min_clients,
        share_facts=frozenset(configuration.share_facts),
        encoding=build(configuration.encoding, "encoding"),
        protection=record_of(configuration.privacy, configuration.secure_rng),
    )


def make_trackers(configuration: Configuration) -> list[Tracker]:
    """Build those that are told how the run goes."""
    return [build(component, "tracking") for component in configuration.tracking]


def make_audits(configuration: Configuration) -> dict[str, Audit]:
    """Build the attacks on the run, by name."""
    return {component.name: build(component, "audit") for component in configuration.audit}


def make_strategy(component: Component) -> FusionStrategy:
    """Build a strategy.

    Raises
    ------
    ConfigurationError
        If the target is no `FusionStrategy`.
    """
    strategy = build(component, "strategy")
    if not isinstance(strategy, FusionStrategy):
        raise ConfigurationError(
            f"strategy {component.name} ({component.target}) is no subclass of fedfuse.strategy.FusionStrategy."
        )
    return strategy
