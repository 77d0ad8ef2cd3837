import pytest

from fedfuse.data.sources.location import existing, find, require
from fedfuse.errors import ConfigurationError


def test_a_path_comes_before_the_folder_of_data_sets(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "sets" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("FEDFUSE_DATA", str(tmp_path / "sets"))
    assert find("mnist", str(tmp_path / "mine")) == tmp_path / "mine"
    assert find("mnist", None) == tmp_path / "sets" / "mnist"
    assert find("usps", None) is None


def test_without_a_path_and_a_folder_of_data_sets_nothing_is_found():
    assert find("mnist", None) is None


def test_a_folder_of_data_sets_that_does_not_exist_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDFUSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"FEDFUSE_DATA=.*nowhere is no folder"):
        find("mnist", None)


def test_a_path_can_start_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert existing("~/mine") == tmp_path / "mine"


def test_a_path_that_does_not_exist_is_named_with_its_nearest_sibling(tmp_path):
    (tmp_path / "mnist" / "deep").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"There is no .*/mnits\. Did you mean .*/mnist\?"):
        existing(str(tmp_path / "mnits"))
    with pytest.raises(ConfigurationError, match=r"There is no .*/mnits\. Did you mean .*/mnist\?"):
        existing(str(tmp_path / "mnits" / "deep"))
    with pytest.raises(ConfigurationError, match=r"There is no .*/qqq\.$"):
        existing(str(tmp_path / "qqq"))


def test_what_cannot_be_fetched_says_what_its_folder_must_hold(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.path=DIR.*\$FEDFUSE_DATA/usps: a folder with two files"):
        require("usps", None, "two files")
    assert require("usps", str(tmp_path), "two files") == tmp_path
