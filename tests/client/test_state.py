import io
import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from fedfuse.client.state import (
    ABSORBED,
    SHARED,
    ClientState,
    DirectoryStore,
    Generation,
    MemoryStore,
    parameters_are_finite,
)
from fedfuse.client.state_file import StateFile


@pytest.fixture(params=["memory", "directory", "file", "file that is written each time"])
def store(request, tmp_path):
    if not request.param.startswith("file"):
        yield MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "states")
        return
    file = StateFile(tmp_path / "states.sqlite")
    if request.param != "file":
        save = file.save

        def save_and_write(*arguments):
            save(*arguments)
            file.commit()
            file.commit()  # what was written before the last time is read from the file

        file.save = save_and_write
    yield file
    file.close()


def state_of(value):
    return ClientState(parameters={"weight": torch.tensor([float(value)], dtype=torch.float64)})


def value_of(state):
    return None if state is None else state.parameters["weight"].item()


def full_state():
    return ClientState(
        parameters={"weight": torch.randn(3, 2, dtype=torch.float64), "count": torch.tensor(4)},
        objective_state={"transfer.0.mean": torch.tensor(0.25)},
        received={"prototypes": {"prototypes": torch.randn(2, 3), "mask": torch.tensor([True, False])}},
        absorbed_round=3,
    )


def assert_equal(state, other):
    assert state.absorbed_round == other.absorbed_round
    groups = [{"": state.parameters}, {"": state.objective_state}, state.received]
    others = [{"": other.parameters}, {"": other.objective_state}, other.received]
    for group, other_group in zip(groups, others, strict=True):
        assert {name: set(tensors) for name, tensors in group.items()} == {
            name: set(tensors) for name, tensors in other_group.items()
        }
        for name, tensors in group.items():
            for key, tensor in tensors.items():
                assert tensor.dtype == other_group[name][key].dtype
                assert torch.equal(tensor, other_group[name][key])


# -- generations and states --------------------------------------------------------------------------------------------


def test_generations_are_ordered_by_round_and_within_it_by_phase():
    assert Generation(1, SHARED) < Generation(1, ABSORBED) < Generation(2, SHARED) < Generation(10, SHARED)


def test_a_state_becomes_plain_and_comes_back_the_same_without_pickled_code():
    state = full_state()
    file = io.BytesIO()
    torch.save(state.to_dict(), file)
    file.seek(0)
    assert_equal(ClientState.from_dict(torch.load(file, weights_only=True)), state)


def test_a_plain_state_says_everything():
    plain = full_state().to_dict()
    assert set(plain) == {"parameters", "objective_state", "received", "absorbed_round", "privacy"}
    assert plain["objective_state"] == {"transfer.0.mean": torch.tensor(0.25)}
    assert plain["absorbed_round"] == 3


def test_a_state_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        full_state().absorbed_round = 4


# -- stores ------------------------------------------------------------------------------------------------------------


def test_a_store_gives_back_exactly_what_it_keeps(store):
    state = full_state()
    store.save(2, Generation(1, SHARED), state)
    assert_equal(store.load(2, Generation(1, SHARED)), state)


def test_a_store_has_nothing_that_was_not_saved(store):
    assert store.load(2, Generation(1, SHARED)) is None
    assert store.load_before(2, Generation(1, SHARED)) is None
    store.save(2, Generation(1, SHARED), state_of(1))
    assert store.load(2, Generation(1, ABSORBED)) is None
    assert store.load(2, Generation(2, SHARED)) is None
    assert store.load(1, Generation(1, SHARED)) is None


def test_the_newest_generation_before_another_is_found_whatever_its_distance(store):
    store.save(0, Generation(2, SHARED), state_of(20))
    store.save(0, Generation(9, ABSORBED), state_of(91))
    assert store.load_before(0, Generation(2, SHARED)) is None
    assert value_of(store.load_before(0, Generation(2, ABSORBED))) == 20
    assert value_of(store.load_before(0, Generation(9, ABSORBED))) == 20
    assert value_of(store.load_before(0, Generation(10, SHARED))) == 91
    assert value_of(store.load_before(0, Generation(1000, SHARED))) == 91


def test_the_newest_generation_is_that_of_the_client_and_can_go_back(store):
    assert store.newest(0) is None
    for moment in (Generation(2, ABSORBED), Generation(10, SHARED), Generation(9, ABSORBED), Generation(9, SHARED)):
        store.save(0, moment, state_of(1))
        assert store.newest(0) == moment
    store.save(1, Generation(3, SHARED), state_of(1))
    assert (store.newest(0), store.newest(1), store.newest(2)) == (Generation(9, SHARED), Generation(3, SHARED), None)


