"""What a run is configured with: every value with its type and its range, and how it is kept in a file."""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf

from fedfuse.errors import ConfigurationError, unknown_name

Schema = TypeVar("Schema")

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
ENGINES = ("local", "ray")
RUNNERS = ("auto", "sequential", "stacked", "probe")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "float64")
FACTS = ("num_examples", "label_counts", "private_labels", "test_metrics")
OFFICIAL = "official"
CLOSED_FORM = "closed_form"


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
    """One training of one round: on private data (learn) or on fused knowledge (absorb).

    ``proximal`` pulls every step back to where the training started, as FedProx does. ``rehearse`` is the share of the
    loss that is of what the other training is about: of fused knowledge in learn, of own labels in absorb, where it can
    be ``"closed_form"``.
    """

    epochs: int
    batch_size: int
    optimizer: OptimizerSettings
    proximal: float = 0.0
    rehearse: float | str = 0.0

    def __post_init__(self) -> None:
        _whole_number("epochs", self.epochs, 1)
        _whole_number("batch_size", self.batch_size, 1)
        _number("proximal", self.proximal, "of at least 0", lambda strength: strength >= 0)
        if self.rehearse != CLOSED_FORM:
            allowed = f"from 0 to below 1, or for absorb {CLOSED_FORM}"
            _number("rehearse", self.rehearse, allowed, lambda share: 0 <= share < 1)  # type: ignore[arg-type]


@dataclass(frozen=True)
class EngineSettings:
    """How the work of clients is executed; ``timeout`` is in seconds, ``workers`` are processes, ``address`` is Ray's.

    ``tf32`` lets a CUDA device round the factors of products of float32 numbers to 10 bits.
    """

    name: str = "local"
    runner: str = "auto"
    precision: str = "float32"
    threads: int = 1
    timeout: float = 3600
    workers: int | None = None
    address: str | None = None
    device: str = "cpu"
    tf32: bool = False

    def __post_init__(self) -> None:
        _one_of("name", self.name, ENGINES)
        _one_of("runner", self.runner, RUNNERS)
        _one_of("device", self.device, DEVICES)
        _one_of("precision", self.precision, PRECISIONS)
        _whole_number("threads", self.threads, 1)
        _number("timeout", self.timeout, "above 0", lambda timeout: timeout > 0)
        if self.workers is not None:
            _whole_number("workers", self.workers, 1)
        if self.address is not None:
            _text("address", self.address)
        if not isinstance(self.tf32, bool):
            raise ConfigurationError(f"tf32 must be true or false, not {self.tf32!r}.")
        if self.tf32 and self.device == "cpu":
            raise ConfigurationError("tf32 is for a CUDA device; device=cpu computes in full precision.")
        if self.name == "ray" and self.device != "cpu":
            raise ConfigurationError(f"device={self.device} is for engine=local; engine=ray computes on processors.")
        if self.name == "ray" and self.runner == "stacked":
            raise ConfigurationError("runner=stacked trains clients together; engine=ray sends them one by one.")
        if self.runner == "probe" and (self.name == "ray" or self.workers not in (None, 1)):
            raise ConfigurationError("runner=probe measures in the process that trains: use engine=local, workers=1.")
        if self.workers not in (None, 1) and self.device == "cuda":
            raise ConfigurationError(
                f"workers={self.workers} is for device=cpu; one process computes on a CUDA device."
            )
        if self.workers is not None and self.address is not None:
            raise ConfigurationError("workers is for a Ray of the run's own; address names one that is running.")


def _float32() -> Component:
    return Component("float32", "fedfuse.encoding.float32.Float32", {})


def _held_out() -> Component:
    return Component("held_out", "fedfuse.data.transfer_sets.held_out", {"balanced": False})


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """The transfer set: how it is made, or the file that it is in, and what of it carries knowledge in a round.

    ``source`` makes it of ``size`` samples from the clients' data source, or from ``data`` where that is another one;
    ``policy`` chooses what clients are asked for in a round, and the steps of ``lesson`` what each learns from.
    ``seed`` draws it, by default the run's. The server, and nobody else, knows the labels of the first ``labelled``.
    """

    size: int = 300
    labelled: int = 0
    path: str | None = None
    seed: int | None = None
    data: Component | None = None
    source: Component = field(default_factory=_held_out)
    policy: Component
    lesson: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        _whole_number("size", self.size, 1)
        _whole_number("labelled", self.labelled, 0)
        if self.seed is not None:
            _whole_number("seed", self.seed, 0)
        if self.path is not None:
            _text("path", self.path)


@dataclass(frozen=True)
class SplitSettings:
    """What is used, and what is kept for testing: a share of all data, and shares of each client's own data.

    ``global_test`` can be ``"official"``: what the data source itself keeps for testing. ``samples`` uses only so many
    samples of the source. ``path`` is the file of a split made before.
    """

    global_test: float | str = 0.2
    validation: float = 0.15
    test: float = 0.25
    samples: int | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.global_test, str) and self.global_test != OFFICIAL:
            raise ConfigurationError(
                f"global_test must be a number between 0 and 1, or {OFFICIAL}, not {self.global_test!r}."
            )
        if self.samples is not None:
            _whole_number("samples", self.samples, 1)
        if self.path is not None:
            _text("path", self.path)
            if self.samples is not None:
                raise ConfigurationError("samples draws some of the data; path names a split of all of it.")
        for name in ("validation", "test") if self.global_test == OFFICIAL else ("global_test", "validation", "test"):
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
    encoding: Component = field(default_factory=_float32)
    learn: TrainingSettings
    absorb: TrainingSettings
    engine: EngineSettings
    share_facts: tuple[str, ...]
    local_baseline: bool
    output: str | None
    tracking: tuple[Component, ...] = ()
    corruption: tuple[Component, ...] = ()
    secure_rng: bool = True
    audit: tuple[Component, ...] = ()

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
        if isinstance(self.learn.rehearse, str):
            raise ConfigurationError(f"learn.rehearse must be a number; {self.learn.rehearse} is for absorb.rehearse.")
        if not isinstance(self.local_baseline, bool):
            raise ConfigurationError(f"local_baseline must be true or false, not {self.local_baseline!r}.")
        if not isinstance(self.secure_rng, bool):
            raise ConfigurationError(f"secure_rng must be true or false, not {self.secure_rng!r}.")
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
    for known in fields(schema):  # type: ignore[arg-type]
        optional = known.default is not MISSING or known.default_factory is not MISSING
        if not optional and known.name not in values:
            raise ConfigurationError(f"{prefix}{known.name} is missing.")
    arguments = {name: _read_value(types[name], value, prefix + name) for name, value in values.items()}
    try:
        return schema(**arguments)
    except ConfigurationError as error:  # its text starts with the name of the field
        raise ConfigurationError(f"{prefix}{error}") from None


def _read_value(kind: Any, value: object, key: str) -> object:  # noqa: ANN401 a type hint
    if kind == Component | None:
        return None if value is None else _read(Component, value, key)
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
