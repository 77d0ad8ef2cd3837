import numpy as np
import pytest
import torch
from image_files import colour, grey

from fedfuse.data.sources.archive import read_archives
from fedfuse.data.sources.options import Options
from fedfuse.errors import ConfigurationError


@pytest.fixture
def read(tmp_path):
    """Return a function that writes arrays into an archive and reads it."""

    def write_and_read(options=None, **arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return read_archives([tmp_path / "a.npz"], [], Options(**(options or {})))

    return write_and_read


LABELS = np.array([1, 0, 1])


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("inputs", "labels"), ("X", "Y"), ("images", "target")])
def test_arrays_are_found_by_name(read, x, y):
    data = read(**{x: grey(3), y: LABELS}).data
    assert np.array_equal(data.samples.inputs.numpy(), grey(3)[:, None])
    assert data.samples.labels.tolist() == [1, 0, 1]
    assert data.class_names == ("0", "1")
    assert data.official_test is None


@pytest.mark.parametrize("pattern", ["{}_{}", "{1}_{0}"])
def test_train_and_test_arrays_follow_each_other(read, pattern):
    x_train, y_train, x_test, y_test = (pattern.format(name, part) for part in ("train", "test") for name in ("x", "y"))
    arrays = {x_test: grey(2, seed=1), y_test: np.array([2, 0]), x_train: grey(3), y_train: LABELS[:, None]}
    data = read(**arrays).data
    assert np.array_equal(data.samples.inputs.numpy(), np.concatenate([grey(3), grey(2, seed=1)])[:, None])
    assert data.samples.labels.tolist() == [1, 0, 1, 2, 0]
    assert data.official_test.tolist() == [False] * 3 + [True] * 2


def test_two_archives_are_two_parts(tmp_path):
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", x=grey(2), y=[0, 1])
    files = [tmp_path / "train.npz", tmp_path / "test.npz"]
    data = read_archives(files[:1], files[1:], Options()).data
    assert data.official_test.tolist() == [False, False, True, True]
    together = read_archives(files, [], Options()).data
    assert (len(together.samples), together.official_test) == (4, None)


def test_colour_can_stand_first_or_last(read):
    expected = np.moveaxis(colour(3), 3, 1)
    for images in (colour(3), expected, expected.astype(np.int64)):
        assert np.array_equal(read(x=images, y=LABELS).data.samples.inputs.numpy(), expected)
        assert read(x=images, y=LABELS).data.samples.inputs.dtype == torch.uint8


def test_images_can_be_resized_and_made_grey(read):
    inputs = read({"image_size": 8, "grey": True}, x=colour(3), y=LABELS).data.samples.inputs
    assert inputs.shape == (3, 1, 8, 8)
    assert 0 <= inputs.min() <= inputs.max() <= 1


def test_tables_are_standardised_and_others_taken_as_they_are(read):
    table = np.array([[1.0, 5], [3, 5], [2, 5]])
    scale = 1.5**0.5
    expected = np.array([[-scale, 0], [scale, 0], [0, 0]])
    assert read(x=table, y=LABELS).data.samples.inputs.numpy() == pytest.approx(expected)
    assert read({"standardize": False}, x=table, y=LABELS).data.samples.inputs.tolist() == table.tolist()
    series = np.random.default_rng(0).normal(size=(3, 2, 4))
    assert np.array_equal(read(x=series, y=LABELS).data.samples.inputs.numpy(), series.astype(np.float32))


def test_clients_domains_and_names_of_labels(read):
    arrays = {
        "x": grey(3),
        "y": np.array(["b", "a", "b"]),
        "user": np.array([4, 2, 4]),
        "domain": np.array(["p", "q", "p"]),
    }
    data = read(**arrays).data
    assert data.class_names == ("a", "b")
    assert (data.natural_clients.names, data.natural_clients.members.tolist()) == (("2", "4"), [1, 0, 1])
    assert data.domains.names == ("p", "q")


def test_arrays_can_be_named(read):
    arrays = {"x": grey(3), "y": LABELS, "other_train": grey(3, seed=5), "kind_train": np.array([4, 9, 4])}
    reading = read({"inputs": ("other",), "label": "kind"}, **arrays)
    assert np.array_equal(reading.data.samples.inputs.numpy(), grey(3, seed=5)[:, None])
    assert reading.data.class_names == ("4", "9")
    assert "The labels 4, 9 are numbered 0 to 1" in reading.notes[0]
    with pytest.raises(ConfigurationError, match=r"data\.label 'kin'\. Did you mean 'kind'\?"):
        read({"label": "kin"}, **arrays)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": grey(3)}, r"Which array of .*a\.npz has the label\? Say data\.label=NAME; it has x \[3, 4, 5\]"),
        ({"p": grey(3), "y": LABELS}, r"Which array of .*a\.npz has the inputs\?"),
        ({"x": grey(3), "y": LABELS[:2]}, r"x is of shape \[3, 4, 5\] and .*, y of \[2\]; there must be one entry"),
        ({"x": np.arange(3), "y": LABELS}, r"x is of shape \[3\] and .*, y of \[3\]"),
        (
            {"x_train": grey(3), "y_train": LABELS, "x_test": grey(2)},
            r"x_test has no array beside it as there is in .*, y_train\.",
        ),
        (
            {"x_train": grey(3), "y_train": LABELS, "x_test": grey(2, (9, 9)), "y_test": LABELS[:2]},
            r"The samples of .*, x_train are of shape \[4, 5\], those of .*, x_test of \[9, 9\]",
        ),
        ({"x": np.array([[1.0], [np.nan], [2]]), "y": LABELS}, r"a\.npz, x, row 2 has nan, not a finite number"),
        (
            {"x": np.full((3, 1, 2), 1e300), "y": LABELS},
            r"x, row 1 has 1e\+300, not a finite number in single precision",
        ),
        ({"x": grey(3), "y": np.array([0, 1, np.nan])}, "y, row 3 is nan"),
        ({"x": grey(3), "y": np.array([0, 1, 0.5])}, "y, row 3: the label 0.5 is neither"),
        ({"x": grey(3), "y": np.zeros(3)}, "all samples have the label '0'"),
        ({"x": np.array([["a"]] * 3), "y": LABELS}, "x is <U1; numbers are needed"),
        ({"x": grey(3), "y": np.zeros(3, complex)}, "y is complex128; names or whole numbers"),
    ],
)
def test_what_cannot_be_used_is_named(read, arrays, message):
    with pytest.raises(ConfigurationError, match=message):
        read(**arrays)


def test_pickles_are_refused(read):
    with pytest.raises(
        ConfigurationError, match=r"a\.npz is no NumPy archive.*Python objects \(pickles\), which are not"
    ):
        read(x=grey(3), y=np.array([{}, 1, 2], dtype=object))


def test_a_file_that_is_torn_or_no_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=grey(30), y=np.arange(30))
    whole = (tmp_path / "a.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[300:400] = bytes(100)
    for content in (whole[: len(whole) // 2], b"hello", bytes(damaged)):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"b\.npz is no NumPy archive that can be read"):
            read_archives([tmp_path / "b.npz"], [], Options())


def test_options_that_mean_nothing_are_refused(read):
    with pytest.raises(ConfigurationError, match=r"data\.grey is set, but .*, x has no images in bytes"):
        read({"grey": True}, x=np.zeros((3, 2)), y=LABELS)
    with pytest.raises(ConfigurationError, match=r"data\.inputs must name one array"):
        read({"inputs": ("x", "y")}, x=grey(3), y=LABELS)
