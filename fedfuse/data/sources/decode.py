"""From image files, in whatever format, to one array of bytes."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedfuse.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.progress import Progress

Pixels = NDArray[np.uint8]
COLOURS = 3
IMAGES_A_TASK = 32
# Threads share the interpreter's lock: they only gain where Pillow is busy without it for longer than that takes.
# Measured on two cores, 28x28 and 32x32 pixels take 1.4 times as long in two threads as in one.
MANY_PIXELS = 128 * 128


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image file.

    Attributes
    ----------
    content : bytes or Path
        What is in it, or where it is.
    place : callable
        Says where a row stands, for messages.
    row : int
        Its own row.
    """

    content: bytes | Path
    place: Callable[[int], str]
    row: int

    def __str__(self) -> str:
        return self.place(self.row)


def decode_images(
    batches: Iterable[Sequence[Encoded]], total: int, size: int | None = None, grey: bool | None = None
) -> Pixels:
    """Decode images into one array.

    Parameters
    ----------
    batches : Iterable[Sequence[Encoded]]
        The images; only one batch is kept in memory at a time.
    total : int
        How many images there are, at least one.
    size : int, optional
        Resize all to squares of so many pixels a side; by default they must be of one size.
    grey : bool, optional
        Make all grey, or all coloured; by default they are grey if all are stored so. Transparency is dropped, and
        of 16 bits the upper 8 are kept.

    Returns
    -------
    Pixels
        uint8 ``[total, channels, height, width]``.

    Raises
    ------
    ConfigurationError
        If an image cannot be read, or has another size than the first one.
    """
    decode = partial(_decode_all, size=size, grey=grey)
    pixels: Pixels | None = None
    first, done = None, 0
    with ThreadPoolExecutor(os.cpu_count()) as pool, _progress() as progress:
        bar = progress.add_task("reading images", total=total)
        for batch in batches:
            in_threads = pixels is not None and pixels[0, 0].size >= MANY_PIXELS
            tasks = [batch[start : start + IMAGES_A_TASK] for start in range(0, len(batch), IMAGES_A_TASK)]
            for task, images in zip(tasks, (pool.map if in_threads else map)(decode, tasks), strict=True):
                for encoded, image in zip(task, images, strict=True):
                    if pixels is None or first is None:
                        first, pixels = encoded, np.empty((total, *image.shape), np.uint8)
                    if image.shape[1:] != pixels.shape[2:]:
                        raise _sizes_differ(first, pixels.shape, encoded, image.shape)
                    if len(image) > pixels.shape[1]:
                        pixels = np.repeat(pixels, COLOURS, axis=1)
                    pixels[done] = image
                    done += 1
                progress.update(bar, completed=done)
    if pixels is None:
        raise ConfigurationError("There are no images.")
    return pixels


def _decode_all(batch: Sequence[Encoded], size: int | None, grey: bool | None) -> list[Pixels]:
    return [_decode(encoded, size, grey) for encoded in batch]


def _decode(encoded: Encoded, size: int | None, grey: bool | None) -> Pixels:
    """Decode one image to ``[channels, height, width]``."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    content = encoded.content
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
            # Photographs may be stored lying on their side.
            image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
            image.load()
            image = _eight_bits(image, grey, encoded)
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigurationError(f"{encoded} is no image that can be read ({type(error).__name__}).") from None
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _eight_bits(image: "Image", grey: bool | None, encoded: Encoded) -> "Image":
    """Convert to grey or colour of 8 bits."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ConfigurationError(f"{encoded} has pixels of 32 bits; 8 or 16 are needed.")
    is_grey = image.mode in ("1", "L", "LA", "La") if grey is None else grey
    return image.convert("L" if is_grey else "RGB")


def _sizes_differ(
    first: Encoded, shape: Sequence[int], other: Encoded, other_shape: Sequence[int]
) -> ConfigurationError:
    height, width = shape[-2:]
    other_height, other_width = other_shape[-2:]
    return ConfigurationError(
        f"{first} is {width}x{height} pixels, {other} {other_width}x{other_height}; "
        "say data.image_size=32 (or another number) to make all squares of one size."
    )


def _progress() -> "Progress":
    """Show how far it is on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
