import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedfuse.cli import main
from fedfuse.commands import certs
from fedfuse.deploy.certificates import host_names, load_certificate, make_authority, renew_server
from fedfuse.deploy.inspection import describe_authority, describe_nodes, describe_server

pytestmark = pytest.mark.usefixtures("own_search_path")


def test_init_makes_certificates_and_says_where_they_go(capsys):
    assert main(["certs", "init", "--host", "fl.example.org", "192.0.2.7", "--host", "b.example.org"]) == 0
    assert {path.name for path in Path("certs").iterdir()} == {"ca.crt", "ca.key", "server.pem", "server.key"}
    hosts = host_names(load_certificate(Path("certs/server.pem")))
    assert hosts == ("localhost", "127.0.0.1", "::1", "fl.example.org", "192.0.2.7", "b.example.org")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Made an authority and a server certificate."
    assert "  server       certs/server.pem, certs/server.key and certs/ca.crt" in lines
    assert "  every node   certs/ca.crt, and keys of its own: fedfuse certs node NAME" in lines
    assert any(line.startswith("  nowhere      certs/ca.key: keep it offline") for line in lines)
    assert lines[-1] == "  fedfuse server --certificates certs --host 0.0.0.0 OVERRIDES"


def test_second_init_changes_nothing(capsys):
    assert main(["certs", "init"]) == 0
    before = {path: path.read_bytes() for path in Path("certs").iterdir()}
    capsys.readouterr()
    assert main(["certs", "init", "--host", "fl.example.org"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("fedfuse: error: certs/ca.crt exists: nothing was changed. Use --renew ")
    assert output.out == ""
    assert {path: path.read_bytes() for path in Path("certs").iterdir()} == before


def test_renewal_changes_the_server_certificate_only(capsys):
    assert main(["certs", "init", "--directory", "my certs", "--host", "fl.example.org"]) == 0
    before = {path.name: path.read_bytes() for path in Path("my certs").iterdir()}
    capsys.readouterr()
    assert main(["certs", "init", "--renew", "--directory", "my certs"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Made a new server certificate.\n")
    assert "  every node   nothing new: 'my certs'/ca.crt is the same\n" in text
    assert "  host names   localhost, 127.0.0.1, ::1, fl.example.org\n" in text
    after = {path.name: path.read_bytes() for path in Path("my certs").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"server.pem", "server.key"}


def test_renewal_says_that_the_authority_ends_soon(capsys):
    make_authority(Path("certs"), now=datetime.now(UTC) - timedelta(days=1815, hours=12))
    assert main(["certs", "init", "--renew"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("Wrong:") + 1].startswith("  certs/ca.crt ends soon, on ")
    assert lines[lines.index("Wrong:") + 2].startswith("  certs/server.pem ends soon, on ")


def test_node_makes_a_key_pair_and_says_where_it_goes(capsys):
    assert main(["certs", "node", "--directory", "keys", "hospital_a"]) == 0
    assert {path.name for path in Path("keys/nodes").iterdir()} == {"hospital_a", "hospital_a.pub"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Made the keys of hospital_a."
    assert lines[-1] == (
        "  fedfuse client --id N --data PATH --server HOST:PORT --authority keys/ca.crt --key keys/nodes/hospital_a"
    )
    assert any(line.startswith("  that node    keys/nodes/hospital_a and keys/ca.crt") for line in lines)
    assert "  server       keys/nodes/hospital_a.pub" in lines


def test_show_tells_what_is_there(capsys):
    main(["certs", "init", "--host", "fl.example.org"])
    main(["certs", "node", "a"])
    main(["certs", "node", "hospital"])
    Path("certs/nodes/a").unlink()
    Path("certs/ca.key").unlink()
    capsys.readouterr()
    assert main(["certs", "show"]) == 0
    authority, server = describe_authority(Path("certs")), describe_server(Path("certs"))
    first, second = describe_nodes(Path("certs"))
    assert capsys.readouterr().out.splitlines() == [
        "Certificate authority (ca.crt)",
        f"  valid until  {authority.valid_until:%Y-%m-%d} (1824 days left)",
        f"  SHA-256      {authority.fingerprint}",
        "  private key  not here",
        "Server certificate (server.pem)",
        "  host names   localhost, 127.0.0.1, ::1, fl.example.org",
        f"  valid until  {server.valid_until:%Y-%m-%d} (396 days left)",
        f"  SHA-256      {server.fingerprint}",
        "  private key  server.key",
        "Nodes",
        f"  a         {first.fingerprint}  private key not here",
        f"  hospital  {second.fingerprint}  private key here",
        "",
        "Nothing is wrong.",
    ]
    assert re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", first.fingerprint)
    assert re.fullmatch(r"[0-9A-F]{2}(:[0-9A-F]{2}){31}", server.fingerprint)


def test_show_says_what_is_wrong_and_ends_with_code_1(capsys):
    now = datetime.now(UTC)
    make_authority(Path("certs"), now=now - timedelta(days=400))
    main(["certs", "node", "a"])
    Path("certs/ca.key").chmod(0o644)
    Path("certs/nodes/a.pub").write_text("?")
    Path("certs/nodes/a").unlink()
    capsys.readouterr()
    assert main(["certs", "show"]) == 1
    lines = capsys.readouterr().out.splitlines()
    end = f"{now - timedelta(days=3):%Y-%m-%d}"
    assert f"  valid until  {end} (expired)" in lines
    assert "  a  cannot be read  private key not here" in lines
    assert lines[lines.index("Wrong:") :] == [
        "Wrong:",
        "  certs/ca.key is open to others (mode 0644): chmod 600 certs/ca.key",
        f"  certs/server.pem expired on {end}.",
        "  certs/nodes/a.pub does not hold an elliptic-curve public key in OpenSSH's format.",
    ]


def test_show_counts_the_last_day(capsys):
    now = datetime.now(UTC)
    make_authority(Path("certs"), now=now - timedelta(days=395, hours=12))
    assert main(["certs", "show"]) == 1
    assert "(1 day left)" in capsys.readouterr().out
    renew_server(Path("certs"), now=now)
    assert main(["certs", "show"]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["init", "--host", "fl.example.org:9092"], "'fl.example.org:9092' is neither a host name nor an IP address."),
        (["init", "--renew"], "certs/ca.crt cannot be read: No such file or directory."),
        (["init", "--rnew"], "Unknown argument '--rnew'. Did you mean '--renew'?"),
        (["init", "fl.example.org"], "Unknown argument 'fl.example.org'."),
        (["node", "a/b"], "'a/b' cannot name a node."),
        (["node", "a", "b"], "Unknown argument 'b'."),
        (["node", "a" * 300], f"certs/nodes/{'a' * 300} cannot be written: File name too long."),
        (["show"], "There are no certificates or keys in 'certs'. Make them: fedfuse certs init"),
        (["show", "--directory", "a" * 300], f"{'a' * 300}/ca.crt: File name too long."),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(words, expected, capsys):
    assert main(["certs", *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fedfuse: error: {expected}")
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not any(path.is_file() for path in Path().rglob("*"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["inti"], "Argument {init,node,show}: invalid choice: 'inti' (choose from 'init', 'node', 'show')."),
        ([], "The following arguments are required: {init,node,show}."),
    ],
)
def test_unknown_or_missing_action_names_the_valid_ones_in_one_line(words, expected, capsys):
    assert main(["certs", *words]) == 2
    output = capsys.readouterr()
    assert output.err == f"fedfuse: error: {expected} See fedfuse certs --help.\n"
    assert output.out == ""
    assert not any(Path().iterdir())


def test_examples_of_the_help_work(capsys):
    lines = [line.split("fedfuse ")[1] for line in certs.CERTS_EXAMPLES.splitlines() if "fedfuse " in line]
    assert len(lines) == 4
    for line in lines:
        assert main(re.split(r"\s{3,}", line)[0].split()) == 0, capsys.readouterr().err
