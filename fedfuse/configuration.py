"""What a run is configured with: every value with its type and its range, and how it is kept in a file."""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf

from fedfuse.errors import ConfigurationError, unknown_name

Schema = TypeVar("Schema")

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
ENGINES = ("local", "ray")
RUNNERS = ("auto", "sequential", "stacked")
PRECISIONS = ("float32", "float64")
FACTS = ("num_examples", "test_metrics")


@dataclass(frozen=True)
class Component:
    """One part of a run that is chosen by name, for example the strategy ``knfu``.

    Parameters
    ----------
    name : str
        The name that was chosen: that of its file in ``configs``.
    target : str
        The import path of the class or function that makes it.
    arguments : Mapping[str, Any]
        What to call the target with.
    """

    name: str
    target: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        _text("name", self.name)
        _text("target", self.target)
        if not isinstance(self.arguments, Mapping):
            raise ConfigurationError(f"arguments must be a mapping, not {self.arguments!r}.")


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser of a training; ``momentum`` is for sgd and rmsprop."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.5
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _one_of("name", self.name, OPTIMIZERS)
        _number("lr", self.lr, "above 0", lambda lr: lr > 0)
        _number("momentum", self.momentum, "from 0 to below 1", lambda momentum: 0 <= momentum < 1)
        _number("weight_decay", self.weight_decay, "of at least 0", lambda decay: decay >= 0)


@dataclass(frozen=True)
class TrainingSettings:
    """One training of one round: on private data (learn) or on fused knowledge (absorb)."""

    epochs: int
    batch_size: int
    optimizer: OptimizerSettings

    def __post_init__(self) -> None:
        _whole_number("epochs", self.epochs, 1)
        _whole_number("batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class EngineSettings:
    """How the work of clients is executed; ``timeout`` is in seconds, ``workers`` and ``address`` are for Ray."""

    name: str = "local"
    runner: str = "auto"
    precision: str = "float32"
    threads: int = 1
    timeout: float = 3600
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        _one_of("name", self.name, ENGINES)
        _one_of("runner", self.runner, RUNNERS)
        _one_of("precision", self.precision, PRECISIONS)
        _whole_number("threads", self.threads, 1)
        _number("timeout", self.timeout, "above 0", lambda timeout: timeout > 0)
        if self.workers is not None:
            _whole_number("workers", self.workers, 1)
        if self.address is not None:
            _text("address", self.address)
        if self.name == "ray" and self.runner == "stacked":
            raise ConfigurationError("runner=stacked trains clients together; engine=ray sends them one by one.")
        if self.workers is not None and self.address is not None:
            raise ConfigurationError("workers is for a Ray of the run's own; address names one that is running.")


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """The transfer set: how many samples are held out for it, or the file that it is in, and what carries knowledge."""

    size: int = 300
    path: str | None = None
    policy: Component

    def __post_init__(self) -> None:
        _whole_number("size", self.size, 1)
        if self.path is not None:
            _text("path", self.path)


@dataclass(frozen=True)
class SplitSettings:
    """What is kept for testing: a share of all data, and shares of each client's own data."""

    global_test: float = 0.2
    validation: float = 0.15
    test: float = 0.25

    def __post_init__(self) -> None:
        for name in ("global_test", "validation", "test"):
            _number(name, getattr(self, name), "between 0 and 1", lambda share: 0 < share < 1)
        if self.validation + self.test >= 1:
            raise ConfigurationError(
                f"validation ({self.validation}) and test ({self.test}) together must stay below 1."
            )


@dataclass(frozen=True)
class PredictorSettings:
    """How a client answers: when it shares, for its owner, and for a population that it has not seen."""

    share: Component
    personal: Component
    general: Component


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything that determines a run; ``configs/config.yaml`` says what each value is for."""

    seed: int
    num_clients: int
    num_rounds: int
    fraction: float
    min_clients: int
    model: tuple[Component, ...]
    data: Component
    partition: Component
    split: SplitSettings
    transfer: TransferSettings
    strategy: Component
    objective: Component
    predictor: PredictorSettings
    privacy: tuple[Component, ...]
    learn: TrainingSettings
    absorb: TrainingSettings
    engine: EngineSettings
    share_facts: tuple[str, ...]
    local_baseline: bool
    output: str | None
    tracking: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        _whole_number("seed", self.seed, 0)
        _whole_number("num_clients", self.num_clients, 1)
        _whole_number("num_rounds", self.num_rounds, 1)
        _number("fraction", self.fraction, "above 0 and at most 1", lambda fraction: 0 < fraction <= 1)
        _whole_number("min_clients", self.min_clients, 1)
        if self.min_clients > self.num_clients:
            raise ConfigurationError(
                f"min_clients must be at most num_clients ({self.num_clients}), not {self.min_clients}."
            )
        if not self.model:
            raise ConfigurationError("model must name at least one model, for example model=[mlp_small].")
        for index, fact in enumerate(self.share_facts):
            _one_of(f"share_facts[{index}]", fact, FACTS)
        if not isinstance(self.local_baseline, bool):
            raise ConfigurationError(f"local_baseline must be true or false, not {self.local_baseline!r}.")
        if self.output is not None:
            _text("output", self.output)


def from_mapping(values: object) -> Configuration:
    """Check plain values, nested like `Configuration`, and turn them into one.

    Raises
    ------
    ConfigurationError
        Names the dotted key that is unknown, missing, or has a value that is not allowed.
    """
    return _read(Configuration, values, "")


def to_yaml(configuration: Configuration) -> str:
    """Write a configuration as YAML; `from_yaml` reads it back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(configuration)))


