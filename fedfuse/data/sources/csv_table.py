"""CSV files, with a header."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv

from fedfuse.data.sources.arrow_values import is_number
from fedfuse.data.sources.columns import Column, Kind
from fedfuse.data.sources.table import Part
from fedfuse.errors import ConfigurationError

DELIMITERS = (",", ";", "\t")
# A few cells tell what a column is; each cell of a column of numbers is checked when it is read.
CELLS_LOOKED_AT = 1000
BYTES_A_BLOCK = 2**24  # a line must fit into one: tables of genes have 50,000 columns


def csv_part(path: Path, is_test: bool) -> Part:
    """Read a CSV file, whose first line names its columns; between them a comma, a semicolon or a tab.

    A column is one of numbers if most of its cells are numbers; what is no number in it is then an error.

    Raises
    ------
    ConfigurationError
        If the file is not such a table.
    """
    line = _first_line(path)
    delimiter = max(DELIMITERS, key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
    if all(map(is_number, names)):
        raise ConfigurationError(f"{path} has no header: its first line is all numbers. It must name the columns.")
    table = _read_cells(path, names, delimiter)
    return Part(
        where=str(path),
        columns=tuple(Column(name, _kind(table.column(index))) for index, name in enumerate(names)),
        num_rows=table.num_rows,
        read=lambda wanted: _read(table, wanted),
        is_test=is_test,
    )


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            line = file.readline()
    except (OSError, UnicodeDecodeError):
        raise _unreadable(path) from None
    if not line.strip():
        raise ConfigurationError(f"{path} has no header: its first line is empty. It must name the columns.")
    if not line.endswith("\n"):
        raise ConfigurationError(f"{path} has no rows below its header.")
    return line.rstrip("\n")


def _read_cells(path: Path, names: Sequence[str], delimiter: str) -> pa.Table:
    """Read all cells as text; what they are is decided later, where the place of each is known."""
    broken: list[arrow_csv.InvalidRow] = []

    def stop_at(row: arrow_csv.InvalidRow) -> str:
        broken.append(row)
        return "error"

    try:
        return arrow_csv.read_csv(
            path,
            # One thread, because rows have numbers only then.
            arrow_csv.ReadOptions(use_threads=False, block_size=BYTES_A_BLOCK, column_names=list(names), skip_rows=1),
            arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=stop_at),
            arrow_csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""]
            ),
        )
    except (pa.ArrowException, OSError):
        # What Arrow says quotes the whole row.
        if not broken:
            raise _unreadable(path) from None
        cells, wanted = broken[0].actual_columns, broken[0].expected_columns
        raise ConfigurationError(
            f"{path}, row {broken[0].number - 1}: it has {cells} cells, the header {wanted}."
        ) from None


def _unreadable(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path} is no CSV file that can be read; it must be text in UTF-8.")


def _kind(column: pa.ChunkedArray) -> Kind:
    cells = column.drop_null().slice(0, CELLS_LOOKED_AT)
    try:
        cells.cast(pa.float64())
    except pa.ArrowInvalid:
        num_numbers = sum(is_number(cell.strip()) for cell in cells.to_pylist())
        return Kind.NUMBER if 2 * num_numbers > len(cells) else Kind.TEXT
    return Kind.NUMBER


def _read(table: pa.Table, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    yield from table.select(list(names)).to_batches()
