"""NumPy archives (.npz) with arrays such as ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test`` and ``y_test``."""

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.data.images import fit_images
from fedfuse.data.samples import LabelledData, Samples
from fedfuse.data.sources.categories import Categories, check_classes, number
from fedfuse.data.sources.columns import CLIENT_NAMES, DOMAIN_NAMES, LABEL_NAMES
from fedfuse.data.sources.notes import Reading
from fedfuse.data.sources.options import Options
from fedfuse.data.sources.standardise import standardise
from fedfuse.errors import ConfigurationError, unknown_name

INPUT_NAMES = ("x", "input", "inputs", "image", "images", "data", "features")
ALL_LABEL_NAMES = (*LABEL_NAMES, "targets", "classes")
TRAIN_OR_TEST = re.compile(r"(?:(?P<before>train|test)_)?(?P<name>.+?)(?:_(?P<after>train|test))?", re.IGNORECASE)
CHANNELS = (1, 3)
BRIGHTEST = 255


@dataclass(frozen=True, eq=False)
class _Array:
    """An array of an archive.

    ``where`` is the archive and the array; ``name`` what it is called beside train and test; ``part`` is what it has
    in common with the other arrays of the same samples.
    """

    where: str
    name: str
    part: str
    is_test: bool
    values: NDArray[Any]


def read_archives(train: Sequence[Path], test: Sequence[Path], options: Options) -> Reading:
    """Make labelled data of the arrays of NumPy archives.

    Inputs of two dimensions are tables of features. Those of more dimensions are images where they are bytes, or
    integers from 0 to 255: grey ``[n, height, width]``, or with 1 or 3 channels before or after these two. Other
    inputs are taken as they are.

    Parameters
    ----------
    train, test : Sequence[Path]
        The archives of each part; one archive can have both.
    options : Options
        ``label``, ``inputs``, ``client`` and ``domain`` name arrays, without ``train`` and ``test``.

    Raises
    ------
    ConfigurationError
        If an archive cannot be read, lacks the arrays, or these do not fit each other.
    """
    arrays = [array for path in train for array in _read(path, False)]
    arrays += [array for path in test for array in _read(path, True)]
    where = str((*train, *test)[0])
    if len(options.inputs) > 1:
        raise ConfigurationError(f"data.inputs must name one array of {where}, not {len(options.inputs)}.")
    inputs = _role(arrays, "inputs", (options.inputs or (None,))[0], INPUT_NAMES, where)
    labels = _role(arrays, "label", options.label, ALL_LABEL_NAMES, where)
    clients = _role(arrays, "client", options.client, CLIENT_NAMES, where, is_needed=False)
    domains = _role(arrays, "domain", options.domain, DOMAIN_NAMES, where, is_needed=False)
    parts = sorted(inputs, key=lambda part: inputs[part].is_test)
    for role in (labels, clients, domains):
        for part in parts if role else ():
            if part not in role:
                other = next(iter(role.values())).where
                raise ConfigurationError(f"{inputs[part].where} has no array beside it as there is in {other}.")
            _check_lengths(inputs[part], role[part])

    numbered = _categories([labels[part] for part in parts], "label")
    check_classes(numbered, where)
    official_test = np.repeat([inputs[part].is_test for part in parts], [len(inputs[part].values) for part in parts])
    data = LabelledData(
        samples=Samples(_inputs([inputs[part] for part in parts], options), torch.from_numpy(numbered.members)),
        class_names=numbered.names,
        natural_clients=_categories([clients[part] for part in parts], "client").groups if clients else None,
        domains=_categories([domains[part] for part in parts], "domain").groups if domains else None,
        official_test=official_test if official_test.any() and not official_test.all() else None,
    )
    return Reading(data, () if numbered.note is None else (numbered.note,))


