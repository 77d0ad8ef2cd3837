"""The commands and files that the documents name are there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from fedfuse.cli import COMMANDS, _parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("simulations/*/README.md")])


def commands_in(document):
    """Find what is typed in blocks of shell commands, without comments."""
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "fedfuse":
                yield words[1 : words.index(">")] if ">" in words else words[1:]


def test_the_walk_finds_the_commands():
    deploy = list(commands_in(ROOT / "docs" / "deploy.md"))
    assert {words[0] for words in deploy} >= {"export", "client", "server", "certs"}
    assert sum(len(list(commands_in(document))) for document in DOCUMENTS) > 25


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_document_is_one(document):
    for words in commands_in(document):
        assert words[0] in COMMANDS, words
        arguments, rest = _parser().parse_known_args([word for word in words if word != "&"])
        assert arguments.command == words[0]
        assert [word for word in rest if word.startswith("-")] == [], words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_in_a_document_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#:\s]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_blocks_of_toml_are_toml():
    for document in DOCUMENTS:
        for block in re.findall(r"```toml\n(.*?)```", document.read_text(), re.DOTALL):
            tomllib.loads(block)


def test_every_strategy_is_in_the_table_of_methods():
    text = (ROOT / "docs" / "methods.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    shipped = {path.stem for path in (ROOT / "configs" / "strategy").glob("*.yaml")} - {"custom"}
    assert named == shipped
