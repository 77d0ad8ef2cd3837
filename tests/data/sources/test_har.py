from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from fedfuse.assembly import deal_data, load_federation
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.data.sources.har import ACTIVITIES, har, order_in_time
from fedfuse.errors import ConfigurationError

REAL = Path(__file__).parents[4] / "shared" / "data" / "har"
needs_the_real_set = pytest.mark.skipif(not REAL.is_dir(), reason="the data set is not here")
STEPS = 128


def recording(length, seed):
    """Windows that overlap by half, of one recording."""
    steps = np.random.default_rng(seed).normal(size=(9, 64 * (length + 1))).astype(np.float16)
    return np.stack([steps[:, 64 * k : 64 * k + STEPS] for k in range(length)])


def made():
    """Windows of three people, each with two recordings of each of two activities, in the order of time."""
    pieces = [
        (recording(length, seed), activity, person)
        for seed, (person, activity, length) in enumerate(
            (person, activity, length) for person in (0, 1, 4) for activity in (0, 5) for length in (12, 9)
        )
    ]
    windows = np.concatenate([piece for piece, _, _ in pieces])
    labels, people = (np.repeat([piece[k] for piece in pieces], [len(piece[0]) for piece in pieces]) for k in (1, 2))
    return windows, labels, people


def write(path, windows, labels, people):
    signal = pa.FixedSizeListArray.from_arrays(pa.array(windows.reshape(-1)), windows[0].size)
    parquet.write_table(pa.table({"signal": signal, "label": labels, "user": people}), path)


@pytest.fixture(scope="module")
def shuffled():
    """The made windows in random order, and the place of each in the order of time."""
    places = np.random.default_rng(0).permutation(len(made()[0]))
    return tuple(column[places] for column in made()), places


@pytest.fixture
def folder(tmp_path, shuffled):
    """A small data set: two thirds of the windows in one file, the rest in the other."""
    columns, _ = shuffled
    cut = 2 * len(columns[0]) // 3
    write(tmp_path / "train.parquet", *(column[:cut] for column in columns))
    write(tmp_path / "test.parquet", *(column[cut:] for column in columns))
    return tmp_path


def overlap(one, two):
    """Say whether a window of one set begins as one of the other ends."""
    (begin, end), (other_begin, other_end) = (
        [{half.numpy().tobytes() for half in halves} for halves in samples.inputs[:, :6].split(64, dim=2)]
        for samples in (one, two)
    )
    return bool(begin & other_end or end & other_begin)


def sets_of(federation):
    """All sets that must have nothing in common."""
    own = [part for client in federation.clients for part in (client.train, client.validation, client.test)]
    return [*own, federation.shared.global_test, federation.shared.transfer]


def test_shuffled_windows_of_recordings_are_put_back_in_order(shuffled):
    (windows, labels, people), places = shuffled
    order = order_in_time(windows, people)
    in_time = np.argsort(order)
    steps = np.diff(order[in_time])
    # Twelve recordings: within one each window is 1 after the one before, and a number is left out between two.
    lengths = np.diff(np.flatnonzero(np.concatenate([[True], steps != 1, [True]])))
    assert sorted(lengths) == [9] * 6 + [12] * 6
    assert set(steps) == {1, 2}
    neighbours = np.diff(places[in_time])[steps == 1]
    assert (neighbours == 1).all()
    assert (np.diff(people[in_time])[steps == 1] == 0).all()
    assert (np.diff(labels[in_time])[steps == 1] == 0).all()


def test_windows_of_different_people_never_follow_each_other():
    windows = recording(2, seed=0)
    assert abs(np.diff(order_in_time(windows, np.array([3, 3])))) == 1
    assert abs(np.diff(order_in_time(windows, np.array([3, 4])))) == 2


def test_the_total_acceleration_is_not_compared():
    windows = recording(2, seed=0)
    windows[1, 6:] += 1
    assert order_in_time(windows, np.zeros(2, dtype=np.int64)).tolist() == [0, 1]


@pytest.mark.parametrize("half", [slice(None, 64), slice(64, None)])
def test_windows_that_begin_or_end_alike_have_no_order(half):
    windows = np.concatenate([recording(1, seed=0), recording(1, seed=1)])
    windows[1, :, half] = windows[0, :, half]
    which = "begin" if half.start is None else "end"
    with pytest.raises(ConfigurationError, match=f"Windows 0 and 1 of one person {which} alike"):
        order_in_time(windows, np.zeros(2, dtype=np.int64))


def test_windows_in_a_circle_have_no_order():
    circle = recording(2, seed=0)
    circle[1, :, 64:] = circle[0, :, :64]
    windows = np.concatenate([recording(1, seed=1), circle])
    with pytest.raises(ConfigurationError, match="Window 1 has no place in time"):
        order_in_time(windows, np.zeros(3, dtype=np.int64))


