import shutil
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedfuse.deploy.certificates import (
    host_names,
    load_certificate,
    load_private_key,
    make_authority,
    renew_server,
)
from fedfuse.errors import ConfigurationError

NOW = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign"),
)
NAMES = {"ca.crt", "ca.key", "server.key", "server.pem"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with an authority; tests only read it."""
    directory = tmp_path_factory.mktemp("made") / "certs"
    make_authority(directory, ["FL.example.org", "192.0.2.7", "2001:db8::7", "localhost", "fl.example.org"], NOW)
    return directory


@pytest.fixture
def certs(made, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(made, tmp_path / "certs")


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def verify(directory, host, time=NOW, authority=None):
    """Check the chain as a client does that trusts the authority and connects to a host."""
    store = Store([load_certificate((authority or directory) / "ca.crt")])
    try:
        subject = x509.IPAddress(ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    verifier = PolicyBuilder().store(store).time(time).build_server_verifier(subject)
    return verifier.verify(load_certificate(directory / "server.pem"), [])


def handshake(server_directory, authority_directory, host):
    """Serve one TLS connection over loopback, and return what the client reads, or its error."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server_directory / "server.pem", server_directory / "server.key")
    trusting = ssl.create_default_context(cafile=str(authority_directory / "ca.crt"))

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            try:
                with serving.wrap_socket(connection, server_side=True) as secured:
                    secured.sendall(b"hello")
            except OSError:
                pass  # the client refuses, which it says itself

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        server = threading.Thread(target=serve)
        server.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as connection,
                trusting.wrap_socket(connection, server_hostname=host) as secured,
            ):
                return secured.recv(5)
        except ssl.SSLCertVerificationError as error:
            return error
        finally:
            server.join()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "fl.example.org", "192.0.2.7", "2001:db8::7"])
def test_chain_verifies_for_each_host(made, host):
    assert len(verify(made, host)) == 2


@pytest.mark.parametrize("host", ["example.org", "www.fl.example.org", "192.0.2.8"])
def test_chain_does_not_verify_for_another_host(made, host):
    with pytest.raises(VerificationError):
        verify(made, host)


def test_chain_does_not_verify_under_another_authority(made, tmp_path):
    make_authority(tmp_path / "other", now=NOW)
    with pytest.raises(VerificationError):
        verify(made, "localhost", authority=tmp_path / "other")


def test_hosts_keep_their_order_and_appear_once(made):
    certificate = load_certificate(made / "server.pem")
    assert host_names(certificate) == (
        *("localhost", "127.0.0.1", "::1"),
        *("fl.example.org", "192.0.2.7", "2001:db8::7"),
    )


def test_validity_begins_an_hour_ago_and_ends_after_397_days_and_five_years(made):
    authority, server = load_certificate(made / "ca.crt"), load_certificate(made / "server.pem")
    hour = timedelta(hours=1)
    assert authority.not_valid_before_utc == server.not_valid_before_utc == NOW - hour
    assert server.not_valid_after_utc == NOW + timedelta(days=397)
    assert authority.not_valid_after_utc == NOW + timedelta(days=1825)
    verify(made, "localhost", NOW - hour)
    verify(made, "localhost", NOW + timedelta(days=397))
    for outside in (NOW - hour - timedelta(seconds=1), NOW + timedelta(days=397, seconds=1)):
        with pytest.raises(VerificationError):
            verify(made, "localhost", outside)


def test_present_is_the_default_time(tmp_path):
    make_authority(tmp_path)
    verify(tmp_path, "localhost", datetime.now(UTC))


def test_extensions_allow_what_each_certificate_is_for(made):
    authority, server = load_certificate(made / "ca.crt").extensions, load_certificate(made / "server.pem").extensions
    constraints = authority.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert server.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    allowed = {}
    for name, extensions in {"authority": authority, "server": server}.items():
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        allowed[name] = {use for use in USES if getattr(usage.value, use)}
    assert allowed == {"authority": {"key_cert_sign", "crl_sign"}, "server": {"digital_signature"}}
    purposes = server.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    own_id = authority.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert server.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own_id
    assert server.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != own_id


def test_keys_are_p384_unencrypted_and_those_of_the_certificates(made):
    for key_name, certificate_name in {"ca.key": "ca.crt", "server.key": "server.pem"}.items():
        assert (made / key_name).read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
        key = load_private_key(made / key_name)
        assert isinstance(key.curve, ec.SECP384R1)
        assert key.public_key() == load_certificate(made / certificate_name).public_key()
    assert load_private_key(made / "ca.key").public_key() != load_private_key(made / "server.key").public_key()


def test_serial_numbers_are_random(made, certs):
    renew_server(certs, now=NOW)
    paths = (made / "ca.crt", made / "server.pem", certs / "server.pem")
    numbers = {load_certificate(path).serial_number for path in paths}
    assert len(numbers) == 3
    assert min(numbers) > 2**64


def test_private_files_are_for_their_owner_alone(tmp_path):
    make_authority(tmp_path / "certs", now=NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "certs").iterdir()}
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server.pem": 0o644, "server.key": 0o600}
    assert stat.S_IMODE((tmp_path / "certs").stat().st_mode) == 0o700


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tls_handshake_succeeds_with_the_authority_of_the_server(tmp_path, host):
    make_authority(tmp_path)
    assert handshake(tmp_path, tmp_path, host) == b"hello"