def from_yaml(text: str) -> Configuration:
    """Read what `to_yaml` wrote.

    Raises
    ------
    ConfigurationError
        If the text is not YAML, or for the reasons of `from_mapping`.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.create(text))
    except Exception as error:  # YAML and OmegaConf raise many kinds, and nothing else is done here
        raise ConfigurationError(f"The configuration is not valid: {' '.join(str(error).split())}") from error
    return from_mapping(values)


def _read(schema: type[Schema], values: object, key: str) -> Schema:
    types = get_type_hints(schema)
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{key} must be a mapping with the keys {', '.join(types)}, not {values!r}.")
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in types:
            raise unknown_name("key", f"{prefix}{name}", [prefix + known for known in types])
    for field in fields(schema):  # type: ignore[arg-type]
        if field.default is MISSING and field.name not in values:
            raise ConfigurationError(f"{prefix}{field.name} is missing.")
    arguments = {name: _read_value(types[name], value, prefix + name) for name, value in values.items()}
    try:
        return schema(**arguments)
    except ConfigurationError as error:  # its text starts with the name of the field
        raise ConfigurationError(f"{prefix}{error}") from None


def _read_value(kind: Any, value: object, key: str) -> object:  # noqa: ANN401 a type hint
    if is_dataclass(kind):
        return _read(kind, value, key)  # type: ignore[arg-type]
    if kind not in (tuple[Component, ...], tuple[str, ...]):
        return value
    if not isinstance(value, list):
        raise ConfigurationError(f"{key} must be a list, for example {key}=[a,b], not {value!r}.")
    if kind == tuple[str, ...]:
        return tuple(value)
    return tuple(_read(Component, item, f"{key}[{index}]") for index, item in enumerate(value))


def _whole_number(key: str, value: int, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ConfigurationError(f"{key} must be a whole number of at least {smallest}, not {value!r}.")


def _number(key: str, value: float, allowed: str, holds: Callable[[float], bool]) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if not is_number or not holds(value):
        raise ConfigurationError(f"{key} must be a number {allowed}, not {value!r}.")


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"{key} must be one of {', '.join(allowed)}, not {value!r}.{hint}")


def _text(key: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{key} must be text, not {value!r}.")
