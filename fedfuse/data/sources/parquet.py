"""Parquet files, with what the Hugging Face hub says of their columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedfuse.data.sources.columns import Column, Kind
from fedfuse.data.sources.table import Part
from fedfuse.errors import ConfigurationError

HUB_METADATA = b"huggingface"
ROWS_A_BATCH = 2000


def parquet_part(path: Path, is_test: bool) -> Part:
    """Open a parquet file; its columns are read one by one, a few thousand rows at a time.

    Raises
    ------
    ConfigurationError
        If it is no parquet file.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError):
        raise ConfigurationError(f"{path} is no parquet file that can be read; is it complete?") from None
    return Part(
        where=str(path),
        columns=describe_columns(file.schema_arrow),
        num_rows=file.metadata.num_rows,
        read=lambda names: _read(path, names),
        is_test=is_test,
    )


def describe_columns(schema: pa.Schema) -> tuple[Column, ...]:
    """Say what the columns of a table are, by what the hub wrote beside it and by their types."""
    try:
        features = json.loads((schema.metadata or {})[HUB_METADATA])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        features = None
    features = features if isinstance(features, Mapping) else {}
    return tuple(_describe(field, features.get(field.name)) for field in schema)


def _read(path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_A_BATCH, columns=list(names))
    except (pa.ArrowException, OSError):
        raise ConfigurationError(f"{path}: column {names[0]!r} cannot be read; the file is damaged.") from None


def _describe(field: pa.Field, feature: object) -> Column:
    says = feature if isinstance(feature, Mapping) else {}
    if says.get("_type") == "Image":
        return Column(field.name, Kind.IMAGE)
    names = says.get("names") if says.get("_type") == "ClassLabel" else None
    kind = _kind(field.type)
    return Column(field.name, kind, tuple(map(str, names)) if isinstance(names, list) else None)


def _kind(type_: Any) -> Kind:  # noqa: ANN401 Arrow has no type hints
    if isinstance(type_, pa.ExtensionType):
        return _kind(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return _kind(type_.value_type)
    if pa.types.is_struct(type_):
        names = {type_.field(index).name for index in range(type_.num_fields)}
        return Kind.IMAGE if {"bytes", "path"} <= names else Kind.OTHER
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return Kind.IMAGE
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return Kind.VECTOR if _kind(type_.value_type) in (Kind.NUMBER, Kind.VECTOR) else Kind.OTHER
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return Kind.TEXT
    is_number = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return Kind.NUMBER if any(check(type_) for check in is_number) else Kind.OTHER
