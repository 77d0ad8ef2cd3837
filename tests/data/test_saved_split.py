import json

import numpy as np
import pytest

from fedfuse.data.samples import Population
from fedfuse.data.saved_split import SavedSplit, from_file, read_split, write_split
from fedfuse.errors import ConfigurationError


def population(positions):
    positions = np.array(positions)
    return Population(np.zeros(len(positions), dtype=np.int64), 2, positions)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.json"


def rows(*numbers):
    return np.array(numbers, dtype=np.int64)


def test_what_is_written_is_read_again(path):
    write_split(path, SavedSplit((rows(4, 0), rows(), rows(3)), global_test=rows(1), transfer=rows(5, 2)))
    again = read_split(path, num_samples=6)
    assert [own.tolist() for own in again.clients] == [[4, 0], [], [3]]
    assert (again.global_test.tolist(), again.transfer.tolist()) == ([1], [5, 2])
    assert all(own.dtype == np.int64 for own in again.clients)
    assert list(path.parent.iterdir()) == [path]


def test_parts_that_are_not_there_are_not_written(path):
    write_split(path, SavedSplit((rows(1),)))
    assert json.loads(path.read_text()) == {"clients": [[1]]}
    again = read_split(path)
    assert (again.global_test, again.transfer) == (None, None)


def test_unassigned_rows_are_those_of_nobody():
    split = SavedSplit((rows(4, 0), rows(3)), transfer=rows(5))
    assert split.unassigned(np.arange(8)).tolist() == [1, 2, 6, 7]
    assert sorted(split.assigned.tolist()) == [0, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON: Expecting property name"),
        ("[[0]]", "is no split: it must be JSON of row numbers"),
        ('{"transfer": [1]}', "is no split"),
        ('{"clients": []}', "is no split"),
        ('{"clients": {"0": [1]}}', "is no split"),
        ('{"clients": [0, 1]}', "client 0 must be a list of row numbers, not 0"),
        ('{"clients": [[0]], "transfer": null}', "transfer must be a list of row numbers, not null"),
        ('{"clients": [[0], [1.5]]}', "client 1 has the row 1.5, which is no row number"),
        ('{"clients": [["0"]]}', 'client 0 has the row "0", which'),
        ('{"clients": [[true]]}', "client 0 has the row true, which"),
        ('{"clients": [[null]]}', "client 0 has the row null, which"),
        ('{"clients": [[[0, 1]]]}', r"client 0 has the row \[0, 1\], which"),
        ('{"clients": [[99999999999999999999]]}', "client 0 has the row 99999999999999999999, which"),
        ('{"clients": [[0, 1], [1]]}', "has row 1 twice"),
        ('{"clients": [[0]], "global_test": [0]}', "has row 0 twice"),
        ('{"clients": [[0, 10]]}', "has row 10; the data has 10 rows, from 0 on"),
        ('{"clients": [[-1]]}', "has row -1; the data has 10 rows, from 0 on"),
        ('{"clients": [[0]], "tranfer": [1]}', "Unknown part of the split .* 'tranfer'. Did you mean 'transfer'"),
    ],
)
def test_a_file_that_is_no_split_is_refused_in_one_line(path, text, message):
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_split(path, num_samples=10)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_and_a_file_that_is_not_there_are_refused(path):
    with pytest.raises(ConfigurationError, match="There is no file"):
        read_split(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is no JSON"):
        read_split(path)


def test_clients_get_the_rows_of_the_file_in_its_order_wherever_they_stand(path):
    write_split(path, SavedSplit((rows(70, 10), rows(40))))
    shares = from_file(population([40, 70, 20, 10]), 2, seed=0, path=str(path))
    assert [share.tolist() for share in shares] == [[1, 3], [0]]


def test_another_number_of_clients_is_told_the_right_one(path):
    write_split(path, SavedSplit((rows(0), rows(1))))
    with pytest.raises(ConfigurationError, match="has 2 clients; say num_clients=2"):
        from_file(population([0, 1]), 3, 0, str(path))


def test_a_client_with_too_few_rows_is_named(path):
    write_split(path, SavedSplit((rows(0, 1), rows(2))))
    with pytest.raises(ConfigurationError, match=r"gives client 1 1 samples; partition.min_samples=2"):
        from_file(population([0, 1, 2]), 2, 0, str(path), min_samples=2)


def test_a_row_that_is_used_elsewhere_is_not_lost_in_silence(path):
    write_split(path, SavedSplit((rows(0), rows(1, 2, 9))))
    with pytest.raises(ConfigurationError, match="gives client 1 row 2, which is in the global test or transfer set"):
        from_file(population([0, 1, 9]), 2, 0, str(path))