def test_the_last_two_generations_are_kept(store):
    moments = [Generation(1, SHARED), Generation(1, ABSORBED), Generation(2, SHARED), Generation(10, SHARED)]
    for number, moment in enumerate(moments):
        store.save(0, moment, state_of(number))
        kept = [value_of(store.load(0, other)) for other in moments]
        assert kept == [value if number - 1 <= value <= number else None for value in range(len(moments))]


def test_saving_a_generation_again_replaces_it(store):
    store.save(0, Generation(1, SHARED), state_of(1))
    store.save(0, Generation(1, ABSORBED), state_of(2))
    store.save(0, Generation(1, ABSORBED), state_of(3))
    assert value_of(store.load(0, Generation(1, ABSORBED))) == 3
    assert value_of(store.load(0, Generation(1, SHARED))) == 1


def test_saving_an_older_generation_drops_the_newer_ones(store):
    store.save(0, Generation(2, ABSORBED), state_of(1))
    store.save(0, Generation(3, SHARED), state_of(2))
    store.save(0, Generation(2, ABSORBED), state_of(3))
    assert store.load(0, Generation(3, SHARED)) is None
    assert value_of(store.load_before(0, Generation(99, SHARED))) == 3
    store.save(0, Generation(1, SHARED), state_of(4))
    assert value_of(store.load_before(0, Generation(99, SHARED))) == 4
    assert store.load(0, Generation(2, ABSORBED)) is None


def test_clients_do_not_disturb_each_other(store):
    clients = (0, 1, 10, 100_001, 1_000_001)
    for client in clients:
        store.save(client, Generation(1, SHARED), state_of(client))
    for round in (2, 3, 4):
        store.save(1, Generation(round, SHARED), state_of(-round))
    for client in clients:
        expected = [None, -3, -4] if client == 1 else [client, None, None]
        assert [value_of(store.load(client, Generation(round, SHARED))) for round in (1, 3, 4)] == expected


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_directory_outlives_the_store_that_filled_it(tmp_path):
    DirectoryStore(tmp_path / "a" / "b").save(4, Generation(1, SHARED), state_of(6))
    state = DirectoryStore(tmp_path / "a" / "b").load_before(4, Generation(2, SHARED))
    assert value_of(state) == 6


def test_only_the_owner_may_read_the_directory_even_one_that_was_open_before(tmp_path):
    open_directory = tmp_path / "open"
    open_directory.mkdir(mode=0o755)
    open_directory.chmod(0o755)
    DirectoryStore(open_directory)
    DirectoryStore(tmp_path / "new")
    assert open_directory.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_no_more_files_remain_than_generations_are_kept(tmp_path):
    store = DirectoryStore(tmp_path)
    for round in range(1, 5):
        store.save(0, Generation(round, SHARED), state_of(round))
        store.save(0, Generation(round, ABSORBED), state_of(-round))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "client-000000.000004.absorbed.pt",
        "client-000000.000004.shared.pt",
    ]


@pytest.mark.parametrize("again", [False, True])
def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch, again):
    store = DirectoryStore(tmp_path)
    store.save(0, Generation(1, SHARED), state_of(1))

    def fail_half_way(state, path):
        path.write_bytes(b"half a fi")
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", fail_half_way)
        with pytest.raises(OSError, match="disk full"):
            store.save(0, Generation(1, SHARED if again else ABSORBED), state_of(2))
    assert value_of(store.load(0, Generation(1, SHARED))) == 1
    assert store.load(0, Generation(1, ABSORBED)) is None
    assert value_of(store.load_before(0, Generation(2, SHARED))) == 1
    store.save(0, Generation(1, ABSORBED), state_of(3))
    assert value_of(DirectoryStore(tmp_path).load_before(0, Generation(2, SHARED))) == 3


# -- finite parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found(value):
    parameters = {"weight": torch.ones(2, 2), "bias": torch.zeros(3)}
    assert parameters_are_finite(parameters)
    parameters["bias"][2] = value
    assert not parameters_are_finite(parameters)


def test_whole_numbers_are_always_finite():
    assert parameters_are_finite({"count": torch.tensor(7), "flag": torch.tensor(True)})
