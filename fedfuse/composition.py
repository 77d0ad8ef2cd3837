"""Compose a configuration from the files in ``configs`` and from overrides such as ``seed=3``.

Hydra reads the overrides and composes the groups of which one part is chosen (``strategy=knfu``). Values are
set here, so that a wrong key is answered with the nearest valid one. So are the parts that come in lists (``model``,
``privacy``, ``corruption``, ``tracking``, ``audit``), in roles (``predictor``) or with values of their own
(``encoding``): Hydra would merge a list of choices into one.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose as compose_groups
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedfuse import catalogue
from fedfuse.configuration import Configuration, from_mapping
from fedfuse.errors import ConfigurationError, unknown_name
from fedfuse.models.assignment import assign

HYDRA_GROUPS = ("data", "partition", "transfer", "transfer/policy", "strategy", "objective", "predictor", "engine")
# Keys that are also known by another name.
ALIASES = {"privacy.secure_rng": "secure_rng"}
MISSING = "???"
CUSTOM = "custom"


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> Configuration:
    """Compose a configuration.

    Parameters
    ----------
    overrides : Sequence[str]
        In Hydra's grammar, for example ``strategy=knfu``, ``model=[mlp_small,cnn_small]``, or
        ``++strategy.strength=2`` for a key that no file has. Of two for the same key the last one counts.
    config_dir : Path | None
        A folder of the user's own, laid out like ``configs``, with more parts to choose from.

    Raises
    ------
    ConfigurationError
        One line that says what is wrong, with the nearest valid name.
    """
    folders = catalogue.folders(config_dir)
    choices: dict[str, str] = {}
    values: list[Override] = []
    for override in map(_parse, overrides):
        if override.is_sweep_override():
            raise ConfigurationError(
                f"{override.input_line} gives several values: add -m to run each, or write [a,b] for a list."
            )
        group = override.key_or_group.replace(".", "/")
        if group in HYDRA_GROUPS and not isinstance(override.value(), dict):
            choices[group] = _choice(group, override, folders)
        else:
            values.append(override)
    config, chosen = _compose_groups(choices, folders)
    for override in values:
        _set(config, override)
    _check_values(OmegaConf.to_container(config))  # what is missing is named where it is, not where it is referred to
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"{error.full_key}: {str(error).splitlines()[0]}.") from error
    _check_values(plain)
    return from_mapping(_name_parts(plain, chosen, folders))


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """List every combination of overrides with several values: ``a=1,2``, ``choice(a,b)``, ``range(0,3)``.

    Raises
    ------
    ConfigurationError
        If an override cannot be read, or if its values cannot be listed.
    """
    axes = []
    for override in map(_parse, overrides):
        if not override.is_sweep_override():
            axes.append([str(override.input_line)])
            continue
        if not override.is_discrete_sweep() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            raise ConfigurationError(f"{override.input_line} cannot be listed: use a,b or choice(a,b) or range(0,3).")
        try:
            axis = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        except (HydraException, ValueError) as error:
            raise ConfigurationError(f"{override.input_line} cannot be listed: {_one_line(error)}") from error
        if not axis:
            raise ConfigurationError(f"{override.input_line} has no values.")
        axes.append(axis)
    return [list(combination) for combination in itertools.product(*axes)]


def quote(text: str) -> str:
    """Quote a text, where it must be, so that it can be the value of an override, whatever characters it has."""
    if re.fullmatch(r"[\w.-]*/[\w./-]*", text):  # a plain path is never read as anything else
        return text
    return str(QuotedString(text, Quote.single).with_quotes())


def _parse(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.key_or_group:
            raise HydraException("There is no key.")
    except HydraException as error:
        raise ConfigurationError(
            f"Cannot read {text!r}: write key=value, for example seed=3, model=[mlp_small,cnn_small] or, "
            "with special characters, output='my run (1)'."
        ) from error
    return override


def _choice(group: str, override: Override, folders: Sequence[Path]) -> str:
    """Check the name that an override chooses from a group."""
    if override.type is not OverrideType.CHANGE or override.package:
        raise ConfigurationError(f"{override.input_line} is not possible: write {group}=NAME.")
    valid = catalogue.names(group, folders)
    name = override.value()
    if not isinstance(name, str) or name not in valid:
        raise unknown_name(group, override.get_value_string(), valid)
    return name


def _compose_groups(choices: dict[str, str], folders: Sequence[Path]) -> tuple[DictConfig, dict[str, str]]:
    """Let Hydra compose the main configuration with one part of each group, and say which part it took."""
    first, *others = folders
    overrides = [f"{group}={quote(name)}" for group, name in choices.items()]
    overrides.append(f"hydra.searchpath=[{','.join(quote(f'file://{folder}') for folder in others)}]")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(first), version_base="1.3"):
            config = compose_groups("config", overrides, return_hydra_config=True)
    except Exception as error:  # a user's own files can fail in many ways, not all of which Hydra wraps
        raise ConfigurationError(f"Cannot compose the configuration: {_one_line(error)}") from error
    chosen = {str(group): str(name) for group, name in config.hydra.runtime.choices.items()}
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config, chosen


def _set(config: DictConfig, override: Override) -> None:
    """Set the value of one key, which must exist unless the override starts with a plus."""
    key, value = ALIASES.get(override.key_or_group, override.key_or_group), override.value()
    if override.is_delete() or override.package:
        raise ConfigurationError(f"{override.input_line} is not possible: write {key}=VALUE.")
    if override.type is OverrideType.CHANGE:
        _check_key(config, key)
    try:
        # A part that is named is another part, to which the values of the one before do not belong.
        is_change = isinstance(value, dict) and "name" not in value
        is_change = is_change and isinstance(OmegaConf.select(config, key), DictConfig)
        OmegaConf.update(config, key, value, merge=is_change)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigurationError(f"Cannot set {override.input_line}: {_one_line(error)}") from error


def _check_key(config: DictConfig, key: str) -> None:
    """Refuse a key that the configuration does not have."""
    here: Any = OmegaConf.to_container(config)
    known = _dotted_keys(here)
    if key in known:
        return
    parent = ""
    path, _, ending = key.replace("/", ".").rpartition(".")
    for name in path.split("."):
        if not isinstance(here.get(name), dict):
            break
        here, parent = here[name], f"{parent}{name}."
    same_ending = [other for other in known if other.rpartition(".")[2] == ending]
    near = (
        get_close_matches(key, same_ending, n=2, cutoff=0.0)
        or get_close_matches(key, [parent + name for name in here], n=1)
        or get_close_matches(key, known, n=1, cutoff=0.5)
    )
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    valid = ", ".join(parent + name for name in here)
    unlisted = f" An argument that is not listed: ++{key}=VALUE." if "_target_" in here else ""
    raise ConfigurationError(f"Unknown key {key!r}.{hint} Valid: {valid}.{unlisted}")


def _dotted_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in values.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += _dotted_keys(value, f"{prefix}{name}.")
    return keys


def _check_values(value: object, key: str = "") -> None:
    """Refuse a value that a file leaves to the user, and numbers that are not finite."""
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_values(item, f"{key}.{name}" if key else str(name))
    elif value == MISSING and not key.endswith("_target_"):
        raise ConfigurationError(f"{key} has no value yet: give one with {key}=VALUE.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{key} must be a finite number, not {value!r}.")


def _name_parts(values: dict[str, Any], chosen: Mapping[str, str], folders: Sequence[Path]) -> dict[str, Any]:
    """Turn every part into the name, target and arguments of a `Component`."""
    named = dict(values)
    for group in ("data", "partition", "strategy", "objective"):
        named[group] = _component(group, chosen.get(group, "custom"), values.get(group))
    named["objective"] = _with_losses(named["objective"], folders)
    transfer, predictor = values.get("transfer"), values.get("predictor")
    if isinstance(transfer, dict):
        name = chosen.get("transfer/policy", "custom")
        other = transfer.get("data")
        named["transfer"] = transfer | {
            "policy": _component("transfer/policy", name, transfer.get("policy")),
            "source": _component(
                "transfer", chosen.get("transfer", "custom"), transfer.get("source"), "transfer.source"
            ),
            "data": None if other is None else _part("data", other, folders),
            "lesson": [_part("transfer/lesson", item, folders) for item in _listed(transfer.get("lesson"))],
        }
    if isinstance(predictor, dict):
        named["predictor"] = {role: _part("predictor/answer", item, folders) for role, item in predictor.items()}
    if "encoding" in values:
        named["encoding"] = _part("encoding", values["encoding"], folders)
    if isinstance(values.get("engine"), dict):
        named["engine"] = {"name": chosen.get("engine", "local")} | values["engine"]
    for group in ("model", "privacy", "corruption", "tracking", "audit"):
        items = values.get(group)
        if group == "model" and isinstance(items, dict) and "name" not in items:
            items = _models_of_clients(items, values.get("num_clients"))
        named[group] = [_part(group, item, folders) for item in _listed(items)]
    return named


def _listed(items: object) -> list[object]:
    return items if isinstance(items, list) else [items] if items else []


def _models_of_clients(models: Mapping[object, object], num_clients: object) -> list[object]:
    if not isinstance(num_clients, int) or num_clients < 1:
        raise ConfigurationError(f"num_clients must be a whole number of at least 1, not {num_clients!r}.")
    return assign(models, num_clients)


def _part(group: str, item: object, folders: Sequence[Path]) -> dict[str, Any]:
    """Look up ``cnn_small``, or ``{name: cnn_small, channels: [4, 8]}``: the other keys change its values."""
    changes = dict(item) if isinstance(item, dict) else {"name": item}
    name = changes.pop("name", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"A {group} is NAME or {{name: NAME, key: value}}, not {item!r}.")
    values = catalogue.read(group, name, folders)
    if name == CUSTOM and "_target_" not in changes:
        raise ConfigurationError(
            f"{group} {CUSTOM} has no class: write {{name: {CUSTOM}, _target_: my_package.My{group.capitalize()}}}."
        )
    for key in changes:
        if key not in values and name != CUSTOM:  # what a class of one's own takes, no file knows
            raise unknown_name(f"key of {group} {name}", str(key), values)
    values |= changes
    for key, value in values.items():
        if value == MISSING and key != "_target_":
            raise ConfigurationError(f"{group} {name} needs a value for {key}: write {{name: {name}, {key}: VALUE}}.")
    return _component(group, name, values)


def _with_losses(objective: dict[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """Look up the objectives that an objective is made of: its ``terms``, or the ``loss`` that it wraps."""
    arguments = dict(objective["arguments"])
    if arguments.get("terms"):
        arguments["terms"] = [_objective(item, folders) for item in _listed(arguments["terms"])]
    if arguments.get("loss"):
        arguments["loss"] = _objective(arguments["loss"], folders)
    return objective | {"arguments": arguments}


def _objective(item: object, folders: Sequence[Path]) -> dict[str, Any]:
    return _with_losses(_part("objective", item, folders), folders)


def _component(group: str, name: str, values: object, key: str | None = None) -> dict[str, Any]:
    if not isinstance(values, dict) or values.get("_target_", MISSING) == MISSING:
        key, kind = key or group.replace("/", "."), group.rpartition("/")[2].capitalize()
        raise ConfigurationError(
            f"{group} {name} has no class: write {group}={name} {key}._target_=my_package.My{kind}"
        )
    arguments = {key: value for key, value in values.items() if key != "_target_"}
    return {"name": name, "target": values["_target_"], "arguments": arguments}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
