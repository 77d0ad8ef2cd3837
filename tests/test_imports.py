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
HEAVY = ("datasets", "flwr_datasets", "matplotlib", "wandb", "ray", "sklearn")


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


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_in_fedfuse_imports_strategies_and_no_part_imports_an_app(path):
    imported = set(imports_of(path))
    assert not any(name.split(".")[0] in ("strategies", "configs", "simulations", "tests") for name in imported)
    if module_of(path) not in APPS and path.name != "__main__.py":
        assert not imported & APPS


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_heavy_packages_are_imported_inside_functions(path):
    at_import = {name.split(".")[0] for name in imports_of(path, everywhere=False)}
    assert not at_import & set(HEAVY)


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").glob("*.py")), ids=module_of)
def test_strategies_use_public_names_only(path):
    allowed = {"fedfuse.strategy", "fedfuse.knowledge", "fedfuse.server", "fedfuse.fusion"}
    used = {name for name in imports_of(path) if name.startswith("fedfuse")}
    assert all(any(name == module or name.startswith(f"{module}.") for module in allowed) for name in used)


def test_flowers_private_names_are_used_in_one_file_only():
    private = ("flwr.supercore", "flwr.common", "flwr.server", "flwr.client", "flwr.simulation")
    users = {
        module_of(path)
        for path in SOURCES
        for name in imports_of(path)
        if any(name == package or name.startswith(f"{package}.") for package in private)
    }
    assert users == {"fedfuse.engine.local_grid"}
