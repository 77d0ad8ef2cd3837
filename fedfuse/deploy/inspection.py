"""What lies in a directory of certificates and keys, and what is wrong with it."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedfuse.deploy.certificates import (
    AUTHORITY_CERTIFICATE,
    AUTHORITY_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    host_names,
    load_certificate,
    load_private_key,
)
from fedfuse.deploy.key_files import exposure
from fedfuse.deploy.node_keys import (
    load_node_private_key,
    load_node_public_key,
    node_names,
    private_path,
    public_path,
)
from fedfuse.errors import ConfigurationError

ENDS_SOON = timedelta(days=30)


@dataclass(frozen=True)
class CertificateDescription:
    """A certificate and its private key.

    Parameters
    ----------
    path : Path
        The file of the certificate.
    hosts : tuple of str
        The names and IP addresses for which it holds; none for an authority.
    valid_until : datetime or None
        When it ends, in UTC; None if it cannot be read.
    time_left : timedelta or None
        How long it holds from now on; negative if it has expired, None if it cannot be read.
    fingerprint : str or None
        The SHA-256 of the certificate, in pairs of hexadecimal digits; None if it cannot be read.
    key_path : Path or None
        The file of its private key; None if that lies elsewhere.
    problems : tuple of str
        What is wrong, a sentence each.
    """

    path: Path
    hosts: tuple[str, ...]
    valid_until: datetime | None
    time_left: timedelta | None
    fingerprint: str | None
    key_path: Path | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class NodeDescription:
    """The keys of a node.

    Parameters
    ----------
    name : str
        The node.
    fingerprint : str or None
        The SHA-256 of its public key, as ``ssh-keygen -l`` shows it; None if no key can be read.
    has_private_key : bool
        Whether its private key lies here too.
    problems : tuple of str
        What is wrong, a sentence each.
    """

    name: str
    fingerprint: str | None
    has_private_key: bool
    problems: tuple[str, ...]


def describe_authority(directory: Path, now: datetime | None = None) -> CertificateDescription | None:
    """Describe the certificate authority of a directory; None if neither its certificate nor its key lies there.

    Parameters
    ----------
    directory : Path
        Where the files are.
    now : datetime or None
        The time, with its zone; None is the present.
    """
    return _describe(directory / AUTHORITY_CERTIFICATE, directory / AUTHORITY_KEY, None, now or datetime.now(UTC))


def describe_server(directory: Path, now: datetime | None = None) -> CertificateDescription | None:
    """Describe the server's certificate of a directory; None if neither it nor its key lies there.

    Parameters
    ----------
    directory : Path
        Where the files are.
    now : datetime or None
        The time, with its zone; None is the present.
    """
    issuer = directory / AUTHORITY_CERTIFICATE
    return _describe(directory / SERVER_CERTIFICATE, directory / SERVER_KEY, issuer, now or datetime.now(UTC))


def describe_nodes(directory: Path) -> tuple[NodeDescription, ...]:
    """Describe the nodes of which a key lies in a directory, by name."""
    return tuple(_describe_node(directory, name) for name in node_names(directory))


def _describe(path: Path, key_path: Path, issuer: Path | None, now: datetime) -> CertificateDescription | None:
    if not (path.exists() or key_path.exists()):
        return None
    problems: list[str] = []
    certificate: x509.Certificate | None = None
    try:
        certificate = load_certificate(path)
    except ConfigurationError as error:
        problems.append(str(error))
    else:
        problems += _validity_problems(path, certificate, now)
        if issuer is not None and issuer.exists():
            problems += _issuer_problems(path, certificate, issuer)
    if key_path.exists():
        problems += _key_problems(key_path, path, certificate)
    valid_until = None if certificate is None else certificate.not_valid_after_utc
    return CertificateDescription(
        path=path,
        hosts=() if certificate is None else host_names(certificate),
        valid_until=valid_until,
        time_left=None if valid_until is None else valid_until - now,
        fingerprint=None if certificate is None else certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        key_path=key_path if key_path.exists() else None,
        problems=tuple(problems),
    )


def _validity_problems(path: Path, certificate: x509.Certificate, now: datetime) -> Iterator[str]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        yield f"{path} is not valid before {begin:%Y-%m-%d %H:%M} UTC."
    if now > end:
        yield f"{path} expired on {end:%Y-%m-%d}."
    elif end - now < ENDS_SOON:
        yield f"{path} ends soon, on {end:%Y-%m-%d}."


def _issuer_problems(path: Path, certificate: x509.Certificate, issuer: Path) -> Iterator[str]:
    try:
        certificate.verify_directly_issued_by(load_certificate(issuer))
    except ConfigurationError:
        return  # said where the authority is described
    except (ValueError, TypeError, InvalidSignature):
        yield f"{path} was not issued by {issuer}."


def _key_problems(key_path: Path, path: Path, certificate: x509.Certificate | None) -> Iterator[str]:
    exposed = exposure(key_path)
    if exposed is not None:
        yield exposed
    try:
        key = load_private_key(key_path)
    except ConfigurationError as error:
        yield str(error)
    else:
        if certificate is not None and certificate.public_key() != key.public_key():
            yield f"{key_path} does not belong to {path}."


def _describe_node(directory: Path, name: str) -> NodeDescription:
    private, public = private_path(directory, name), public_path(directory, name)
    keys: list[ec.EllipticCurvePublicKey] = []
    problems: list[str] = []
    try:
        if public.exists():
            keys.append(load_node_public_key(public))
    except ConfigurationError as error:
        problems.append(str(error))
    if private.exists():
        exposed = exposure(private)
        if exposed is not None:
            problems.append(exposed)
        try:
            keys.append(load_node_private_key(private).public_key())
        except ConfigurationError as error:
            problems.append(str(error))
    if len(keys) == 2 and keys[0] != keys[1]:
        problems.append(f"{private} does not belong to {public}.")
    return NodeDescription(name, _ssh_fingerprint(keys[0]) if keys else None, private.exists(), tuple(problems))


def _ssh_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(base64.b64decode(line.split()[1]))
    return "SHA256:" + base64.b64encode(digest.finalize()).decode().rstrip("=")
