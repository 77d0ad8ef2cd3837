import sys

import numpy as np
import pytest
import records
from PIL import Image

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.metrics import round_metrics
from fedfuse.results import LOCAL_ONLY
from fedfuse.tracking.scalars import scalars
from fedfuse.tracking.tensorboard import TensorBoard
from fedfuse.tracking.tracker import FEDERATED


def tell(directory, numbers, stage=FEDERATED, end=None, figures=()):
    """Follow some rounds as one process would."""
    tracker = TensorBoard()
    lines = tracker.begin(directory, {})
    for record in records.rounds(numbers):
        tracker.round_finished(round_metrics(record), stage)
    tracker.end(end, figures)
    return lines


def read(directory, stage=FEDERATED):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory / "tensorboard" / stage)).Reload()


def points(directory, name, stage=FEDERATED):
    return [(event.step, pytest.approx(event.value)) for event in read(directory, stage).Scalars(name)]


def test_every_scalar_of_every_round_is_written(tmp_path):
    tell(tmp_path, [1, 2, 3])
    expected = [scalars(round_metrics(record)) for record in records.rounds([1, 2, 3])]
    assert set(read(tmp_path).Tags()["scalars"]) == set(expected[0])
    for name in expected[0]:
        assert points(tmp_path, name) == [(i + 1, values[name]) for i, values in enumerate(expected)]


def test_the_stages_have_folders_of_their_own_and_the_same_names(tmp_path):
    tell(tmp_path, [1, 2])
    tell(tmp_path, [1], stage=LOCAL_ONLY)
    assert points(tmp_path, "personal/mean") == [(1, 0.1), (2, 0.2)]
    assert points(tmp_path, "personal/mean", LOCAL_ONLY) == [(1, 0.1)]


def test_a_resumed_run_replaces_what_it_tells_again(tmp_path):
    tell(tmp_path, [1, 2, 3])
    tell(tmp_path, [2, 3, 4])
    assert points(tmp_path, "personal/mean") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_a_round_that_is_told_twice_is_written_once(tmp_path):
    tell(tmp_path, [1, 2, 2, 1, 3])
    assert points(tmp_path, "personal/mean") == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_figures_are_written_at_the_last_round(tmp_path):
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[:, :2, 0] = 200
    Image.fromarray(pixels).save(tmp_path / "relevance.png")
    figures = [tmp_path / "relevance.png", tmp_path / "not_drawn.pdf"]
    tell(tmp_path, [1, 2], end={"num_rounds": 2}, figures=figures)
    assert read(tmp_path).Tags()["images"] == ["figures/relevance"]
    [image] = read(tmp_path).Images("figures/relevance")
    assert (image.step, image.height, image.width) == (2, 3, 5)


def test_figures_of_a_run_that_had_all_its_rounds_do_not_void_them(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "relevance.png")
    tell(tmp_path, [1, 2])
    tell(tmp_path, [], end={"num_rounds": 2}, figures=[tmp_path / "relevance.png"])
    assert points(tmp_path, "personal/mean") == [(1, 0.1), (2, 0.2)]
    assert read(tmp_path).Tags()["images"] == ["figures/relevance"]


def test_a_run_that_was_stopped_has_no_figures(tmp_path):
    tell(tmp_path, [1], end=None, figures=[tmp_path / "missing.png"])
    assert read(tmp_path).Tags()["images"] == []


def test_the_user_is_told_how_to_look(tmp_path):
    directory = tmp_path / "my run"
    assert tell(directory, []) == [f"TensorBoard: tensorboard --logdir '{directory}/tensorboard'"]


def test_it_is_chosen_by_name():
    [component] = compose(["tracking=[tensorboard]"]).tracking
    assert isinstance(build(component, "tracking"), TensorBoard)


def test_a_missing_package_is_named_when_the_tracker_is_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    [component] = compose(["tracking=tensorboard"]).tracking
    with pytest.raises(ConfigurationError, match=r"^tracking tensorboard .* pip install 'fedfuse\[tensorboard\]'"):
        build(component, "tracking")
