"""Folders of images, one for each class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedfuse.data.samples import LabelledData, Samples
from fedfuse.data.sources.categories import Categories, check_classes
from fedfuse.data.sources.decode import Encoded, decode_images
from fedfuse.data.sources.notes import Reading
from fedfuse.data.sources.options import Options
from fedfuse.errors import ConfigurationError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
IMAGES_A_BATCH = 2000


@dataclass(frozen=True)
class ImageFiles:
    """The images below some folders.

    Attributes
    ----------
    class_names : tuple[str, ...]
        The names of the folders, sorted; one that is empty is a class too.
    files, labels, is_test : tuple
        Each image, its class, and whether the source keeps it for testing.
    """

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    is_test: tuple[bool, ...]


def list_images(train: Sequence[Path], test: Sequence[Path]) -> ImageFiles:
    """List the images in folders that have a folder for each class.

    Parameters
    ----------
    train, test : Sequence[Path]
        The folders that the folders of the classes are in.

    Raises
    ------
    ConfigurationError
        If there are images that are in no class.
    """
    folders = [(root, folder) for root in (*train, *test) for folder in _entries(root) if folder.is_dir()]
    class_names = tuple(sorted({folder.name for _, folder in folders}))
    number_of = {name: number for number, name in enumerate(class_names)}
    listed = [
        (file, number_of[folder.name], root in test) for root, folder in folders for file in sorted(_images(folder))
    ]
    for root in (*train, *test):
        loose = [path for path in _entries(root) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        if loose:
            raise ConfigurationError(
                f"{loose[0]} is in no class: an image belongs in a folder with the name of its class."
            )
    files, labels, is_test = zip(*listed, strict=True) if listed else ((), (), ())
    return ImageFiles(class_names, files, labels, is_test)


def read_images(images: ImageFiles, where: str, options: Options) -> Reading:
    """Make labelled data of images in folders.

    Raises
    ------
    ConfigurationError
        Names the file that cannot be read or has another size.
    """
    options.refuse(("label", "inputs", "client", "domain"), f"{where} has images in folders and no columns")
    labels = np.array(images.labels, dtype=np.int64)
    check_classes(Categories(images.class_names, labels), where)
    pixels = decode_images(_batches(images.files), len(images.files), options.image_size, options.grey)
    official_test = np.array(images.is_test, dtype=np.bool_)
    return Reading(
        LabelledData(
            Samples(torch.from_numpy(pixels), torch.from_numpy(labels)),
            images.class_names,
            official_test=official_test if official_test.any() and not official_test.all() else None,
        )
    )


def _batches(files: Sequence[Path]) -> Iterator[list[Encoded]]:
    for start in range(0, len(files), IMAGES_A_BATCH):
        rows = range(start, min(start + IMAGES_A_BATCH, len(files)))
        yield [Encoded(files[row], lambda row: str(files[row]), row) for row in rows]


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path
