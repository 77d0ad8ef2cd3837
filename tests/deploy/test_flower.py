import importlib
import os
import socket
import sys
import tomllib
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args, validate_config
from hypothesis import given
from hypothesis import strategies as st

from fedfuse import __version__
from fedfuse.deploy import flower
from fedfuse.errors import ConfigurationError

TLS = flower.ServerFiles(Path("certs/ca.crt"), Path("certs/server.pem"), Path("certs/server.key"))
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
PATHS = [
    "/data/my file.npz",
    "/it's/here",
    '/a "b"/c',
    "C:\\data\\n",
    "/ends with \\",
    "/both ' and \"",
    "/größe/数",
    "",
]


def read_by_flower(words, start):
    """Read the values in the one word that starts so, as Flower does."""
    (word,) = [word.removeprefix(start) for word in words if word.startswith(start)]
    return parse_config_args([word])


# What the commands need around them


def test_environment_keeps_the_callers_variables_and_adds_the_switches(monkeypatch):
    monkeypatch.setattr(os, "environ", {"MINE": "1", "PATH": "/mine", "FLWR_TELEMETRY_ENABLED": "1"})
    assert flower.environment(Path("/home/flower")) == {
        "MINE": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}/mine",
        "FLWR_HOME": "/home/flower",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    }
    assert os.environ == {"MINE": "1", "PATH": "/mine", "FLWR_TELEMETRY_ENABLED": "1"}


def test_connection_names_the_address_and_the_absolute_certificate(monkeypatch, tmp_path):
    home = tmp_path / 'it\'s "here" \\ now'
    home.mkdir()
    monkeypatch.chdir(home)
    assert tomllib.loads(flower.connection("fl.example.org:8000", Path("certs/ca.crt"))) == {
        "superlink": {
            "fedfuse": {"address": "fl.example.org:8000", "root-certificates": str(home / "certs" / "ca.crt")}
        }
    }


def test_connection_without_a_certificate_is_insecure():
    assert tomllib.loads(flower.connection("127.0.0.1:8000", None)) == {
        "superlink": {"fedfuse": {"address": "127.0.0.1:8000", "insecure": True}}
    }


def test_installed_app_is_one_that_flower_takes_and_its_parts_are_there():
    app = tomllib.loads(flower.INSTALLED_APP.format(version=__version__))
    assert validate_config(app) == (True, [], [])
    assert app["project"]["version"] == __version__
    assert app["tool"]["flwr"]["app"]["config"] == {"overrides": ""}
    components = app["tool"]["flwr"]["app"]["components"]
    for name, kind in (("serverapp", "ServerApp"), ("clientapp", "ClientApp")):
        module, _, attribute = components[name].partition(":")
        assert type(getattr(importlib.import_module(module), attribute)).__name__ == kind


def test_free_port_can_be_listened_on_and_is_then_no_longer_free():
    port = flower.free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert flower.free_port() != port


# The commands


@pytest.fixture
def flower_parsers():
    """Read words as Flower's own commands do."""
    from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    return {"flower-superlink": _parse_args_run_superlink(), "flower-supernode": _parse_args_run_supernode()}


def test_superlink_with_tls_asks_nodes_for_their_keys(flower_parsers):
    program, *words = flower.superlink("0.0.0.0", 8123, Path("/state/superlink.db"), TLS)
    assert Path(program).name == "flower-superlink"
    read = flower_parsers["flower-superlink"].parse_args(words)
    assert (read.host, read.port, read.database) == ("0.0.0.0", 8123, "/state/superlink.db")
    assert (read.ssl_ca_certfile, read.ssl_certfile, read.ssl_keyfile) == (
        "certs/ca.crt",
        "certs/server.pem",
        "certs/server.key",
    )
    assert (read.enable_supernode_auth, read.insecure) == (True, False)


