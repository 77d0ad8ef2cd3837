import io

import numpy as np
import pytest
from image_files import colour, grey, png
from PIL import Image

from fedfuse.data.sources import decode
from fedfuse.data.sources.decode import Encoded, decode_images
from fedfuse.errors import ConfigurationError


def encoded(*contents):
    return [Encoded(content, lambda row: f"row {row + 1}", row) for row, content in enumerate(contents)]


def decoded(*contents, **options):
    return decode_images([encoded(*contents)], len(contents), **options)


def saved(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_grey_images_have_one_channel_and_their_pixels():
    images = grey(3)
    pixels = decoded(*map(png, images))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, images[:, None])


def test_colour_images_have_three_channels_before_height_and_width():
    images = colour(3)
    assert np.array_equal(decoded(*map(png, images)), np.moveaxis(images, 3, 1))


@pytest.mark.parametrize("grey_first", [True, False])
def test_one_colour_image_makes_all_coloured(grey_first):
    own, other = grey(1)[0], colour(1)[0]
    order = slice(None) if grey_first else slice(None, None, -1)
    pixels = decoded(*[png(own), png(other)][order])[order]
    assert pixels.shape == (2, 3, 4, 5)
    assert all(np.array_equal(channel, own) for channel in pixels[0])
    assert np.array_equal(pixels[1], np.moveaxis(other, 2, 0))


def test_grey_and_colour_can_be_chosen():
    image = colour(1)[0]
    assert decoded(png(image), grey=True).shape == (1, 1, 4, 5)
    expected = image @ [0.299, 0.587, 0.114]
    assert np.abs(decoded(png(image), grey=True)[0, 0] - expected).max() <= 1
    assert decoded(png(grey(1)[0]), grey=False).shape == (1, 3, 4, 5)


def test_images_come_in_order_from_many_batches_and_threads(monkeypatch):
    images = grey(200)
    monkeypatch.setattr(decode, "MANY_PIXELS", 1)
    files = encoded(*map(png, images))
    assert np.array_equal(
        decode_images((files[start : start + 70] for start in range(0, 200, 70)), 200), images[:, None]
    )


def test_images_of_two_sizes_are_refused_naming_both_and_the_remedy():
    files = [png(grey(1, (4, 5))[0]), png(grey(1, (7, 6))[0])]
    with pytest.raises(ConfigurationError, match=r"row 1 is 5x4 pixels, row 2 6x7; say data\.image_size=32"):
        decoded(*files)
    assert decoded(*files, size=8).shape == (2, 1, 8, 8)


def test_other_ways_to_store_pixels_are_converted():
    image = Image.fromarray(colour(1)[0])
    transparent = image.copy()
    transparent.putalpha(7)
    assert np.array_equal(decoded(saved(transparent)), decoded(saved(image)))
    black_and_white = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decoded(saved(black_and_white)).tolist() == [[[[0, 255]]]]
    sixteen_bits = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    assert decoded(saved(sixteen_bits)).tolist() == [[[[0, 1, 255]]]]
    assert decoded(saved(image.convert("P"))).shape == (1, 3, 4, 5)
    with pytest.raises(ConfigurationError, match="row 1 has pixels of 32 bits"):
        decoded(saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_a_photograph_on_its_side_is_turned():
    image = Image.new("L", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decoded(saved(image, "JPEG", exif=exif)).shape == (1, 1, 4, 2)


@pytest.mark.parametrize(
    "damage", [lambda file: file[: len(file) // 2], lambda file: b"not an image", lambda file: b""]
)
def test_a_file_that_cannot_be_read_is_named(damage):
    good = png(grey(1, (40, 40))[0])
    with pytest.raises(ConfigurationError, match="row 2 is no image that can be read"):
        decoded(good, damage(good))


def test_a_flipped_byte_of_a_png_is_noticed():
    broken = bytearray(png(grey(1, (40, 40))[0]))
    broken[len(broken) // 2] ^= 255
    with pytest.raises(ConfigurationError, match="row 1 is no image"):
        decoded(bytes(broken))


def test_an_image_can_be_in_a_file(tmp_path):
    image = grey(1)[0]
    (tmp_path / "a.png").write_bytes(png(image))
    assert np.array_equal(decoded(tmp_path / "a.png")[0, 0], image)
    with pytest.raises(ConfigurationError, match=r"row 1 is no image that can be read \(FileNotFoundError\)"):
        decoded(tmp_path / "b.png")


def test_no_images_are_an_error():
    with pytest.raises(ConfigurationError, match="There are no images"):
        decode_images([], 0)
