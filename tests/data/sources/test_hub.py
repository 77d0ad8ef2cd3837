import os

import numpy as np
import pytest
from image_files import colour, grey, write_hub

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.data.sources import hub as hub_module
from fedfuse.data.sources.hub import hub
from fedfuse.errors import ConfigurationError

NAMES = ("cat", "dog")


def write(folder):
    write_hub(folder / "train-00000-of-00001.parquet", colour(3), [0, 1, 0], NAMES)
    write_hub(folder / "test-00000-of-00001.parquet", colour(2, seed=1), [1, 1], NAMES)


def check(data):
    expected = np.moveaxis(np.concatenate([colour(3), colour(2, seed=1)]), 3, 1)
    assert np.array_equal(data.samples.inputs.numpy(), expected)
    assert data.samples.labels.tolist() == [0, 1, 0, 1, 1]
    assert data.class_names == NAMES
    assert data.official_test.tolist() == [False] * 3 + [True] * 2


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Put parquet files in the place of the hub; says what was asked for."""
    import datasets

    write(tmp_path / "served")
    files = {part: str(tmp_path / "served" / f"{part}-00000-of-00001.parquet") for part in ("train", "test")}
    load, asked = datasets.load_dataset, []

    def load_dataset(name, subset):
        asked.append((name, subset))
        return load("parquet", data_files=files, cache_dir=str(tmp_path / "hub_cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_module, "_is_reachable", lambda: True)
    return asked


def test_a_path_and_the_folder_of_data_sets_come_before_the_hub(monkeypatch, tmp_path, fetched):
    write(tmp_path / "sets" / "pets")
    check(hub("somebody/pets", path=str(tmp_path / "sets" / "pets")))
    monkeypatch.setenv("FEDFUSE_DATA", str(tmp_path / "sets"))
    check(hub("somebody/pets"))
    assert fetched == []


def test_a_data_set_of_the_hub_is_read_as_its_files_are_and_kept(fetched, own_cache):
    for _ in range(2):
        check(hub("somebody/pets", subset="small"))
    assert fetched == [("somebody/pets", "small")] * 2
    assert len(list(own_cache.iterdir())) == 1
    assert hub("somebody/pets", image_size=6).samples.inputs.shape == (5, 3, 6, 6)


def test_without_a_network_one_line_says_what_to_do(monkeypatch, tmp_path):
    import datasets

    def fail(name, subset):
        raise ConnectionError(f"Couldn't reach {name}\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError) as caught:
        hub("somebody/pets")
    assert str(caught.value) == (
        "somebody/pets cannot be fetched from the Hugging Face hub (ConnectionError: Couldn't reach somebody/pets). "
        "Without a network, download its parquet files elsewhere and say data.path=DIR."
    )


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    import datasets

    seen = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset: seen.append(os.environ["HF_HUB_OFFLINE"]) or {})
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="has the parts , none of which"):
        hub("somebody/pets")
    assert seen == ["1"]


def test_parts_of_other_names_are_refused(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset: {"left": None, "right": None})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match="has the parts left, right, none of which is named train or test"):
        hub("somebody/pets")


@pytest.mark.parametrize(
    ("name", "repository", "models"),
    [
        ("mnist", "ylecun/mnist", ["lenet", "cnn_small", "mlp_large"]),
        ("fashion_mnist", "zalando-datasets/fashion_mnist", ["lenet", "cnn_small", "mlp_large"]),
        ("cifar10", "uoft-cs/cifar10", ["cnn_small", "resnet8", "lenet"]),
        ("cifar100", "uoft-cs/cifar100", ["cnn_small", "resnet8", "lenet"]),
    ],
)
def test_well_known_sets_have_their_names_and_models(monkeypatch, tmp_path, name, repository, models):
    configuration = compose([f"data={name}"])
    assert configuration.data.arguments["name"] == repository
    assert [model.name for model in configuration.model] == models
    label = {"fine_label": [4, 5, 4]} if name == "cifar100" else {}
    write_hub(tmp_path / name / "train.parquet", grey(3), [0, 1, 0], NAMES, **label)
    monkeypatch.setenv("FEDFUSE_DATA", str(tmp_path))
    assert build(configuration.data, "data").class_names == (("4", "5") if label else NAMES)


def test_any_set_can_be_named(tmp_path):
    write(tmp_path)
    words = ["data=hub", "data.name=somebody/pets", f"data.path={tmp_path}", "data.grey=true"]
    assert build(compose(words).data, "data").samples.inputs.shape == (5, 1, 4, 5)
    with pytest.raises(ConfigurationError, match=r"data\.name has no value yet"):
        compose(["data=hub"])
