"""The files of a deployment: the samples of one client, and what everybody holds. NumPy archives without pickles.

Inputs of bytes (uint8) are pixels, of which 255 is 1; others are taken as they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.data.federation import Shared, TransferSet, transfer_set
from fedfuse.data.samples import LabelledData, Samples
from fedfuse.errors import ConfigurationError

CLIENT_ARRAYS = ("inputs", "labels")
SHARED_ARRAYS = ("transfer", "class_names")
TEST_ARRAYS = ("test_inputs", "test_labels")
DOMAINS = "transfer_domains"


def write_client(path: Path, samples: Samples, order: NDArray[np.int64] | None = None) -> None:
    """Write the samples of one client: ``inputs``, ``labels``, and their ``order`` in time, where they have one."""
    arrays = {"inputs": samples.inputs.numpy(), "labels": samples.labels.numpy()}
    _write(path, arrays if order is None else arrays | {"order": order})


def read_client(path: Path, shared: Shared) -> LabelledData:
    """Read what `write_client` wrote, or any archive that is like it.

    Raises
    ------
    ConfigurationError
        If the file is not there or not such an archive, or does not fit what everybody holds: a label without a
        class, a NaN, samples of another shape.
    """
    arrays = _read(path, CLIENT_ARRAYS)
    samples = _samples(path, arrays, CLIENT_ARRAYS, shared.num_classes)
    shape, own = tuple(shared.transfer.inputs.shape[1:]), tuple(samples.inputs.shape[1:])
    if own != shape:
        raise ConfigurationError(f"{path}: its samples are of shape {own}, those of the transfer set of {shape}.")
    order = arrays.get("order")
    if order is not None and (order.shape != (len(samples),) or order.dtype.kind not in "iu"):
        raise ConfigurationError(
            f"{path}: order must be a whole number for each of the {len(samples)} samples, not {order.dtype} "
            f"{order.shape}."
        )
    return LabelledData(samples, shared.class_names, order=None if order is None else order.astype(np.int64))


def write_shared(path: Path, shared: Shared) -> None:
    """Write what everybody holds: ``transfer``, ``class_names``, and domains and a test set where there are any."""
    arrays = {"transfer": shared.transfer.inputs.numpy(), "class_names": np.array(shared.class_names, dtype=np.str_)}
    if shared.transfer.domains is not None:
        arrays[DOMAINS] = shared.transfer.domains.numpy()
    if shared.global_test is not None:
        arrays |= {"test_inputs": shared.global_test.inputs.numpy(), "test_labels": shared.global_test.labels.numpy()}
    _write(path, arrays)


def read_shared(path: Path) -> Shared:
    """Read what `write_shared` wrote, or any archive that is like it.

    Raises
    ------
    ConfigurationError
        If the file is not there, not such an archive, or does not agree with itself.
    """
    arrays = _read(path, SHARED_ARRAYS)
    inputs, names = arrays["transfer"], arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < 2 or len(set(names.tolist())) != len(names):
        raise ConfigurationError(f"{path}: class_names must be a list of at least two different texts.")
    transfer = _transfer(path, torch.from_numpy(_numbers(path, "transfer", inputs)), arrays.get(DOMAINS))
    if len(transfer) == 0:
        raise ConfigurationError(f"{path}: transfer has no samples.")
    test = None
    if "test_inputs" in arrays or "test_labels" in arrays:
        if not arrays.keys() >= set(TEST_ARRAYS):
            raise ConfigurationError(f"{path}: test_inputs and test_labels need each other.")
        test = _samples(path, arrays, TEST_ARRAYS, len(names))
        if test.inputs.shape[1:] != transfer.inputs.shape[1:]:
            raise ConfigurationError(f"{path}: transfer and test_inputs differ in the shape of a sample.")
    return Shared(transfer, test, tuple(names.tolist()))


def _transfer(path: Path, inputs: Tensor, domains: NDArray[Any] | None) -> TransferSet:
    """Make the transfer set of its two arrays, of which the second may be missing."""
    if domains is None:
        return transfer_set(inputs)
    if domains.shape != (len(inputs),) or domains.dtype.kind not in "iu":
        raise ConfigurationError(
            f"{path}: {DOMAINS} must be a whole number for each of the {len(inputs)} transfer samples, not "
            f"{domains.dtype} {domains.shape}."
        )
    try:
        return transfer_set(inputs, torch.from_numpy(domains.astype(np.int64)))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def _read(path: Path, required: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}.")
    try:
        # Opened here, because np.load leaves a torn archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except Exception as error:  # a file that is no archive, or a torn one, fails in many ways
        raise ConfigurationError(f"{path} is no NumPy archive (.npz) of plain arrays.") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise ConfigurationError(
            f"{path} has no array {missing[0]!r}; it has {', '.join(sorted(arrays)) or 'none'}, and needs "
            f"{' and '.join(required)}."
        )
    return arrays


def _samples(path: Path, arrays: Mapping[str, NDArray[Any]], pair: tuple[str, str], num_classes: int) -> Samples:
    """Take a pair of arrays, inputs and their labels, as samples."""
    inputs, labels = _numbers(path, pair[0], arrays[pair[0]]), arrays[pair[1]]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ConfigurationError(
            f"{path}: {pair[1]} must be a list of whole numbers, not {labels.dtype} {labels.shape}."
        )
    if len(inputs) != len(labels):
        raise ConfigurationError(f"{path}: {len(inputs)} {pair[0]} and {len(labels)} {pair[1]}.")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ConfigurationError(
            f"{path}: {pair[1]} go from {labels.min()} to {labels.max()}; {num_classes} classes allow 0 to "
            f"{num_classes - 1}."
        )
    return Samples(torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64)))


def _numbers(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Take an array as pixels if it is of bytes, else as floating point, in the precision in which sources give it."""
    if array.dtype.kind not in "fiu" or array.ndim < 2:
        raise ConfigurationError(f"{path}: {name} must be numbers [n, *shape], not {array.dtype} {array.shape}.")
    if array.dtype == np.uint8:
        return array
    with np.errstate(over="ignore"):  # what is too large becomes an infinity, which is refused
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ConfigurationError(f"{path}: {name} holds a NaN or an infinity.")
    return numbers