def test_superlink_without_tls_is_insecure(flower_parsers):
    words = flower.superlink("127.0.0.1", 8000, Path("db"), None)[1:]
    read = flower_parsers["flower-superlink"].parse_args(words)
    assert (read.enable_supernode_auth, read.insecure, read.ssl_certfile) == (False, True, None)


def test_supernode_proves_who_it_is_and_listens_to_its_own_machine_only(flower_parsers):
    program, *words = flower.supernode(
        "fl.example.org:8000", 5555, {"partition-id": 3}, Path("ca.crt"), Path("nodes/a")
    )
    assert Path(program).name == "flower-supernode"
    read = flower_parsers["flower-supernode"].parse_args(words)
    assert (read.superlink, read.host, read.port) == ("fl.example.org:8000", "127.0.0.1", 5555)
    assert (read.root_certificates, read.auth_supernode_private_key) == ("ca.crt", "nodes/a")
    assert not read.insecure
    assert parse_config_args([read.node_config]) == {"partition-id": 3}


def test_supernode_without_certificate_and_key_is_insecure(flower_parsers):
    words = flower.supernode("127.0.0.1:8000", 5555, {"partition-id": 0}, None, None)[1:]
    read = flower_parsers["flower-supernode"].parse_args(words)
    assert (read.insecure, read.root_certificates, read.auth_supernode_private_key) == (True, None, None)


def test_flwr_knows_the_commands_that_register_run_and_list(tmp_path):
    import typer
    from flwr.cli.app import app

    def read(words):
        command = typer.main.get_command(app)
        assert Path(words[0]).name == "flwr"
        words = words[1:]
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        context = command.make_context(command.name, [*words])
        return {name: value for name, value in context.params.items() if value}

    registered = read(flower.register(tmp_path / "a b.pub"))
    assert (registered["public_key"], registered["superlink"]) == (str(tmp_path / "a b.pub"), "fedfuse")
    submitted = read(flower.submit(tmp_path, "seed=3 output='/a b'"))
    assert (submitted["app"], submitted["superlink"], submitted["stream"]) == (str(tmp_path), "fedfuse", True)
    assert parse_config_args(submitted["run_config_overrides"]) == {"overrides": "seed=3 output='/a b'"}
    listed = read(flower.list_runs())
    assert (listed["superlink"], listed["output_format"]) == ("fedfuse", "json")


@pytest.mark.parametrize("path", PATHS)
def test_node_config_reaches_the_client_app_unchanged(path):
    config = {"partition-id": 12, "data": path, "transfer": f"{path}.toml", "state": path}
    words = flower.supernode("localhost:8000", 5555, config, None, None)
    assert read_by_flower(words, "--node-config=") == config


@given(data=PRINTABLE, state=PRINTABLE)
def test_any_printable_texts_survive_beside_each_other(data, state):
    words = flower.supernode("localhost:8000", 1, {"data": data, "partition-id": 7, "state": state}, None, None)
    assert read_by_flower(words, "--node-config=") == {"data": data, "partition-id": 7, "state": state}


@given(PRINTABLE)
def test_any_printable_overrides_survive(text):
    words = flower.submit(Path("app"), text)
    assert parse_config_args([words[-1]]) == {"overrides": text}


# Where the commands are


def test_shown_is_what_a_person_would_type():
    assert flower.shown(["/opt/my venv/bin/flwr", "run", "my app", 'a="b"']) == "flwr run 'my app' 'a=\"b\"'"


def test_command_beside_this_python_comes_first_then_the_path(monkeypatch, tmp_path):
    for folder in ("beside", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "flwr").write_text("")
        (tmp_path / folder / "flwr").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert flower.list_runs()[0] == str(tmp_path / "beside" / "flwr")
    (tmp_path / "beside" / "flwr").unlink()
    assert flower.list_runs()[0] == str(tmp_path / "path" / "flwr")
    (tmp_path / "path" / "flwr").unlink()
    with pytest.raises(ConfigurationError, match=r"^The command flwr of Flower is not installed: pip install flwr\.$"):
        flower.list_runs()
