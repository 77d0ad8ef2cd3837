import pytest

from fedfuse.data.sources import csv_table
from fedfuse.data.sources.columns import Column, Kind
from fedfuse.data.sources.csv_table import csv_part
from fedfuse.errors import ConfigurationError


def part(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return csv_part(path, is_test=False)


def cells(part, name):
    return [value for batch in part.read([name]) for value in batch.column(0).to_pylist()]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read_whatever_stands_between_its_cells(tmp_path, delimiter):
    text = "a, b ,kind\n1,2.5,x\n3,4,y\n\n"
    found = part(tmp_path, text.replace(",", delimiter))
    assert found.columns == (Column("a", Kind.NUMBER), Column("b", Kind.NUMBER), Column("kind", Kind.TEXT))
    assert found.num_rows == 2
    assert cells(found, "b") == ["2.5", "4"]
    assert cells(found, "kind") == ["x", "y"]


def test_quotes_byte_order_marks_and_windows_line_ends_are_understood(tmp_path):
    found = part(tmp_path, b'\xef\xbb\xbf"a,1",b\r\n"x,\ny",2\r\n')
    assert [column.name for column in found.columns] == ["a,1", "b"]
    assert cells(found, "a,1") == ["x,\ny"]


def test_a_cell_of_several_lines_can_stand_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_table, "BYTES_A_BLOCK", 64)
    found = part(tmp_path, "a,b\n" + '"x,\n\ny",2\n' * 50)
    assert cells(found, "a") == ["x,\n\ny"] * 50


def test_a_column_is_of_numbers_if_most_cells_are(tmp_path):
    found = part(tmp_path, "a,b,c\n1,1,\nx,y,\n3,z,\n")
    assert [column.kind for column in found.columns] == [Kind.NUMBER, Kind.TEXT, Kind.NUMBER]
    assert cells(found, "c") == [None] * 3


def test_two_columns_of_one_name_are_seen(tmp_path):
    assert [column.name for column in part(tmp_path, "a,a,b\n1,2,3\n").columns] == ["a", "a", "b"]


def test_a_row_of_other_length_is_named_and_not_quoted(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a\.csv, row 2: it has 3 cells, the header 2") as caught:
        part(tmp_path, "a,b\n1,2\n1,secret,3\n")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5,6\n", "has no header: its first line is all numbers"),
        ("\n1,2\n", "has no header: its first line is empty"),
        (b"a,b\n\xff\xfe,1\n", "is no CSV file that can be read; it must be text in UTF-8"),
        (b"\xff\xfea\x00,\x00", "is no CSV file that can be read; it must be text in UTF-8"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=rf"a\.csv {message}"):
        part(tmp_path, text)


def test_a_header_alone_has_no_rows(tmp_path):
    assert part(tmp_path, "a,b\n").num_rows == 0
    with pytest.raises(ConfigurationError, match=r"a\.csv has no rows below its header"):
        part(tmp_path, "a,b")
