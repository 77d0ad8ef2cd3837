"""Data of a user's own, from files in the usual layouts."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from fedfuse.data.samples import LabelledData
from fedfuse.data.sources.archive import read_archives
from fedfuse.data.sources.cache import cached
from fedfuse.data.sources.csv_table import csv_part
from fedfuse.data.sources.image_folder import list_images, read_images
from fedfuse.data.sources.layout import Format, find_layout
from fedfuse.data.sources.location import existing
from fedfuse.data.sources.notes import Reading, said
from fedfuse.data.sources.options import Options, names_of
from fedfuse.data.sources.parquet import parquet_part
from fedfuse.data.sources.table import read_table


def local(
    path: str,
    label: str | None = None,
    inputs: str | Sequence[str] | None = None,
    client: str | None = None,
    domain: str | None = None,
    image_size: int | None = None,
    grey: bool | None = None,
    standardize: bool = True,
) -> LabelledData:
    """Read parquet files, folders of images, CSV files or NumPy archives.

    What is not given is found from the content, and said where it is not certain. Images are kept as bytes. Tables of
    features are standardised by column, over all samples of all clients, which the clients of a real federation would
    have to agree on beforehand; labels play no part in it.

    Parameters
    ----------
    path : str
        A file, or a folder: with ``train.parquet`` and ``test.parquet``, or with the files of a data set of the Hugging
        Face hub; with a single file; with a folder of images for each class, with or without ``train`` and ``test``
        above; the same with ``.csv``, the first line of which names the columns, or with ``.npz``.
    label : str, optional
        The column of the label: names, or whole numbers.
    inputs : str or Sequence[str], optional
        The column of images or of lists of numbers, or the columns of numbers.
    client : str, optional
        The column that says whom a sample is from; by default one named user, client, client_id, subject or writer_id.
    domain : str, optional
        The column of the domain; by default one of this name.
    image_size : int, optional
        Resize all images to squares of so many pixels a side; else they must be of one size.
    grey : bool, optional
        Make all images grey, or all coloured; by default they are grey if all are stored so.
    standardize : bool
        Subtract the mean of each column of a table of features and divide by its standard deviation.

    Raises
    ------
    ConfigurationError
        Names the file, the row (from 1, without a header) and the column of what cannot be used.
    """
    options = Options(
        label=label,
        inputs=names_of(inputs),
        client=client,
        domain=domain,
        image_size=image_size,
        grey=grey,
        standardize=standardize,
    )
    return said(read_path(existing(path), options))


def read_path(path: Path, options: Options) -> Reading:
    """Read what is at a path, or what the cache has of it; for errors see `local`."""
    layout = find_layout(path)
    if layout.format is Format.IMAGES:
        images = list_images(layout.train, layout.test)
        read = partial(read_images, images, str(path), options)
        return cached(images.files, asdict(options) | {"classes": images.class_names}, read)
    readers = {Format.PARQUET: _read_parquet, Format.CSV: _read_csv, Format.ARCHIVE: read_archives}
    read = partial(readers[layout.format], layout.train, layout.test, options)
    return cached([*layout.train, *layout.test], asdict(options), read)


def _read_parquet(train: Sequence[Path], test: Sequence[Path], options: Options) -> Reading:
    return read_table(
        [*(parquet_part(one, False) for one in train), *(parquet_part(one, True) for one in test)], options
    )


def _read_csv(train: Sequence[Path], test: Sequence[Path], options: Options) -> Reading:
    return read_table([*(csv_part(one, False) for one in train), *(csv_part(one, True) for one in test)], options)
