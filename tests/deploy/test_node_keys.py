import stat
from importlib import import_module

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, sign_message, verify_signature

from fedfuse.deploy.node_keys import (
    load_node_private_key,
    load_node_public_key,
    make_node_key,
    node_names,
    private_path,
    public_path,
)
from fedfuse.errors import ConfigurationError


def test_keys_are_an_openssh_pair_on_p384(tmp_path):
    make_node_key(tmp_path, "hospital_a")
    private = load_ssh_private_key((tmp_path / "nodes" / "hospital_a").read_bytes(), password=None)
    public = load_ssh_public_key((tmp_path / "nodes" / "hospital_a.pub").read_bytes())
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public
    assert (tmp_path / "nodes" / "hospital_a").read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert (tmp_path / "nodes" / "hospital_a.pub").read_text().startswith("ecdsa-sha2-nistp384 ")


def test_flower_loads_the_keys_and_they_fit(tmp_path):
    make_node_key(tmp_path, "hospital_a")
    registered = bytes_to_public_key(try_load_public_key(public_path(tmp_path, "hospital_a")))
    flower_supernode = import_module("flwr.supernode.cli.flower_supernode")  # a function has the same name
    parser = flower_supernode._parse_args_run_supernode()
    words = ["--auth-supernode-private-key", str(private_path(tmp_path, "hospital_a"))]
    private, public = flower_supernode._try_setup_client_authentication(parser.parse_args(words))
    assert public == registered
    assert verify_signature(registered, b"message", sign_message(private, b"message"))


def test_modes_keep_the_private_key_private(tmp_path):
    make_node_key(tmp_path / "certs", "a")
    expected = {"": 0o700, "nodes": 0o700, "nodes/a": 0o600, "nodes/a.pub": 0o644}
    assert {name: stat.S_IMODE((tmp_path / "certs" / name).stat().st_mode) for name in expected} == expected


@pytest.mark.parametrize("name", ["a", "7", "_", "Hospital-A.ward_3", "a.public"])
def test_valid_names_are_accepted_and_listed(tmp_path, name):
    make_node_key(tmp_path, name)
    assert node_names(tmp_path) == (name,)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-a", "a b", "a/b", "../a", "a\n", "é", "a.pub", "a:b", "a\\b"]
)
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(ConfigurationError) as refused:
        make_node_key(tmp_path / "certs", name)
    assert str(refused.value).startswith(f"{name!r} cannot name a node. Valid: letters, digits, ")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["a", "a.pub"])
def test_existing_keys_are_kept(tmp_path, existing):
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / existing).write_bytes(b"mine")
    with pytest.raises(ConfigurationError) as refused:
        make_node_key(tmp_path, "a")
    assert str(refused.value) == f"{tmp_path / 'nodes' / existing} exists: nothing was changed."
    assert {path.name: path.read_bytes() for path in (tmp_path / "nodes").iterdir()} == {existing: b"mine"}


def test_nodes_are_listed_once_by_name_whichever_key_is_there(tmp_path):
    assert node_names(tmp_path) == ()
    for name in ("b", "a", "c"):
        make_node_key(tmp_path, name)
    private_path(tmp_path, "b").unlink()
    public_path(tmp_path, "c").unlink()
    (tmp_path / "nodes" / ".DS_Store").write_bytes(b"")
    (tmp_path / "nodes" / "old").mkdir()
    assert node_names(tmp_path) == ("a", "b", "c")


def test_files_that_hold_no_such_key_are_refused(tmp_path):
    make_node_key(tmp_path, "a")
    with pytest.raises(ConfigurationError, match=r"a\.pub does not hold an elliptic-curve private key in OpenSSH's"):
        load_node_private_key(public_path(tmp_path, "a"))
    with pytest.raises(ConfigurationError, match=r"nodes/a does not hold an elliptic-curve public key in OpenSSH's"):
        load_node_public_key(private_path(tmp_path, "a"))
    other = tmp_path / "other"
    other.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n")
    with pytest.raises(ConfigurationError, match="does not hold an elliptic-curve public key"):
        load_node_public_key(other)