def test_both_files_are_read_with_scaled_channels(folder, shuffled):
    (windows, labels, people), _ = shuffled
    data = har(str(folder))
    assert data.samples.inputs.dtype == torch.float32
    expected = windows.astype(np.float64)
    expected[:, 6] -= 0.8
    expected /= np.repeat([0.2, 0.4, 0.4], 3)[:, None]
    torch.testing.assert_close(data.samples.inputs.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    assert data.samples.labels.tolist() == labels.tolist()
    assert data.class_names == ACTIVITIES
    assert data.natural_clients.names[:2] == ("person 1", "person 2")
    assert data.natural_clients.members.tolist() == people.tolist()
    assert data.official_test.tolist() == (people == 1).tolist()
    assert data.order.tolist() == order_in_time(windows, people).tolist()


def test_the_folder_is_also_found_by_its_name(folder, monkeypatch):
    folder.rename(folder.parent / "har")
    monkeypatch.setenv("FEDFUSE_DATA", str(folder.parent))
    assert len(har().samples) == 126
    monkeypatch.delenv("FEDFUSE_DATA")
    with pytest.raises(ConfigurationError, match=r"data.path=DIR.*train.parquet and test.parquet"):
        har()


@pytest.mark.parametrize("partition", ["natural", "iid"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_set_of_a_client_overlaps_another_of_its_sets(folder, partition, seed):
    overrides = ["data=har", f"data.path='{folder}'", f"partition={partition}", "num_clients=3", "transfer.size=12"]
    federation = load_federation(compose([*overrides, "partition.min_samples=5", f"seed={seed}"]))
    common = [federation.shared.global_test, federation.shared.transfer]
    for client in federation.clients:
        own = [client.train, client.validation, client.test]
        assert not any(overlap(one, two) for one, two in combinations([*own, *common], 2))
    assert not overlap(*common)
    assert len(federation.shared.transfer) == 12


def test_overlap_is_noticed_where_there_is_some(folder):
    samples = har(str(folder)).samples
    assert overlap(samples.select(torch.arange(60)), samples.select(torch.arange(60, 126)))


def test_the_original_protocol_keeps_its_people_for_testing(folder):
    overrides = ["data=har", f"data.path='{folder}'", "num_clients=2", "transfer.size=12", "split.global_test=official"]
    dealt = deal_data(compose([*overrides, "partition.min_samples=5"]))
    data = har(str(folder))
    assert sorted(dealt.split.global_test) == np.flatnonzero(data.natural_clients.members == 1).tolist()
    assert [set(client.natural_clients.members) for client in dealt.clients] == [{0}, {4}]


def test_by_default_each_of_30_people_is_a_client():
    configuration = compose(["data=har"])
    assert (configuration.partition.name, configuration.num_clients) == ("natural", 30)
    assert [model.name for model in configuration.model] == ["cnn_1d", "mlp_large"]
    assert configuration.transfer.size == 300


def broken(folder, fault):
    """Spoil the second file, and say what the message must be."""
    windows, labels, people = recording(2, seed=99), np.array([0, 0]), np.array([0, 0])
    path = folder / "test.parquet"
    match fault:
        case "not there":
            path.unlink()
            return "There is no file .*test.parquet"
        case "torn":
            path.write_bytes(path.read_bytes()[:500])
            return "test.parquet is no parquet file, or a torn one"
        case "column":
            table = parquet.read_table(path)
            parquet.write_table(table.rename_columns(["signal", "label", "subject"]), path)
            return "test.parquet has no column 'user'; it needs signal, label, user"
        case "empty cell":
            table = parquet.read_table(path).slice(0, 2)
            parquet.write_table(table.set_column(1, "label", pa.array([0, None])), path)
            return "test.parquet, column label: row 1 is empty"
        case "length":
            write(path, windows[:, :, :100], labels, people)
            return "test.parquet, column signal: each row must be a list of 1152 numbers"
        case "nan":
            windows[1, 3, 7] = np.nan
            write(path, windows, labels, people)
            return "test.parquet, column signal: row 1 holds a NaN or an infinity"
        case "label":
            write(path, windows, np.array([0, 6]), people)
            return "test.parquet, column label: row 1 has 6; it must be from 0 to 5"
        case "text":
            write(path, windows, np.array(["walking", "sitting"]), people)
            return "test.parquet, column label: it must hold whole numbers"
        case "person":
            write(path, windows, labels, np.array([-1, 0]))
            return "test.parquet, column user: row 0 has -1; it must be from 0 to 29"


FAULTS = ("not there", "torn", "column", "empty cell", "length", "nan", "label", "text", "person")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_named_with_the_place_of_the_fault(folder, fault):
    message = broken(folder, fault)
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(compose(["data=har", f"data.path='{folder}'"]).data, "data")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@needs_the_real_set
def test_the_real_set_has_857_recordings_of_30_people():
    data = har(str(REAL))
    assert data.samples.inputs.shape == (10299, 9, 128)
    assert torch.bincount(data.samples.labels).tolist() == [1722, 1544, 1406, 1777, 1906, 1944]
    assert np.unique(data.natural_clients.members).tolist() == list(range(30))
    assert data.official_test.sum() == 2947
    in_time = np.argsort(data.order)
    steps = np.diff(data.order[in_time])
    assert (steps != 1).sum() + 1 == 857
    inputs, follows = data.samples.inputs[in_time], torch.from_numpy(steps == 1)
    assert torch.equal(inputs[:-1, :6, 64:][follows], inputs[1:, :6, :64][follows])
    for entries in (data.samples.labels.numpy(), data.natural_clients.members):
        assert (np.diff(entries[in_time])[steps == 1] == 0).all()


@needs_the_real_set
def test_no_two_sets_of_the_real_federation_overlap():
    federation = load_federation(compose(["data=har", f"data.path='{REAL}'"]))
    assert len(federation.clients) == 30
    assert len(federation.shared.transfer) == 300
    sets = sets_of(federation)
    endings = [{half.numpy().tobytes() for half in one.inputs[:, :6, 64:]} for one in sets]
    owner_of_ending = {half: number for number, halves in enumerate(endings) for half in halves}
    for number, one in enumerate(sets):
        before = {owner_of_ending.get(half.numpy().tobytes(), number) for half in one.inputs[:, :6, :64]}
        assert before == {number}