def _read(path: Path, is_test: bool) -> list[_Array]:
    """Read all arrays; an archive of a test part has nothing else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            values = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "; it holds Python objects (pickles), which are not read" if "allow_pickle" in str(error) else ""
        raise ConfigurationError(f"{path} is no NumPy archive that can be read{pickled}.") from None
    arrays = []
    for key, array in values.items():
        match = TRAIN_OR_TEST.fullmatch(key)
        part = "" if match is None else (match["before"] or match["after"] or "").lower()
        name = key if match is None else match["name"]
        arrays.append(_Array(f"{path}, {key}", name, f"{path} {part}", is_test or part == "test", array))
    return arrays


def _role(
    arrays: Sequence[_Array], role: str, given: str | None, names: Sequence[str], where: str, is_needed: bool = True
) -> Mapping[str, _Array]:
    """Find the arrays of a role, by part."""
    if given is not None and given not in {array.name for array in arrays}:
        raise unknown_name(f"array of {where}, data.{role}", given, {array.name for array in arrays})
    for name in (given,) if given is not None else names:
        found = {array.part: array for array in arrays if array.name == name or array.name.lower() == name}
        if found:
            return found
    if is_needed:
        have = (
            ", ".join(f"{array.where.rpartition(', ')[2]} {list(array.values.shape)}" for array in arrays) or "nothing"
        )
        raise ConfigurationError(f"Which array of {where} has the {role}? Say data.{role}=NAME; it has {have}.")
    return {}


def _check_lengths(inputs: _Array, other: _Array) -> None:
    values = other.values
    if values.ndim == 2 and values.shape[1] == 1:  # as CIFAR's labels are in Keras
        values = values[:, 0]
    if inputs.values.ndim < 2 or values.shape != inputs.values.shape[:1]:
        raise ConfigurationError(
            f"{inputs.where} is of shape {list(inputs.values.shape)} and {other.where} of {list(other.values.shape)}; "
            "there must be one entry for each sample."
        )


def _categories(arrays: Sequence[_Array], kind: str) -> Categories:
    values = np.concatenate([array.values.reshape(-1) for array in arrays])
    if values.dtype.kind not in "iufbU":
        raise ConfigurationError(f"{arrays[0].where} is {values.dtype}; names or whole numbers are needed.")
    place = _place(arrays)
    broken = np.flatnonzero(~np.isfinite(values) if values.dtype.kind == "f" else False)
    if len(broken):
        raise ConfigurationError(f"{place(int(broken[0]))} is {values[broken[0]]}.")
    return number(values.astype(np.int64) if values.dtype.kind == "b" else values, kind, place)


def _inputs(arrays: Sequence[_Array], options: Options) -> Tensor:
    first = arrays[0]
    for array in arrays:
        if array.values.dtype.kind not in "iufb":
            raise ConfigurationError(f"{array.where} is {array.values.dtype}; numbers are needed.")
        if array.values.shape[1:] != first.values.shape[1:]:
            raise ConfigurationError(
                f"The samples of {first.where} are of shape {list(first.values.shape[1:])}, "
                f"those of {array.where} of {list(array.values.shape[1:])}."
            )
    values = np.concatenate([array.values for array in arrays])
    if values.ndim > 2 and values.dtype.kind in "iu" and 0 <= values.min() <= values.max() <= BRIGHTEST:
        return _images(values.astype(np.uint8, copy=False), options, first.where)
    options.refuse(("image_size", "grey"), f"{first.where} has no images in bytes")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    broken = np.argwhere(~np.isfinite(single))
    if len(broken):
        row, value = int(broken[0][0]), values[tuple(broken[0])]
        raise ConfigurationError(f"{_place(arrays)(row)} has {value}, not a finite number in single precision.")
    return torch.from_numpy(standardise(values) if values.ndim == 2 and options.standardize else single)


def _images(values: NDArray[np.uint8], options: Options, where: str) -> Tensor:
    """Bring images into the order channels, height, width."""
    if values.ndim == 3:
        values = values[:, np.newaxis]
    elif values.ndim == 4 and values.shape[1] not in CHANNELS and values.shape[3] in CHANNELS:
        values = np.ascontiguousarray(np.moveaxis(values, 3, 1))
    if values.ndim != 4 or values.shape[1] not in CHANNELS:
        if options.image_size is None and options.grey is None:
            return torch.from_numpy(values.astype(np.float32))
        options.refuse(("image_size", "grey"), f"{where} is of shape {list(values.shape)}, which is no images")
    channels = values.shape[1] if options.grey is None else 1 if options.grey else 3
    size = values.shape[2:] if options.image_size is None else (options.image_size, options.image_size)
    return fit_images(torch.from_numpy(values), (channels, *size))


def _place(arrays: Sequence[_Array]) -> Callable[[int], str]:
    """Say where a sample stands when the arrays follow each other."""

    def place(position: int) -> str:
        for array in arrays:
            if position < len(array.values):
                return f"{array.where}, row {position + 1}"
            position -= len(array.values)
        raise IndexError(position)

    return place
