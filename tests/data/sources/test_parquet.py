import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import grey, hub_table, write_hub

from fedfuse.data.sources import parquet
from fedfuse.data.sources.columns import Column, Kind
from fedfuse.data.sources.parquet import describe_columns, parquet_part
from fedfuse.errors import ConfigurationError


def test_columns_are_what_the_hub_says_they_are():
    columns = describe_columns(hub_table(grey(2), [0, 1], ("cat", "dog"), column="img").schema)
    assert columns == (Column("img", Kind.IMAGE), Column("label", Kind.NUMBER, ("cat", "dog")))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), Kind.IMAGE),
        (pa.struct([("x", pa.int8())]), Kind.OTHER),
        (pa.binary(), Kind.IMAGE),
        (pa.list_(pa.float16(), 3), Kind.VECTOR),
        (pa.list_(pa.list_(pa.int32())), Kind.VECTOR),
        (pa.list_(pa.string()), Kind.OTHER),
        (pa.large_string(), Kind.TEXT),
        (pa.dictionary(pa.int8(), pa.string()), Kind.TEXT),
        (pa.bool_(), Kind.NUMBER),
        (pa.decimal128(5, 2), Kind.NUMBER),
        (pa.timestamp("s"), Kind.OTHER),
    ],
)
def test_without_the_hub_types_say_what_a_column_is(kind, expected):
    assert describe_columns(pa.schema([("a", kind)])) == (Column("a", expected),)


@pytest.mark.parametrize("metadata", ["no json", json.dumps([1]), json.dumps({"info": {"features": None}})])
def test_metadata_that_say_nothing_are_passed_over(metadata):
    schema = pa.schema([("a", pa.int8())], metadata={"huggingface": metadata})
    assert describe_columns(schema) == (Column("a", Kind.NUMBER),)


def test_only_the_named_column_is_read_and_in_batches(monkeypatch, tmp_path):
    monkeypatch.setattr(parquet, "ROWS_A_BATCH", 3)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": np.arange(8), "b": np.arange(8)}), path, row_group_size=5)
    part = parquet_part(path, is_test=True)
    assert (part.where, part.num_rows, part.is_test) == (str(path), 8, True)
    batches = list(part.read(["b"]))
    assert all(batch.schema.names == ["b"] and len(batch) <= 3 for batch in batches)
    assert [value for batch in batches for value in batch.column(0).to_pylist()] == list(range(8))


def test_a_file_that_is_no_parquet_or_torn_is_named(tmp_path):
    whole = write_hub(tmp_path / "a.parquet", grey(5), [0, 1, 0, 1, 0]).read_bytes()
    for name, content in (("text.parquet", b"hello"), ("torn.parquet", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match=f"{name} is no parquet file that can be read"):
            parquet_part(tmp_path / name, is_test=False)


def test_damage_inside_a_file_is_named(tmp_path):
    path = Path(tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": np.random.default_rng(0).random(5000)}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    part = parquet_part(path, is_test=False)
    with pytest.raises(ConfigurationError, match=r"a\.parquet: column 'a' cannot be read; the file is damaged"):
        list(part.read(["a"]))
