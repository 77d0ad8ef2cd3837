"""Imports point one way, as CONTRIBUTING.md says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APPS = {
    "fedfuse.server_app",
    "fedfuse.client_app",
    "fedfuse.simulate",
    "fedfuse.cli",
    "fedfuse.assembly",
    "fedfuse.conclusion",
}
COMMANDS = "fedfuse.commands"
# Measures whole runs, so it stands above the apps.
BENCHMARK = "fedfuse.benchmark"
PRIVATE = ("flwr.supercore", "flwr.common", "flwr.server", "flwr.client", "flwr.simulation")
HEAVY = ("datasets", "flwr_datasets", "matplotlib", "wandb", "ray", "sklearn", "scipy", "tensorboard", "PIL", "pfl")


def imports_of(path, everywhere=True):
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


SOURCES = sorted((ROOT / "fedfuse").rglob("*.py"))


def test_the_walk_finds_the_sources():
    assert "fedfuse.client.learn" in map(module_of, SOURCES)
    assert "fedfuse.carriers.carrier" in set(imports_of(ROOT / "fedfuse/client/express.py"))


def is_in(name, package):
    return name == package or name.startswith(f"{package}.")


def is_app(module):
    above = is_in(module, COMMANDS) or is_in(module, BENCHMARK)
    return module in APPS or above or module == "fedfuse.__main__"


def test_the_apps_are_there():
    assert {module for module in map(module_of, SOURCES) if module in APPS} == APPS
    assert is_app("fedfuse.commands.run")
    assert not is_app("fedfuse.composition")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_in_fedfuse_imports_strategies_and_no_part_imports_an_app(path):
    imported = set(imports_of(path))
    assert not any(name.split(".")[0] in ("strategies", "configs", "simulations", "tests") for name in imported)
    if not is_app(module_of(path)):
        assert not imported & APPS


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_only_the_command_line_and_other_commands_import_a_command(path):
    if module_of(path) != "fedfuse.cli" and not is_in(module_of(path), COMMANDS):
        assert not any(is_in(name, COMMANDS) for name in imports_of(path))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_only_a_command_imports_the_benchmark(path):
    if not is_in(module_of(path), COMMANDS) and not is_in(module_of(path), BENCHMARK):
        assert not any(is_in(name, BENCHMARK) for name in imports_of(path))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_heavy_packages_are_imported_inside_functions(path):
    at_import = {name.split(".")[0] for name in imports_of(path, everywhere=False)}
    assert not at_import & set(HEAVY)


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").glob("*.py")), ids=module_of)
def test_strategies_use_public_names_only(path):
    names = ("strategy", "knowledge", "server", "fusion", "sketch", "privacy")
    allowed = {f"fedfuse.{name}" for name in names}
    used = {name for name in imports_of(path) if name.startswith("fedfuse")}
    assert all(any(name == module or name.startswith(f"{module}.") for module in allowed) for name in used)


def users_of_private_names(everywhere):
    """The modules that use Flower's private names, with the packages that they are from."""
    return {
        (module_of(path), package)
        for path in SOURCES
        for name in imports_of(path, everywhere)
        for package in PRIVATE
        if is_in(name, package)
    }


def test_flowers_private_names_are_used_in_one_file_only():
    at_import = users_of_private_names(everywhere=False)
    assert {module for module, _ in at_import} == {"fedfuse.engine.local_grid"}
    # Public, though it is announced that it will go: it starts Flower's own simulation.
    assert users_of_private_names(everywhere=True) - at_import == {("fedfuse.engine.ray", "flwr.simulation")}
    ray = set(imports_of(ROOT / "fedfuse/engine/ray.py"))
    assert {name for name in ray if is_in(name, "flwr.simulation")} == {
        "flwr.simulation",
        "flwr.simulation.run_simulation",
    }
