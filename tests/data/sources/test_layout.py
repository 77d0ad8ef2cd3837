import pytest

from fedfuse.data.sources.layout import Format, Layout, find_layout, share_parts
from fedfuse.errors import ConfigurationError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (["train.parquet", "test.parquet"], ["train.parquet"], ["test.parquet"]),
        (["train.parquet", "test.parquet", "all.parquet"], ["train.parquet"], ["test.parquet"]),
        (["all.parquet", "other.parquet"], ["all.parquet"], []),
        (["anything.parquet", "README.md"], ["anything.parquet"], []),
        (["test.parquet"], ["test.parquet"], []),
        (
            [
                "data/train-00001-of-00002.parquet",
                "data/train-00000-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            ["data/test-00000-of-00001.parquet"],
        ),
        (
            ["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet", "docs/a.md"],
            ["plain_text/train-00000-of-00001.parquet"],
            ["plain_text/test-00000-of-00001.parquet"],
        ),
        (
            ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
            ["train/0000.parquet", "train/0001.parquet"],
            ["test/0000.parquet"],
        ),
        (["data/train.parquet", "extra/train.parquet"], ["data/train.parquet"], []),
        (["train.parquet", "valid.parquet"], ["train.parquet"], ["valid.parquet"]),
        (
            ["train.parquet", "validation.parquet", "test.parquet"],
            ["train.parquet", "validation.parquet"],
            ["test.parquet"],
        ),
    ],
)
def test_files_are_shared_out_by_name(tmp_path, files, train, test):
    make(tmp_path, *files)
    assert find_layout(tmp_path) == Layout(
        Format.PARQUET, tuple(tmp_path / name for name in train), tuple(tmp_path / name for name in test)
    )


@pytest.mark.parametrize(
    ("suffix", "kind"), [("csv", Format.CSV), ("npz", Format.ARCHIVE), ("parquet", Format.PARQUET)]
)
def test_a_file_is_known_by_its_suffix(tmp_path, suffix, kind):
    make(tmp_path, f"a.{suffix}")
    assert find_layout(tmp_path / f"a.{suffix}") == Layout(kind, (tmp_path / f"a.{suffix}",))
    assert find_layout(tmp_path).format is kind


def test_folders_of_images_are_classes_or_parts(tmp_path):
    make(tmp_path / "flat", "cat/a.png", "dog/deep/b.JPG", "empty/", "notes.txt")
    assert find_layout(tmp_path / "flat") == Layout(Format.IMAGES, (tmp_path / "flat",))
    parts = tmp_path / "parts"
    make(parts, "train/cat/a.png", "test/cat/b.png")
    assert find_layout(parts) == Layout(Format.IMAGES, (parts / "train",), (parts / "test",))
    make(parts, "unlabelled/c.png")
    assert find_layout(parts) == Layout(Format.IMAGES, (parts / "train",), (parts / "test",))


def test_a_class_can_be_called_train(tmp_path):
    make(tmp_path, "train/a.png", "car/b.png")
    assert find_layout(tmp_path) == Layout(Format.IMAGES, (tmp_path,))


def test_a_folder_with_images_and_a_table_is_one_of_images(tmp_path):
    make(tmp_path, "cat/a.png", "labels.csv")
    assert find_layout(tmp_path).format is Format.IMAGES


def test_hidden_files_are_not_seen(tmp_path):
    make(tmp_path, ".train.parquet.partial", ".a.parquet", "train.parquet", ".git/x/a.png")
    assert find_layout(tmp_path) == Layout(Format.PARQUET, (tmp_path / "train.parquet",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds nothing; it must hold train.parquet"),
        (["a.txt", "deep/b.md"], "holds a.txt, deep/; it must hold train.parquet"),
        (["1.x", "2.x", "3.x", "4.x", "5.x", "6.x", "7.x"], "holds 1.x, 2.x, 3.x, 4.x, 5.x and 2 more; it"),
        (["a.csv", "b.csv"], "has a.csv, b.csv: name them train.csv and test.csv, or say data.path=.*a.csv"),
        (["en/train.parquet", "fr/train.parquet"], "has .parquet files in en, fr; say data.path=.*en or another"),
    ],
)
def test_a_folder_of_none_of_the_layouts_says_what_was_found(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(ConfigurationError, match=message):
        find_layout(tmp_path)


def test_a_file_of_another_format_or_an_empty_one_is_refused(tmp_path):
    make(tmp_path, "a.xlsx")
    with pytest.raises(ConfigurationError, match=r"a\.xlsx is none of \.parquet, \.csv and \.npz, nor a folder"):
        find_layout(tmp_path / "a.xlsx")
    (tmp_path / "b.csv").touch()
    for path in (tmp_path / "b.csv", tmp_path):
        with pytest.raises(ConfigurationError, match=r"b\.csv is empty"):
            find_layout(path)


def test_validation_tests_where_nothing_else_does():
    assert share_parts(["val", "train"]) == {"train": False, "val": True}
    assert list(share_parts(["test", "dev", "train"]).items()) == [("train", False), ("dev", False), ("test", True)]
    assert share_parts(["other"]) == {}
