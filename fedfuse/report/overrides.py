"""The words of a command that composes a given configuration: what in it differs from the defaults."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from fedfuse import catalogue
from fedfuse.composition import MISSING, compose, quote
from fedfuse.configuration import Component, Configuration
from fedfuse.errors import ConfigurationError

GROUPS = ("data", "strategy", "engine")
TARGET = "_target_"
READ_AS_OTHER_THAN_TEXT = ("null", "true", "false", "nan", "inf")


def overrides_of(configuration: Configuration) -> list[str] | None:
    """Find overrides from which `fedfuse.composition.compose` makes a configuration again.

    Parameters
    ----------
    configuration : Configuration
        Of any run; its ``output`` is ignored.

    Returns
    -------
    list of str, or None
        The overrides, which have been composed and compared; none are needed for the defaults. None where no such
        words were found, for example because a part comes from a folder of the user's own.
    """
    wanted = replace(configuration, output=None)
    try:
        overrides = _choices(compose([]), wanted)
        base = compose(overrides)
        overrides += _brought_along(base, wanted)  # known only now: data may bring a partition, a strategy an objective
        base = compose(overrides)
        overrides += _changes("", base, wanted)
        return overrides if compose(overrides) == wanted else None
    except ConfigurationError:
        return None


def _choices(base: Configuration, wanted: Configuration) -> list[str]:
    """Choose the parts of which there is one each, and set what their files leave to the user."""
    choices = []
    for group in GROUPS:
        part = getattr(wanted, group)
        if part.name != getattr(base, group).name:
            choices += _choice(group, part)
    source = wanted.transfer.source
    if source.name != base.transfer.source.name:
        choices += _choice("transfer", source, "transfer.source")
        if wanted.transfer.data is not None:
            choices.append(f"transfer.data={_part('data', wanted.transfer.data)}")
    if wanted.transfer.policy.name != base.transfer.policy.name:
        choices.append(f"transfer/policy={wanted.transfer.policy.name}")
    return choices


def _brought_along(base: Configuration, wanted: Configuration) -> list[str]:
    """Choose the parts that other parts have defaults for.

    Predictors are not among them: `_changes` names each in its role, whatever set a strategy brings along.
    """
    choices = [] if base.partition.name == wanted.partition.name else _choice("partition", wanted.partition)
    return choices if base.objective.name == wanted.objective.name else [*choices, f"objective={wanted.objective.name}"]


def _choice(group: str, part: Any, key: str | None = None) -> list[str]:  # noqa: ANN401 an engine is no component
    """Choose one part, and set the values that its file leaves to the user."""
    choices = [f"{group}={part.name}"]
    if isinstance(part, Component):
        file = catalogue.read(group, part.name, catalogue.folders())
        usual: Mapping[str, Any] = file if key is None else file["source"]
        given = {TARGET: part.target, **part.arguments}
        choices += [f"{key or group}.{name}={_value(given[name])}" for name in usual if usual[name] == MISSING]
    return choices


def _changes(key: str, base: Any, wanted: Any) -> Iterator[str]:  # noqa: ANN401 a value of a configuration
    """Set what still differs, each value by its dotted key."""
    if base == wanted:
        return
    if key.startswith("predictor.") and isinstance(wanted, Component):
        yield f"{key}={_part('predictor/answer', wanted)}"
    elif key == "encoding":
        yield f"{key}={_part(key, wanted)}"
    elif key == "transfer.data" and isinstance(wanted, Component):
        yield f"{key}={_part('data', wanted)}"
    elif isinstance(wanted, Component):
        if base.target != wanted.target:
            yield f"{key}.{TARGET}={_value(wanted.target)}"
        for name, value in wanted.arguments.items():
            if name not in base.arguments:
                yield f"++{key}.{name}={_argument(value)}"
            elif base.arguments[name] != value:
                yield f"{key}.{name}={_argument(value)}"
    elif is_dataclass(wanted):
        for field in fields(wanted):
            inner = f"{key}.{field.name}" if key else field.name
            yield from _changes(inner, getattr(base, field.name), getattr(wanted, field.name))
    elif isinstance(wanted, tuple):
        items = [_part(key.replace(".", "/"), item) if isinstance(item, Component) else _value(item) for item in wanted]
        yield f"{key}=[{','.join(items)}]"
    else:
        yield f"{key}={_value(wanted)}"


def _argument(value: object) -> str:
    """Name the objectives that an objective is made of; other arguments are values."""
    if isinstance(value, list):
        return f"[{','.join(map(_argument, value))}]"
    if isinstance(value, Mapping) and value.keys() == {"name", "target", "arguments"}:
        return _part("objective", Component(**value))
    return _value(value)


def _part(group: str, part: Component) -> str:
    """Name a part of a list, with those of its values that are not in its file."""
    usual = catalogue.read(group, part.name, catalogue.folders())
    values = {TARGET: part.target, **part.arguments}
    changes = {name: value for name, value in values.items() if name not in usual or usual[name] != value}
    if not changes:
        return _value(part.name)
    return f"{{name: {_value(part.name)},{','.join(f'{name}: {_argument(value)}' for name, value in changes.items())}}}"


def _value(value: object) -> str:
    """Write a value in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}: {_value(item)}' for name, item in value.items())}}}"
    if isinstance(value, str):
        is_word = re.fullmatch(r"[A-Za-z_][\w.]*", value, re.ASCII) and value.lower() not in READ_AS_OTHER_THAN_TEXT
        return value if is_word else quote(value)
    return repr(value)
