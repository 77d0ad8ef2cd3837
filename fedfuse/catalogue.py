"""The parts that a configuration chooses by name: one file each, ``configs/<group>/<name>.yaml``."""

import ast
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedfuse.errors import ConfigurationError, unknown_name


def folders(config_dir: Path | None = None) -> tuple[Path, ...]:
    """List the folders that are searched for parts.

    Parameters
    ----------
    config_dir : Path | None
        A folder of the user's own, laid out like ``configs``, besides that of fedfuse.

    Raises
    ------
    ConfigurationError
        If ``config_dir`` is no directory, or has a part named like one of fedfuse: a name means one thing.
    """
    # Beside this package, in a checkout and installed; importing it could find a user's package of that name.
    own = Path(__file__).resolve().parent.parent / "configs"
    if config_dir is None:
        return (own,)
    if not config_dir.is_dir():
        raise ConfigurationError(f"The configuration directory {str(config_dir)!r} does not exist.")
    for path in sorted(own.glob("*/**/*.yaml")):
        clash = config_dir / path.relative_to(own)
        if clash.exists():
            raise ConfigurationError(f"{clash} has the name of a part of fedfuse: give it another name.")
    return own, config_dir.resolve()


def names(group: str, searched: Sequence[Path]) -> list[str]:
    """List the names in a group such as ``"strategy"`` or ``"transfer/policy"``; none if it is no group."""
    return sorted({path.stem for folder in searched for path in (folder / group).glob("*.yaml")})


def read(group: str, name: str, searched: Sequence[Path]) -> dict[str, Any]:
    """Read the values of one part.

    Raises
    ------
    ConfigurationError
        If no folder has this part, or if its file is not a YAML mapping.
    """
    path = _find(group, name, searched)
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), throw_on_missing=False)
    except Exception as error:
        raise ConfigurationError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} must be a mapping of keys to values.")
    own = values.get(group) if _is_global(path) else values
    if not isinstance(own, dict):
        raise ConfigurationError(f"{path} is of the global package, so its values must be under {group}.")
    return {str(key): value for key, value in own.items()}


def describe(group: str, name: str, searched: Sequence[Path]) -> str:
    """Say in one line what a part is: the opening comment of its file, else the docstring of its target."""
    lines = _find(group, name, searched).read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if "@package" not in line), "")
    if first.startswith("#"):
        return first.removeprefix("#").strip()
    module, _, attribute = str(read(group, name, searched).get("_target_", "")).rpartition(".")
    source = _source(module)
    return "" if source is None else _first_sentence(source, attribute)


def carriers() -> dict[str, str]:
    """Map the name of each carrier, a module that can express knowledge, to what it is in one line."""
    paths = sorted((Path(__file__).resolve().parent / "carriers").glob("*.py"))
    return {path.stem: _first_sentence(path) for path in paths if _defines(path, "express")}


def _is_global(path: Path) -> bool:
    """Say whether a file sets values of the whole configuration, with those of its part under the name of its group."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").split() == ["@package", "_global_"]


def _find(group: str, name: str, searched: Sequence[Path]) -> Path:
    for folder in searched:
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            return path
    raise unknown_name(group, name, names(group, searched))


def _source(module: str) -> Path | None:
    """Find the file of a module, which is not run; its parent packages are."""
    try:
        specification = find_spec(module)
    except Exception:  # whatever is wrong with a user's package, the other parts can still be listed
        return None
    if specification is None or specification.origin is None:
        return None
    return Path(specification.origin) if specification.origin.endswith(".py") else None


def _defines(source: Path, function: str) -> bool:
    module = ast.parse(source.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in module.body)


def _first_sentence(source: Path, attribute: str | None = None) -> str:
    """Read the first sentence of a docstring; importing the module instead would take seconds, with torch."""
    try:
        module = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return ""
    documented: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [module]
    if attribute is not None:
        definitions = (node for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
        documented = [node for node in definitions if node.name == attribute]
    text = ast.get_docstring(documented[0]) if documented else None
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph)[0]
