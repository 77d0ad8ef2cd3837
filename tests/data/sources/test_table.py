import numpy as np
import pyarrow as pa
import pytest
import torch
from image_files import colour, grey, hub_table

from fedfuse.data.sources.options import Options
from fedfuse.data.sources.parquet import describe_columns
from fedfuse.data.sources.table import Part, read_table
from fedfuse.errors import ConfigurationError

NAMES = ("cat", "cow", "dog")


def part(table, where="FILE", is_test=False):
    def read(names):
        yield from table.select(names).to_batches(max_chunksize=2)

    return Part(where, describe_columns(table.schema), table.num_rows, read, is_test)


def read(*tables, **options):
    names = ["TRAIN", "TEST"]
    parts = [part(table, names[index], index == 1) for index, table in enumerate(tables)]
    return read_table(parts, Options(**options))


def test_images_with_named_classes_are_bytes_and_keep_all_names():
    first, second = colour(3), colour(2, seed=1)
    data = read(hub_table(first, [0, 2, 0], NAMES), hub_table(second, [2, 0], NAMES)).data
    assert data.samples.inputs.dtype == torch.uint8
    assert np.array_equal(data.samples.inputs.numpy(), np.moveaxis(np.concatenate([first, second]), 3, 1))
    assert data.samples.labels.tolist() == [0, 2, 0, 2, 0]
    assert data.class_names == NAMES
    assert data.official_test.tolist() == [False, False, False, True, True]
    assert (data.natural_clients, data.domains) == (None, None)


def test_a_single_table_has_no_official_test():
    assert read(hub_table(grey(2), [0, 1])).data.official_test is None


def test_clients_and_domains_become_groups():
    table = pa.table({"v": [[1.0], [2.0], [3.0]], "label": [0, 1, 0], "user": [12, 3, 12], "domain": ["b", "a", "b"]})
    data = read(table).data
    assert (data.natural_clients.names, data.natural_clients.members.tolist()) == (("3", "12"), [1, 0, 1])
    assert (data.domains.names, data.domains.members.tolist()) == (("a", "b"), [1, 0, 1])


def test_features_are_standardised_over_all_parts_unless_told_not_to():
    tables = [
        pa.table({"a": [1.0, 3.0], "b": [5, 5], "label": ["x", "y"]}),
        pa.table({"b": [5], "a": [2.0], "label": ["x"]}),
    ]
    scale = 1.5**0.5
    assert read(*tables).data.samples.inputs.numpy() == pytest.approx(np.array([[-scale, 0], [scale, 0], [0, 0]]))
    raw = read(*tables, standardize=False).data.samples.inputs
    assert (raw.dtype, raw.tolist()) == (torch.float32, [[1, 5], [3, 5], [2, 5]])
    lists = [pa.table({"v": [[1.0, 5.0], [3.0, 5.0]], "label": [0, 1]}), pa.table({"v": [[2.0, 5.0]], "label": [0]})]
    assert torch.equal(read(*lists).data.samples.inputs, read(*tables).data.samples.inputs)


def test_lists_of_lists_are_taken_as_they_are():
    rows = np.arange(12.0).reshape(2, 2, 3)
    assert np.array_equal(read(pa.table({"v": rows.tolist(), "label": [0, 1]})).data.samples.inputs, rows)


def test_notes_say_what_was_decided():
    assert read(pa.table({"a": [1, 2], "b": [1, 2], "label": [3, 5]})).notes == (
        "TRAIN: the label is 'label', the inputs are 'a', 'b'.",
        "The labels 3, 5 are numbered 0 to 1 in this order; their names stay.",
    )


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([{"a": [1, 2, 3], "label": [0, 1, None]}], "TRAIN, row 3, column 'label' is empty"),
        ([{"a": [1, 2, 3], "label": [0, 1, 0.5]}], "TRAIN, row 3, column 'label': the label 0.5 is neither"),
        ([{"a": [1.0, 2.0, np.nan], "label": [0, 1, 0]}], "TRAIN, row 3, column 'a' is nan"),
        (
            [{"a": [1], "label": ["x"]}, {"a": [1, 2, 3], "label": ["y", "x", None]}],
            "TEST, row 3, column 'label' is empty",
        ),
        ([{"a": [1, 2], "label": [0, 1]}, {"a": [1], "label": ["x"]}], "TEST, row 1, column 'label' is text, unlike"),
        ([{"a": [1], "label": [0]}, {"b": [1], "label": [1]}], "Unknown column of TEST 'a'"),
        ([{"a": [1, 2], "label": [1, 1]}], "TRAIN: all samples have the label '1'; at least two classes"),
        ([{"a": [], "label": []}], "TRAIN has no rows"),
        ([{"v": [[1.0, 2.0], [1.0]], "label": [0, 1]}], "TRAIN, row 2, column 'v' holds 1 numbers, the first row 2"),
        (
            [{"v": [[1.0], [1.0], [1.0, 2.0]], "label": [0, 1, 0]}],
            r"TRAIN, row 3, column 'v' holds lists of the shape \[2\], the rows before it \[1\]",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(tables, message):
    with pytest.raises(ConfigurationError, match=message):
        read(*map(pa.table, tables))


def test_an_unreadable_image_is_named_with_its_row():
    images = [*grey(3), b"broken"]
    with pytest.raises(ConfigurationError, match="TRAIN, row 4, column 'image' is no image that can be read"):
        read(hub_table(images, [0, 1, 0, 1]))


def test_a_label_without_a_name_is_named_with_its_row():
    with pytest.raises(ConfigurationError, match="TEST, row 2, column 'label': the label is -1; its 3 names"):
        read(hub_table(grey(2), [0, 1], NAMES), hub_table(grey(2), [0, -1], NAMES))


def test_parts_must_name_the_classes_alike():
    with pytest.raises(ConfigurationError, match="TRAIN and another part of the data name the labels differently"):
        read(hub_table(grey(2), [0, 1], NAMES), hub_table(grey(2), [0, 1], NAMES[::-1]))


def test_options_for_images_are_refused_without_images():
    with pytest.raises(ConfigurationError, match=r"data\.image_size is set, but TRAIN has no images"):
        read(pa.table({"a": [1, 2], "label": [0, 1]}), image_size=8)


def test_images_can_be_resized():
    assert read(hub_table(grey(2), [0, 1]), image_size=8, grey=False).data.samples.inputs.shape == (2, 3, 8, 8)


def test_labels_are_checked_before_images_are_decoded():
    with pytest.raises(ConfigurationError, match="row 2, column 'label' is empty"):
        read(hub_table([b"broken", b"broken"], [0, None]))


def test_an_empty_part_is_passed_over():
    table = pa.table({"a": [1, 2], "label": [0, 1]})
    assert len(read(table.slice(0, 0), table).data.samples) == 2
