from argparse import ArgumentParser
from pathlib import Path

import pytest

from fedfuse.commands.parser import add_config_dir, check_directory
from fedfuse.errors import ConfigurationError


@pytest.fixture
def parser():
    parser = ArgumentParser()
    add_config_dir(parser)
    return parser


def test_without_the_option_there_is_no_directory(parser):
    assert parser.parse_args([]).config_dir is None


@pytest.mark.parametrize("words", [["--config-dir", "my parts"], ["--config-dir=my parts"]])
def test_directory_is_a_path(parser, words):
    assert parser.parse_args(words).config_dir == Path("my parts")


def test_help_shows_by_example_how_the_directory_is_laid_out(parser):
    assert "--config-dir DIR" in parser.format_help()
    assert "DIR/strategy/mine.yaml" in parser.format_help()


def test_file_is_no_directory_and_stays(tmp_path):
    path = tmp_path / "state"
    path.write_text("mine")
    with pytest.raises(ConfigurationError) as refused:
        check_directory(path)
    assert str(refused.value) == f"{path} is not a directory."
    assert path.read_text() == "mine"


@pytest.mark.parametrize("path", [".", "new", "new/in new"])
def test_directory_may_be_there_or_be_made_later(path, tmp_path):
    check_directory(tmp_path / path)
    assert not any(tmp_path.iterdir())
