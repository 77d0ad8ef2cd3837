"""The certificate authority of a federation, and the certificate by which its server is known (TLS)."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedfuse.deploy.key_files import KeyFile, create_files, read_file, replace_files
from fedfuse.errors import ConfigurationError

AUTHORITY_CERTIFICATE = "ca.crt"
AUTHORITY_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
AUTHORITY_LIFETIME = timedelta(days=5 * 365)
SERVER_LIFETIME = timedelta(days=397)
CLOCK_SKEW = timedelta(hours=1)
"""How far the clock of a client may be behind when a certificate is new."""

HOST_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
LONGEST_HOST_NAME = 253


def make_authority(directory: Path, hosts: Iterable[str] = (), now: datetime | None = None) -> None:
    """Make a certificate authority and a server's certificate: ``ca.crt``, ``ca.key``, ``server.pem``, ``server.key``.

    Parameters
    ----------
    directory : Path
        Where the four files go; it is made if it is missing.
    hosts : iterable of str
        Names and IP addresses at which clients reach the server, besides `LOCAL_HOSTS`.
    now : datetime or None
        The time, with its zone; None is the present.

    Raises
    ------
    ConfigurationError
        If one of the files exists, one cannot be written, or a host is neither a name nor an IP address.
    """
    now = now or datetime.now(UTC)
    subject_names = _subject_names(hosts)
    names = (AUTHORITY_CERTIFICATE, AUTHORITY_KEY, SERVER_CERTIFICATE, SERVER_KEY)
    present = [name for name in names if (directory / name).exists()]
    if present:
        raise ConfigurationError(
            f"{directory / present[0]} exists: nothing was changed. Use --renew for a new server certificate under "
            "the same authority, or name another directory."
        )
    authority_key = ec.generate_private_key(ec.SECP384R1())
    authority = _authority_certificate(authority_key, now)
    server_key = ec.generate_private_key(ec.SECP384R1())
    server = _server_certificate(server_key, subject_names, authority, authority_key, now)
    create_files(
        [
            KeyFile(directory / AUTHORITY_KEY, _private_pem(authority_key), private=True),
            KeyFile(directory / AUTHORITY_CERTIFICATE, authority.public_bytes(Encoding.PEM), private=False),
            *_server_files(directory, server, server_key),
        ]
    )


def renew_server(directory: Path, hosts: Sequence[str] = (), now: datetime | None = None) -> None:
    """Replace the server's certificate and key by new ones under the same authority.

    Each of the two files is replaced as a whole, one right after the other. Should the machine stop in between,
    the key does not belong to the certificate, and renewing again mends it.

    Parameters
    ----------
    directory : Path
        Where `make_authority` has put the files.
    hosts : sequence of str
        Names and IP addresses, as for `make_authority`; without any, those of the old certificate are kept.
    now : datetime or None
        The time, with its zone; None is the present.

    Raises
    ------
    ConfigurationError
        If the authority or its key is missing, they do not belong together, the authority has expired, or a host
        is neither a name nor an IP address.
    """
    now = now or datetime.now(UTC)
    authority = load_certificate(directory / AUTHORITY_CERTIFICATE)
    authority_key = load_private_key(directory / AUTHORITY_KEY)
    if authority.public_key() != authority_key.public_key():
        raise ConfigurationError(
            f"{directory / AUTHORITY_KEY} does not belong to {directory / AUTHORITY_CERTIFICATE}: nothing was changed."
        )
    if authority.not_valid_after_utc <= now:
        raise ConfigurationError(
            f"{directory / AUTHORITY_CERTIFICATE} expired on {authority.not_valid_after_utc:%Y-%m-%d}: nothing was "
            "changed. Make a new authority in another directory."
        )
    subject_names = _subject_names(hosts or host_names(load_certificate(directory / SERVER_CERTIFICATE)))
    server_key = ec.generate_private_key(ec.SECP384R1())
    server = _server_certificate(server_key, subject_names, authority, authority_key, now)
    replace_files(_server_files(directory, server, server_key))


def host_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Read the names and IP addresses for which a certificate holds, in its order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate.

    Raises
    ------
    ConfigurationError
        If the file is missing or holds no certificate.
    """
    content = read_file(path)
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise ConfigurationError(f"{path} does not hold a certificate in the PEM format.") from error


def load_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the private key of a certificate.

    Raises
    ------
    ConfigurationError
        If the file is missing, or holds no elliptic-curve key that can be read without a password.
    """
    content = read_file(path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path} does not hold an elliptic-curve key in the PEM format without a password.")
    return key


def _subject_names(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    addresses = dict.fromkeys(_parse_host(host) for host in (*LOCAL_HOSTS, *hosts))
    return x509.SubjectAlternativeName(
        x509.DNSName(address) if isinstance(address, str) else x509.IPAddress(address) for address in addresses
    )


def _parse_host(host: str) -> str | IPv4Address | IPv6Address:
    """Tell a host name from an IP address, so that the same one written twice is found to be the same."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.lower()
    else:
        if not (isinstance(address, IPv6Address) and address.scope_id):
            return address
        name = ""
    labels = name.split(".")
    # A last label of digits only is a mistyped IPv4 address, as in 192.0.2.256.
    if len(name) > LONGEST_HOST_NAME or labels[-1].isdigit() or not all(map(HOST_LABEL.fullmatch, labels)):
        raise ConfigurationError(
            f"{host!r} is neither a host name nor an IP address. Valid: for example fl.example.org, 192.0.2.7 or "
            "2001:db8::7, without scheme, port or wildcard."
        )
    return name


def _authority_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = _name("fedfuse certificate authority")
    return (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    subject_names: x509.SubjectAlternativeName,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    return (
        x509.CertificateBuilder(authority.subject, _name("fedfuse server"), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_SKEW, authority.not_valid_before_utc))
        .not_valid_after(min(now + SERVER_LIFETIME, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(subject_names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        .sign(authority_key, hashes.SHA384())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _server_files(directory: Path, server: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> list[KeyFile]:
    return [
        KeyFile(directory / SERVER_KEY, _private_pem(key), private=True),
        KeyFile(directory / SERVER_CERTIFICATE, server.public_bytes(Encoding.PEM), private=False),
    ]
