"""``fedfuse certs``: the certificates and keys of a federation over real machines."""

import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedfuse.commands.parser import Commands
from fedfuse.errors import ConfigurationError, unknown_name

if TYPE_CHECKING:
    from fedfuse.deploy.inspection import CertificateDescription, NodeDescription

CERTS_EXAMPLES = """\
examples:
  fedfuse certs init --host fl.example.org --host 192.0.2.7    an authority, and a certificate for a server there
  fedfuse certs node hospital_a                                the keys of one node
  fedfuse certs show                                           what is there, and what is wrong with it
  fedfuse certs init --renew                                   a new server certificate under the same authority
"""

OPTIONS = {
    "init": ("--directory", "--host", "--renew", "--help"),
    "node": ("--directory", "--help"),
    "show": ("--directory", "--help"),
}

TITLES = {"ca.crt": "Certificate authority", "server.pem": "Server certificate"}
UNREADABLE = "cannot be read"

INIT_TEXT = """\
Where they go:
  server       {directory}/server.pem, {directory}/server.key and {directory}/ca.crt
  every node   {directory}/ca.crt, and keys of its own: fedfuse certs node NAME
  nowhere      {directory}/ca.key: keep it offline, for whoever has it can pose as the server
Start the server with
  fedfuse server --certificates {directory} --host 0.0.0.0 OVERRIDES
"""

RENEW_TEXT = """\
Where they go:
  server       {directory}/server.pem and {directory}/server.key; start it again, so that it reads them
  every node   nothing new: {directory}/ca.crt is the same
"""

NODE_TEXT = """\
Where they go:
  that node    {directory}/nodes/{name} and {directory}/ca.crt; no other machine needs this private key
  server       {directory}/nodes/{name}.pub
The server lets in every node whose public key it has there. Start the node on its own machine with
  fedfuse client --id N --data PATH --server HOST:PORT --authority {directory}/ca.crt --key {directory}/nodes/{name}
"""


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "certs",
        help="make and check the certificates of a deployment",
        description="Make and check the certificates and keys of a federation over real machines.",
        epilog=CERTS_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", title="actions", metavar=f"{{{','.join(OPTIONS)}}}", required=True)
    init = actions.add_parser(
        "init",
        help="make a certificate authority and the server's certificate",
        description="Make a certificate authority and the server's certificate. Nothing that exists is overwritten.",
        allow_abbrev=False,
    )
    init.add_argument(
        "--host",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME_OR_IP",
        help="where clients reach the server; localhost, 127.0.0.1 and ::1 are always among them",
    )
    init.add_argument(
        "--renew",
        action="store_true",
        help="replace the server's certificate and key only; without --host its host names stay",
    )
    node = actions.add_parser(
        "node",
        help="make the key pair of one node",
        description="Make the key pair by which one node (a SuperNode) proves who it is. Nothing is overwritten.",
        allow_abbrev=False,
    )
    node.add_argument("name", metavar="NAME", help="of letters, digits, '-', '_' and '.'")
    show = actions.add_parser(
        "show",
        help="show what is there and what is wrong with it",
        description="Show what is there. The exit code is 1 if something is wrong.",
        allow_abbrev=False,
    )
    for action in (init, node, show):
        _add_directory(action)


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Do what the words say."""
    if rest:
        raise unknown_name("argument", rest[0], OPTIONS[arguments.action])
    try:
        if arguments.action == "init":
            return _init(arguments.directory, arguments.host, arguments.renew)
        if arguments.action == "node":
            return _node(arguments.directory, arguments.name)
        return _show(arguments.directory)
    except OSError as error:  # a directory that may not be entered, for example
        raise ConfigurationError(f"{error.filename}: {error.strerror}.") from error


def _add_directory(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--directory", type=Path, default=Path("certs"), metavar="DIR", help="where the files are (default: certs)"
    )


def _init(directory: Path, hosts: Sequence[str], renew: bool) -> int:
    from fedfuse.deploy.certificates import make_authority, renew_server  # slow, because of cryptography

    if renew:
        renew_server(directory, hosts)
    else:
        make_authority(directory, hosts)
    sys.stdout.write(f"Made {'a new server certificate' if renew else 'an authority and a server certificate'}.\n\n")
    certificates = _describe_certificates(directory)
    _show_certificates(certificates)
    sys.stdout.write("\n" + (RENEW_TEXT if renew else INIT_TEXT).format(directory=shlex.quote(str(directory))))
    _show_problems(certificates)  # a new certificate may end soon, because its authority does
    return 0


def _node(directory: Path, name: str) -> int:
    from fedfuse.deploy.node_keys import make_node_key

    make_node_key(directory, name)
    sys.stdout.write(
        f"Made the keys of {name}.\n\n" + NODE_TEXT.format(directory=shlex.quote(str(directory)), name=name)
    )
    return 0


def _show(directory: Path) -> int:
    from fedfuse.deploy.inspection import describe_nodes

    certificates, nodes = _describe_certificates(directory), describe_nodes(directory)
    if not (certificates or nodes):
        raise ConfigurationError(f"There are no certificates or keys in '{directory}'. Make them: fedfuse certs init")
    _show_certificates(certificates)
    if nodes:
        sys.stdout.write("Nodes\n")
    width = max((len(node.name) for node in nodes), default=0)
    for node in nodes:
        where = "private key here" if node.has_private_key else "private key not here"
        sys.stdout.write(f"  {node.name:<{width}}  {node.fingerprint or UNREADABLE}  {where}\n")
    if _show_problems([*certificates, *nodes]):
        return 1
    sys.stdout.write("\nNothing is wrong.\n")
    return 0


def _describe_certificates(directory: Path) -> list["CertificateDescription"]:
    from fedfuse.deploy.inspection import describe_authority, describe_server

    return [
        certificate
        for certificate in (describe_authority(directory), describe_server(directory))
        if certificate is not None
    ]


def _show_certificates(certificates: Sequence["CertificateDescription"]) -> None:
    for certificate in certificates:
        lines = [f"{TITLES[certificate.path.name]} ({certificate.path.name})"]
        if certificate.hosts:
            lines.append(f"  host names   {', '.join(certificate.hosts)}")
        if certificate.valid_until is not None and certificate.time_left is not None:
            days = certificate.time_left.days
            left = "expired" if days < 0 else f"{days} day{'s' if days != 1 else ''} left"
            lines.append(f"  valid until  {certificate.valid_until:%Y-%m-%d} ({left})")
        lines.append(f"  SHA-256      {certificate.fingerprint or UNREADABLE}")
        lines.append(f"  private key  {certificate.key_path.name if certificate.key_path else 'not here'}")
        sys.stdout.writelines(f"{line}\n" for line in lines)


def _show_problems(described: Sequence["CertificateDescription | NodeDescription"]) -> bool:
    """Say what is wrong, if anything is, and whether it is."""
    problems = [problem for part in described for problem in part.problems]
    if problems:
        sys.stdout.write("\nWrong:\n")
        sys.stdout.writelines(f"  {problem}\n" for problem in problems)
    return bool(problems)
