import base64
import hashlib
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from fedfuse.deploy.certificates import make_authority, renew_server
from fedfuse.deploy.inspection import describe_authority, describe_nodes, describe_server
from fedfuse.deploy.node_keys import make_node_key, private_path, public_path

NOW = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two directories, each with an authority of its own; tests only read them."""
    directory = tmp_path_factory.mktemp("made")
    make_authority(directory / "one", ["fl.example.org"], NOW)
    make_authority(directory / "other", [], NOW)
    return directory


@pytest.fixture
def certs(made, tmp_path):
    """A copy of the first, to be changed."""
    return shutil.copytree(made / "one", tmp_path / "certs")


def sha256_of_pem(path):
    lines = path.read_text().split("-----")[2]
    return hashlib.sha256(base64.b64decode(lines)).digest().hex(":").upper()


def test_certificates_in_order_are_described_without_problems(made):
    certs = made / "one"
    authority, server = describe_authority(certs, NOW), describe_server(certs, NOW)
    assert (authority.problems, server.problems) == ((), ())
    assert (authority.path, authority.key_path) == (certs / "ca.crt", certs / "ca.key")
    assert (server.path, server.key_path) == (certs / "server.pem", certs / "server.key")
    assert (authority.hosts, server.hosts) == ((), ("localhost", "127.0.0.1", "::1", "fl.example.org"))
    assert authority.valid_until == datetime(2031, 2, 28, 12, 30, 15, tzinfo=UTC)
    assert server.valid_until == datetime(2027, 4, 2, 12, 30, 15, tzinfo=UTC)
    assert (authority.time_left, server.time_left) == (timedelta(days=1825), timedelta(days=397))
    assert authority.fingerprint == sha256_of_pem(certs / "ca.crt")
    assert server.fingerprint == sha256_of_pem(certs / "server.pem")


def test_where_nothing_lies_nothing_is_described(tmp_path):
    assert describe_authority(tmp_path / "nowhere") is None
    assert describe_server(tmp_path) is None
    assert describe_nodes(tmp_path) == ()


def test_present_is_the_default_time(certs):
    assert describe_server(certs).time_left == pytest.approx(
        describe_server(certs, datetime.now(UTC)).time_left, abs=timedelta(minutes=1)
    )
    assert describe_authority(certs).time_left < timedelta(days=1825)


@pytest.mark.parametrize(
    ("days", "seconds", "expected"),
    [
        (367, 0, ()),
        (367, 1, ("{path} ends soon, on 2027-04-02.",)),
        (397, 0, ("{path} ends soon, on 2027-04-02.",)),
        (397, 1, ("{path} expired on 2027-04-02.",)),
        (0, -3600, ()),
        (0, -3601, ("{path} is not valid before 2026-03-01 11:30 UTC.",)),
    ],
)
def test_end_is_said_from_thirty_days_before_it(made, days, seconds, expected):
    path = made / "one" / "server.pem"
    problems = describe_server(made / "one", NOW + timedelta(days=days, seconds=seconds)).problems
    assert problems == tuple(problem.format(path=path) for problem in expected)


def test_expired_authority_is_said(made):
    description = describe_authority(made / "one", NOW + timedelta(days=1826))
    assert description.problems == (f"{made / 'one' / 'ca.crt'} expired on 2031-02-28.",)
    assert description.time_left == timedelta(days=-1)


def test_keys_may_lie_elsewhere(certs):
    (certs / "ca.key").unlink()
    (certs / "server.key").unlink()
    authority, server = describe_authority(certs, NOW), describe_server(certs, NOW)
    assert (authority.key_path, server.key_path) == (None, None)
    assert (authority.problems, server.problems) == ((), ())


@pytest.mark.parametrize(("describe", "key"), [(describe_authority, "ca.key"), (describe_server, "server.key")])
def test_private_key_that_others_may_read_is_said(certs, describe, key):
    (certs / key).chmod(0o640)
    path = certs / key
    assert describe(certs, NOW).problems == (f"{path} is open to others (mode 0640): chmod 600 {path}",)


@pytest.mark.parametrize(
    ("describe", "key", "certificate"),
    [(describe_authority, "ca.key", "ca.crt"), (describe_server, "server.key", "server.pem")],
)
def test_key_of_another_certificate_is_said(made, certs, describe, key, certificate):
    shutil.copy(made / "other" / key, certs / key)
    assert describe(certs, NOW).problems == (f"{certs / key} does not belong to {certs / certificate}.",)


def test_server_certificate_of_another_authority_is_said(made, certs):
    shutil.copy(made / "other" / "ca.crt", certs / "ca.crt")
    assert describe_server(certs, NOW).problems == (f"{certs / 'server.pem'} was not issued by {certs / 'ca.crt'}.",)
    (certs / "ca.crt").unlink()
    assert describe_server(certs, NOW).problems == ()


def test_renewed_certificate_is_in_order(certs):
    renew_server(certs, now=NOW)
    assert describe_server(certs, NOW).problems == ()


def test_files_that_cannot_be_read_are_said_once(certs):
    (certs / "ca.crt").write_text("?")
    (certs / "server.key").write_text("?")
    authority, server = describe_authority(certs, NOW), describe_server(certs, NOW)
    assert authority.problems == (f"{certs / 'ca.crt'} does not hold a certificate in the PEM format.",)
    assert (authority.valid_until, authority.time_left, authority.fingerprint) == (None, None, None)
    assert server.problems == (
        f"{certs / 'server.key'} does not hold an elliptic-curve key in the PEM format without a password.",
    )
    assert server.fingerprint is not None


def test_key_without_its_certificate_is_said(certs):
    (certs / "server.pem").unlink()
    assert describe_server(certs, NOW).problems == (
        f"{certs / 'server.pem'} cannot be read: No such file or directory.",
    )


def test_nodes_are_described_with_the_fingerprint_that_ssh_shows(tmp_path):
    for name in ("b", "a", "c"):
        make_node_key(tmp_path, name)
    private_path(tmp_path, "a").unlink()
    fingerprints = []
    for name in ("a", "b", "c"):
        blob = base64.b64decode(public_path(tmp_path, name).read_text().split()[1])
        fingerprints.append("SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("="))
    public_path(tmp_path, "c").unlink()  # as at the node, where the private key tells it too
    nodes = describe_nodes(tmp_path)
    assert [node.name for node in nodes] == ["a", "b", "c"]
    assert [node.fingerprint for node in nodes] == fingerprints
    assert len(set(fingerprints)) == 3
    assert [node.has_private_key for node in nodes] == [False, True, True]
    assert not any(node.problems for node in nodes)


def test_what_is_wrong_with_the_keys_of_a_node_is_said(tmp_path):
    for name in ("a", "b", "c", "d"):
        make_node_key(tmp_path, name)
    shutil.copy(public_path(tmp_path, "d"), public_path(tmp_path, "a"))
    private_path(tmp_path, "b").chmod(0o644)
    public_path(tmp_path, "c").write_text("?")
    private_path(tmp_path, "c").write_text("?")
    problems = {node.name: node.problems for node in describe_nodes(tmp_path)}
    nodes = tmp_path / "nodes"
    assert problems == {
        "a": (f"{nodes / 'a'} does not belong to {nodes / 'a.pub'}.",),
        "b": (f"{nodes / 'b'} is open to others (mode 0644): chmod 600 {nodes / 'b'}",),
        "c": (
            f"{nodes / 'c.pub'} does not hold an elliptic-curve public key in OpenSSH's format.",
            f"{nodes / 'c'} does not hold an elliptic-curve private key in OpenSSH's format without a password.",
        ),
        "d": (),
    }
    assert describe_nodes(tmp_path)[2].fingerprint is None
