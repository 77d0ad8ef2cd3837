"""The key pairs by which the nodes of a federation (Flower's SuperNodes) prove who they are."""

import re
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedfuse.deploy.key_files import KeyFile, create_files, read_file
from fedfuse.errors import ConfigurationError

NODES_DIRECTORY = "nodes"
PUBLIC_SUFFIX = ".pub"
NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def make_node_key(directory: Path, name: str) -> None:
    """Make the key pair of a node in OpenSSH's format: ``nodes/NAME`` (private) and ``nodes/NAME.pub`` (public).

    Parameters
    ----------
    directory : Path
        Where ``nodes`` is, or is made.
    name : str
        Of letters, digits, ``-``, ``_`` and ``.``; it neither starts with ``-`` or ``.`` nor ends in ``.pub``.

    Raises
    ------
    ConfigurationError
        If the name is not valid, or the node has a key already.
    """
    if not NODE_NAME.fullmatch(name) or name.endswith(PUBLIC_SUFFIX):
        raise ConfigurationError(
            f"{name!r} cannot name a node. Valid: letters, digits, '-', '_' and '.', neither starting with '-' or '.' "
            f"nor ending in '{PUBLIC_SUFFIX}'."
        )
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    create_files(
        [
            KeyFile(private_path(directory, name), private, private=True),
            KeyFile(public_path(directory, name), public + b"\n", private=False),
        ]
    )


def private_path(directory: Path, name: str) -> Path:
    """Say where the private key of a node is."""
    return directory / NODES_DIRECTORY / name


def public_path(directory: Path, name: str) -> Path:
    """Say where the public key of a node is."""
    return directory / NODES_DIRECTORY / f"{name}{PUBLIC_SUFFIX}"


def node_names(directory: Path) -> tuple[str, ...]:
    """List the nodes of which a key lies in a directory, private, public or both."""
    nodes = directory / NODES_DIRECTORY
    if not nodes.is_dir():
        return ()
    names = {path.name.removesuffix(PUBLIC_SUFFIX) for path in nodes.iterdir() if path.is_file()}
    return tuple(sorted(name for name in names if NODE_NAME.fullmatch(name)))


def load_node_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the private key of a node.

    Raises
    ------
    ConfigurationError
        If the file is missing, or holds no elliptic-curve key that can be read without a password.
    """
    content = read_file(path)
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(
            f"{path} does not hold an elliptic-curve private key in OpenSSH's format without a password."
        )
    return key


def load_node_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read the public key of a node.

    Raises
    ------
    ConfigurationError
        If the file is missing or holds no elliptic-curve key.
    """
    content = read_file(path)
    try:
        key = load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigurationError(f"{path} does not hold an elliptic-curve public key in OpenSSH's format.")
    return key
