"""Build the object of a component of the configuration: import its target, call it with its arguments."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedfuse.configuration import Component
from fedfuse.errors import ConfigurationError, FedfuseError, unknown_name


def build(component: Component, kind: str, **extra: Any) -> Any:  # noqa: ANN401 a component can be any object
    """Build one component.

    Parameters
    ----------
    component : Component
        What to build.
    kind : str
        What it is to the user, for example ``"strategy"``; for error messages.
    **extra : Any
        Arguments that fedfuse gives itself, besides the configured ones.

    Returns
    -------
    Any
        What the target returned.

    Raises
    ------
    ConfigurationError
        If the target cannot be imported or called, if an argument is unknown, missing or given by fedfuse
        itself, or if the target raises TypeError or ValueError, which is then the cause.
    """
    label = f"{kind} {component.name} ({component.target})"
    try:
        target = _locate(component.target)
        _check_arguments(target, component.arguments, extra)
    except ConfigurationError as error:
        raise ConfigurationError(f"{label}: {error}") from error.__cause__
    arguments = {name: _build_nested(value, kind) for name, value in component.arguments.items()}
    try:
        return target(**arguments, **extra)
    except FedfuseError as error:
        raise ConfigurationError(f"{label}: {error}") from error
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={_shown(value)}" for name, value in component.arguments.items())
        raise ConfigurationError(f"{label}: {_one_line(error)} (given {given or 'no arguments'})") from error


def _build_nested(value: object, kind: str) -> object:
    """Build the components that an argument consists of; what is none stays as it is."""
    if isinstance(value, Mapping) and value.keys() == {"name", "target", "arguments"}:
        return build(Component(**value), kind)
    if isinstance(value, list):
        return [_build_nested(item, kind) for item in value]
    return value


def _shown(value: object) -> str:
    """Write an argument as the user did: a component that it consists of by its name."""
    if isinstance(value, Mapping) and value.keys() == {"name", "target", "arguments"}:
        return str(value["name"])
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)


def _locate(target: str) -> Callable[..., Any]:
    """Import ``package.module.name``."""
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ConfigurationError("_target_ must be module.Class, for example my_package.MyStrategy.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's own module can raise anything; nothing of it may be hidden
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {error.name!r}, neither installed nor in the working directory."
            ) from error
        raise ConfigurationError(
            f"importing {module_name} failed with {type(error).__name__}: {_one_line(error)}"
        ) from error
    if not hasattr(module, name):
        defined = [other for other, value in vars(module).items() if callable(value) and other[0] != "_"]
        raise unknown_name(f"name in module {module_name}", name, defined)
    found = getattr(module, name)
    if not callable(found):
        raise ConfigurationError(f"it cannot be called: it is of type {type(found).__name__}, not a class or function.")
    return found  # type: ignore[no-any-return]


def _check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Refuse arguments that the target does not take, and find those that it lacks."""
    for name in arguments:
        if name in extra:
            raise ConfigurationError(f"{name} is given by fedfuse itself and cannot be configured.")
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # some classes written in C tell no signature; calling them will tell
        return
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in [*arguments, *extra]:
        if name not in named and not takes_any:
            raise unknown_name("argument", name, named.keys() - extra.keys())
    missing = [n for n, p in named.items() if p.default is p.empty and n not in arguments and n not in extra]
    if missing:
        raise ConfigurationError(f"it needs a value for {', '.join(missing)}.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