def test_tls_handshake_fails_with_another_authority_or_host(tmp_path):
    make_authority(tmp_path / "one")
    make_authority(tmp_path / "other")
    assert isinstance(handshake(tmp_path / "one", tmp_path / "other", "localhost"), ssl.SSLCertVerificationError)
    assert "Hostname mismatch" in str(handshake(tmp_path / "one", tmp_path / "one", "example.org"))


@pytest.mark.parametrize("existing", sorted(NAMES))
def test_nothing_is_made_if_one_file_exists(tmp_path, existing):
    (tmp_path / existing).write_bytes(b"mine")
    with pytest.raises(ConfigurationError) as refused:
        make_authority(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / existing} exists: nothing was changed. Use --renew ")
    assert contents(tmp_path) == {existing: b"mine"}


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", "https://fl.example.org", "fl.example.org:9092", "*.example.org", "fl_server", "-fl.example.org"),
        *("fl-.example.org", "fl..example.org", ".example.org", "example.org.", "192.0.2.256", "192.0.2", "[::1]"),
        *("192.0.2.0/24", "fe80::1%eth0", "fédération.example", "fl.example.org\n", "a" * 64, ".".join(["a" * 62] * 5)),
    ],
)
def test_what_is_neither_host_name_nor_address_is_refused(tmp_path, host):
    with pytest.raises(ConfigurationError) as refused:
        make_authority(tmp_path / "certs", ["fl.example.org", host])
    assert str(refused.value).startswith(f"{host!r} is neither a host name nor an IP address. Valid: ")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "certs").exists()


def test_longest_host_names_are_accepted(tmp_path):
    hosts = ["a" * 63, ".".join(["b" * 61] * 4) + ".bcdef"]
    assert len(hosts[1]) == 253
    make_authority(tmp_path, hosts)
    assert host_names(load_certificate(tmp_path / "server.pem"))[3:] == tuple(hosts)


def test_renewal_keeps_authority_and_hosts_and_makes_a_new_certificate_and_key(certs):
    before = contents(certs)
    later = NOW + timedelta(days=390)
    renew_server(certs, now=later)
    after = contents(certs)
    assert {name for name in NAMES if before[name] != after[name]} == {"server.pem", "server.key"}
    assert set(after) == NAMES
    certificate = load_certificate(certs / "server.pem")
    assert certificate.not_valid_after_utc == later + timedelta(days=397)
    assert certificate.public_key() == load_private_key(certs / "server.key").public_key()
    assert host_names(certificate)[3:] == ("fl.example.org", "192.0.2.7", "2001:db8::7")
    assert stat.S_IMODE((certs / "server.key").stat().st_mode) == 0o600
    verify(certs, "fl.example.org", later)


def test_renewal_with_hosts_replaces_those_of_the_old_certificate(certs):
    (certs / "server.pem").unlink()  # lost; the hosts are given, so it is not needed
    renew_server(certs, ["new.example.org"], NOW)
    assert host_names(load_certificate(certs / "server.pem")) == ("localhost", "127.0.0.1", "::1", "new.example.org")


def test_renewed_certificate_does_not_outlive_its_authority(certs):
    later = NOW + timedelta(days=1820)
    renew_server(certs, now=later)
    end = load_certificate(certs / "server.pem").not_valid_after_utc
    assert end == load_certificate(certs / "ca.crt").not_valid_after_utc == NOW + timedelta(days=1825)


def test_certificate_does_not_begin_before_its_authority(certs):
    renew_server(certs, now=NOW - timedelta(minutes=5))
    begin = load_certificate(certs / "server.pem").not_valid_before_utc
    assert begin == NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda certs: (certs / "ca.crt").unlink(), "ca.crt cannot be read: No such file or directory."),
        (lambda certs: (certs / "ca.key").unlink(), "ca.key cannot be read: No such file or directory."),
        (lambda certs: (certs / "server.pem").unlink(), "server.pem cannot be read: No such file or directory."),
        (lambda certs: (certs / "ca.crt").write_text("?"), "ca.crt does not hold a certificate in the PEM format."),
        (
            lambda certs: (certs / "ca.key").write_text("?"),
            "ca.key does not hold an elliptic-curve key in the PEM format without a password.",
        ),
        (
            lambda certs: shutil.copy(certs / "server.key", certs / "ca.key"),
            "ca.crt: nothing was changed.",
        ),
    ],
)
def test_renewal_without_a_working_authority_changes_nothing(certs, spoil, expected):
    spoil(certs)
    before = contents(certs)
    with pytest.raises(ConfigurationError) as refused:
        renew_server(certs, now=NOW)
    assert str(refused.value).endswith(expected)
    assert contents(certs) == before


def test_renewal_under_an_expired_authority_is_refused(certs):
    before = contents(certs)
    with pytest.raises(ConfigurationError, match=r"ca\.crt expired on 2031-02-28: nothing was changed\."):
        renew_server(certs, now=NOW + timedelta(days=1825))
    assert contents(certs) == before


def test_renewal_with_a_wrong_host_changes_nothing(certs):
    before = contents(certs)
    with pytest.raises(ConfigurationError, match="'a:1' is neither a host name nor an IP address"):
        renew_server(certs, ["a:1"], NOW)
    assert contents(certs) == before
