import numpy as np
import pytest
from image_files import colour, grey, png

from fedfuse.data.sources.image_folder import list_images, read_images
from fedfuse.data.sources.options import Options
from fedfuse.errors import ConfigurationError


def write(folder, images):
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))


def read(train, test=(), **options):
    return read_images(list_images(train, test), "DIR", Options(**options)).data


def test_folders_are_classes_and_files_come_in_order(tmp_path):
    images = colour(4)
    write(
        tmp_path, {"dog/b.png": images[2], "cat/b.PNG": images[1], "dog/deep/c.png": images[3], "cat/a.png": images[0]}
    )
    (tmp_path / "cow").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / "dog" / ".hidden.png").write_text("x")
    data = read([tmp_path])
    assert data.class_names == ("cat", "cow", "dog")
    assert data.samples.labels.tolist() == [0, 0, 2, 2]
    assert np.array_equal(data.samples.inputs.numpy(), np.moveaxis(images, 3, 1))
    assert data.official_test is None


def test_a_test_part_has_the_same_classes(tmp_path):
    images = grey(3)
    write(tmp_path, {"train/b/1.png": images[0], "train/c/1.png": images[1], "test/a/1.png": images[2]})
    data = read([tmp_path / "train"], [tmp_path / "test"])
    assert data.class_names == ("a", "b", "c")
    assert data.samples.labels.tolist() == [1, 2, 0]
    assert data.official_test.tolist() == [False, False, True]
    assert np.array_equal(data.samples.inputs.numpy(), images[:, None])


def test_an_image_that_cannot_be_read_or_is_of_another_size_is_named(tmp_path):
    write(tmp_path, {"a/1.png": grey(1)[0], "b/1.png": grey(1, (8, 8))[0]})
    with pytest.raises(ConfigurationError, match=r"a/1\.png is 5x4 pixels, .*b/1\.png 8x8; say data\.image_size"):
        read([tmp_path])
    assert read([tmp_path], image_size=6).samples.inputs.shape == (2, 1, 6, 6)
    (tmp_path / "b" / "1.png").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"b/1\.png is no image that can be read"):
        read([tmp_path])


def test_an_image_outside_all_classes_is_named(tmp_path):
    write(tmp_path, {"a/1.png": grey(1)[0], "lost.png": grey(1)[0]})
    with pytest.raises(ConfigurationError, match=r"lost\.png is in no class"):
        read([tmp_path])


def test_two_classes_need_images(tmp_path):
    write(tmp_path, {"a/1.png": grey(1)[0]})
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigurationError, match="DIR: all samples have the label 'a'; at least two"):
        read([tmp_path])


def test_there_are_no_columns_to_name(tmp_path):
    write(tmp_path, {"a/1.png": grey(1)[0], "b/1.png": grey(1)[0]})
    with pytest.raises(ConfigurationError, match=r"data\.client is set, but DIR has images in folders and no columns"):
        read([tmp_path], client="user")
