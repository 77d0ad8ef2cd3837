import importlib
import inspect
from pathlib import Path

import pytest

from fedfuse import catalogue
from fedfuse.errors import ConfigurationError

GROUPS = (
    "tracking",
    "data",
    "partition",
    "model",
    "transfer/policy",
    "strategy",
    "objective",
    "predictor/answer",
    "privacy",
    "encoding",
)
SHIPPED = [(group, name) for group in GROUPS for name in catalogue.names(group, catalogue.folders())]
# Each names a predictor for everyone who asks: it has no target of its own.
SETS = [("predictor", name) for name in catalogue.names("predictor", catalogue.folders())]


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    (folder / "objective").mkdir(parents=True)
    return folder


def test_own_folder_is_searched_besides_that_of_fedfuse(own):
    (own / "objective" / "mine.yaml").write_text("_target_: mine.Mine\n")
    folders = catalogue.folders(own)
    assert folders == (Path(catalogue.__file__).parent.parent / "configs", own)
    assert catalogue.folders() == folders[:1]
    assert catalogue.read("objective", "mine", folders) == {"_target_": "mine.Mine"}
    assert catalogue.read("objective", "kd", folders)["_target_"] == "fedfuse.objectives.kd.KD"


@pytest.mark.parametrize("path", ["objective/kd.yaml", "transfer/policy/all.yaml"])
def test_own_part_cannot_take_a_name_of_fedfuse(own, path):
    (own / path).parent.mkdir(parents=True, exist_ok=True)
    (own / path).write_text("_target_: mine.Part\n")
    with pytest.raises(ConfigurationError, match=f"{path} has the name of a part of fedfuse: give it another name"):
        catalogue.folders(own)


def test_own_folder_must_exist(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^The configuration directory '.*/nowhere' does not exist\.$"):
        catalogue.folders(tmp_path / "nowhere")


def test_names_are_sorted_and_come_from_all_folders(own):
    (own / "objective" / "a_first.yaml").write_text("_target_: mine.First\n")
    (own / "objective" / "notes.txt").write_text("not a part")
    names = catalogue.names("objective", catalogue.folders(own))
    assert names == sorted(names)
    assert {"a_first", "kd", "prototype", "cross_entropy"} <= set(names)
    assert "notes" not in names
    assert catalogue.names("nothing", catalogue.folders(own)) == []


def test_unknown_part_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigurationError, match=r"^Unknown model 'mlp_smal'\. Did you mean 'mlp_small'\?"):
        catalogue.read("model", "mlp_smal", catalogue.folders())


@pytest.mark.parametrize("text", ["a: [1", "- a list\n"])
def test_file_that_is_no_mapping_is_named(own, text):
    (own / "objective" / "broken.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"broken\.yaml") as caught:
        catalogue.read("objective", "broken", [own])
    assert "\n" not in str(caught.value)


def test_opening_comment_describes_a_part(own):
    (own / "objective" / "mine.yaml").write_text("# What I made.\n_target_: fedfuse.catalogue.names\n")
    assert catalogue.describe("objective", "mine", [own]) == "What I made."


def test_docstring_of_the_target_describes_a_part_without_being_imported(own, monkeypatch):
    (own / "explosive.py").write_text(
        '"""Not this."""\nraise SystemExit\n\nclass Loss:\n'
        '    """Look at version 1.5 of\n    the loss. And more."""\n\ndef other():\n    """Not that."""\n'
    )
    monkeypatch.syspath_prepend(own)
    (own / "objective" / "mine.yaml").write_text("_target_: explosive.Loss\n")
    assert catalogue.describe("objective", "mine", [own]) == "Look at version 1.5 of the loss."


@pytest.mark.parametrize("target", ["no_such_package.Loss", "fedfuse.catalogue.absent", "nodots", "math.sqrt", ""])
def test_part_without_a_docstring_has_an_empty_description(own, target):
    (own / "objective" / "mine.yaml").write_text(f"_target_: {target!r}\n")
    assert catalogue.describe("objective", "mine", [own]) == ""


def test_target_with_a_syntax_error_can_still_be_listed(own, monkeypatch):
    (own / "unfinished.py").write_text("class Loss(\n")
    monkeypatch.syspath_prepend(own)
    (own / "objective" / "mine.yaml").write_text("_target_: unfinished.Loss\n")
    assert catalogue.describe("objective", "mine", [own]) == ""


def test_carriers_are_those_that_messages_can_have():
    from fedfuse.carriers.carrier import CARRIERS

    described = catalogue.carriers()
    assert set(described) == set(CARRIERS)
    assert described["soft_labels"].startswith("Class probabilities on the transfer set")


@pytest.mark.parametrize(("group", "name"), [*SHIPPED, *SETS])
def test_every_shipped_part_is_described(group, name):
    description = catalogue.describe(group, name, catalogue.folders())
    assert description[0] == description[0].upper()
    assert description.endswith((".", "}]", "]", "strength=2", "load_data"))


@pytest.mark.parametrize(("group", "name"), [part for part in SHIPPED if part[1] != "custom"])
def test_every_shipped_part_has_a_target_that_takes_its_arguments(group, name):
    values = catalogue.read(group, name, catalogue.folders())
    module, _, attribute = values.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    assert values.keys() - {"defaults"} <= parameters.keys()
