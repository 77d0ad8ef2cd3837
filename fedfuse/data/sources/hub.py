"""Data sets of the Hugging Face hub, by name."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow as pa

from fedfuse.data.samples import LabelledData
from fedfuse.data.sources.cache import cached
from fedfuse.data.sources.layout import share_parts
from fedfuse.data.sources.local import read_path
from fedfuse.data.sources.location import find
from fedfuse.data.sources.notes import said
from fedfuse.data.sources.options import Options, names_of
from fedfuse.data.sources.parquet import ROWS_A_BATCH, describe_columns
from fedfuse.data.sources.table import Part, read_table
from fedfuse.errors import ConfigurationError

HUB = "https://huggingface.co"
SECONDS_TO_ANSWER = 5


def hub(
    name: str,
    path: str | None = None,
    subset: str | None = None,
    label: str | None = None,
    inputs: str | Sequence[str] | None = None,
    client: str | None = None,
    domain: str | None = None,
    image_size: int | None = None,
    grey: bool | None = None,
    standardize: bool = True,
) -> LabelledData:
    """Read a data set of the Hugging Face hub: from ``path``, else from ``$FEDFUSE_DATA``, else from the hub itself.

    Parameters
    ----------
    name : str
        As on the hub, for example ``ylecun/mnist``; in ``$FEDFUSE_DATA`` its folder has the name after the slash.
    path : str, optional
        A folder with its parquet files, instead of the hub.
    subset : str, optional
        Which of its subsets (configurations), where the data set has several.
    label, inputs, client, domain, image_size, grey, standardize
        As of `fedfuse.data.sources.local.local`.

    Raises
    ------
    ConfigurationError
        If the data set cannot be had, or for the reasons of `fedfuse.data.sources.local.local`.
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
    found = find(name.rpartition("/")[2], path)
    if found is not None:
        return said(read_path(found, options))
    splits = _download(name, subset)
    parts = [_part(f"{name} ({split})", splits[split], is_test) for split, is_test in _shared(splits, name).items()]
    files = [Path(file["filename"]) for split in splits.values() for file in split.cache_files]
    return said(cached(files, asdict(options) | {"hub": name, "subset": subset}, partial(read_table, parts, options)))


def _download(name: str, subset: str | None) -> dict[str, Any]:
    """Let `datasets` fetch a data set, or take it from its own cache."""
    if not _is_reachable():
        # Else every question is asked again and again, for half a minute, before the cache is looked at.
        os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        return dict(datasets.load_dataset(name, subset))
    except Exception as error:  # a data set can fail to come in many ways, each with an exception of its own
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ConfigurationError(
            f"{name} cannot be fetched from the Hugging Face hub ({type(error).__name__}: {reason}). "
            "Without a network, download its parquet files elsewhere and say data.path=DIR."
        ) from error


def _is_reachable() -> bool:
    """Say whether the hub answers at all; `datasets` reads the same two variables."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    request = Request(os.environ.get("HF_ENDPOINT", HUB), method="HEAD")
    try:
        with urlopen(request, timeout=SECONDS_TO_ANSWER):
            return True
    except HTTPError:  # an answer too
        return True
    except (OSError, ValueError):
        return False


def _shared(splits: dict[str, Any], name: str) -> dict[str, bool]:
    shared = share_parts(list(splits))
    if shared:
        return shared
    if len(splits) == 1:
        return dict.fromkeys(splits, False)
    raise ConfigurationError(f"{name} has the parts {', '.join(splits)}, none of which is named train or test.")


def _part(where: str, split: Any, is_test: bool) -> Part:  # noqa: ANN401 a datasets.Dataset
    def read(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for table in split.select_columns(list(names)).with_format("arrow").iter(ROWS_A_BATCH):
            yield from table.combine_chunks().to_batches()

    return Part(where, describe_columns(split.features.arrow_schema), split.num_rows, read, is_test)
