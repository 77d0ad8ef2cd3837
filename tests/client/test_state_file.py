"""What all stores have in common is in test_state.py."""

import sqlite3
from contextlib import closing

import pytest
import torch

from fedfuse.client.state import ABSORBED, SHARED, ClientState, Generation
from fedfuse.client.state_file import StateFile

MOMENTS = [Generation(round, phase) for round in (1, 2, 3) for phase in (SHARED, ABSORBED)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "states.sqlite"


@pytest.fixture
def file(path):
    with closing(StateFile(path)) as file:
        yield file


def state_of(value):
    return ClientState(parameters={"weight": torch.tensor([float(value)], dtype=torch.float64)})


def value_of(state):
    return None if state is None else state.parameters["weight"].item()


def values_in(path, client_id):
    """The generations of a client that a file holds, by what another process reads."""
    with closing(StateFile(path)) as file:
        found = {moment: value_of(file.load(client_id, moment)) for moment in MOMENTS}
    return {moment: value for moment, value in found.items() if value is not None}


def test_what_was_saved_is_in_the_file_only_from_the_commit_on(file, path):
    file.save(0, MOMENTS[0], state_of(1))
    assert value_of(file.load(0, MOMENTS[0])) == 1
    assert values_in(path, 0) == {}
    file.commit()
    assert values_in(path, 0) == {MOMENTS[0]: 1}
    file.save(0, MOMENTS[1], state_of(2))
    file.save(1, MOMENTS[1], state_of(3))
    assert (values_in(path, 0), values_in(path, 1)) == ({MOMENTS[0]: 1}, {})
    file.commit()
    assert (values_in(path, 0), values_in(path, 1)) == ({MOMENTS[0]: 1, MOMENTS[1]: 2}, {MOMENTS[1]: 3})


def test_what_was_not_committed_is_gone_with_the_process(path):
    with closing(StateFile(path)) as file:
        file.save(0, MOMENTS[0], state_of(1))
        file.commit()
        file.save(0, MOMENTS[1], state_of(2))
    with closing(StateFile(path)) as file:
        assert file.newest(0) == MOMENTS[0]


def test_a_commit_that_fails_writes_nothing_of_it_and_can_be_repeated(file, path, monkeypatch):
    file.save(0, MOMENTS[0], state_of(1))
    file.save(1, MOMENTS[0], state_of(2))
    file.commit()
    file.save(0, MOMENTS[1], state_of(3))
    file.save(0, MOMENTS[2], state_of(4))
    file.save(1, MOMENTS[1], state_of(5))
    save, calls = torch.save, []

    def fail_at_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("disk full")
        save(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", fail_at_the_second)
        with pytest.raises(OSError, match="disk full"):
            file.commit()
    assert (values_in(path, 0), values_in(path, 1)) == ({MOMENTS[0]: 1}, {MOMENTS[0]: 2})
    file.commit()
    assert values_in(path, 0) == {MOMENTS[1]: 3, MOMENTS[2]: 4}
    assert values_in(path, 1) == {MOMENTS[0]: 2, MOMENTS[1]: 5}


def test_the_file_keeps_the_generations_that_the_store_keeps(file, path):
    for number, moment in enumerate(MOMENTS[:5]):
        file.save(0, moment, state_of(number))
        file.commit()
    assert values_in(path, 0) == {MOMENTS[3]: 3, MOMENTS[4]: 4}
    file.save(0, MOMENTS[1], state_of(7))  # going back drops all that came after
    file.commit()
    assert values_in(path, 0) == {MOMENTS[1]: 7}


def test_generations_that_were_dropped_before_the_commit_are_never_written(file, path):
    for number, moment in enumerate(MOMENTS):
        file.save(0, moment, state_of(number))
    file.commit()
    assert values_in(path, 0) == {MOMENTS[4]: 4, MOMENTS[5]: 5}


def test_a_commit_writes_the_clients_that_changed_and_no_other(file, path):
    for client_id in range(3):
        file.save(client_id, MOMENTS[0], state_of(client_id))
    file.commit()
    with closing(sqlite3.connect(path)) as other:
        before = other.execute("SELECT rowid, * FROM states WHERE client != 1").fetchall()
        changes = other.execute("PRAGMA data_version").fetchone()
        file.save(1, MOMENTS[1], state_of(5))
        file.commit()
        assert other.execute("SELECT rowid, * FROM states WHERE client != 1").fetchall() == before
        assert other.execute("PRAGMA data_version").fetchone() != changes
        changes = other.execute("PRAGMA data_version").fetchone()
        file.commit()
        assert other.execute("PRAGMA data_version").fetchone() == changes  # nothing was saved, nothing is written


def test_memory_holds_what_was_saved_since_the_last_commit_but_one(file, monkeypatch):
    read, reads = torch.load, []

    def counted(*arguments, **keywords):
        reads.append(1)
        return read(*arguments, **keywords)

    monkeypatch.setattr(torch, "load", counted)
    own = state_of(1)
    file.save(0, MOMENTS[0], own)
    assert file.load(0, MOMENTS[0]) is own
    file.commit()
    assert file.load(0, MOMENTS[0]) is own
    file.save(1, MOMENTS[1], state_of(2))
    assert file.load_before(0, MOMENTS[1]) is own
    file.commit()
    assert reads == []
    assert value_of(file.load(0, MOMENTS[0])) == 1
    assert file.load(0, MOMENTS[0]) is not own
    assert len(reads) == 2


def test_what_is_saved_again_after_a_commit_takes_its_place_at_once(file, path):
    file.save(0, MOMENTS[0], state_of(1))
    file.commit()
    file.save(0, MOMENTS[0], state_of(2))
    assert value_of(file.load(0, MOMENTS[0])) == 2
    assert values_in(path, 0) == {MOMENTS[0]: 1}
    file.commit()
    assert values_in(path, 0) == {MOMENTS[0]: 2}


def test_a_view_is_written_without_what_it_is_a_view_of(file, path):
    everybody = torch.arange(100_000.0).reshape(2, 50_000)
    state = ClientState(
        parameters={"weight": everybody[1, :2]},
        objective_state={"mean": everybody[0, 3]},
        received={"prototypes": {"mask": everybody[0, 4:6] > 0, "prototypes": everybody[1, 4:6]}},
    )
    file.save(0, MOMENTS[0], state)
    file.commit()
    assert path.stat().st_size < everybody.nbytes
    with closing(StateFile(path)) as other:
        read = other.load(0, MOMENTS[0])
    assert read.parameters["weight"].tolist() == [50_000, 50_001]
    assert read.objective_state["mean"].item() == 3
    assert read.received["prototypes"]["prototypes"].tolist() == [50_004, 50_005]


def test_two_processes_with_clients_of_their_own_do_not_disturb_each_other(path):
    with closing(StateFile(path)) as one, closing(StateFile(path)) as other:
        for number, moment in enumerate(MOMENTS):
            one.save(0, moment, state_of(number))
            other.save(1, moment, state_of(-number))
            one.commit()
            other.commit()
        assert value_of(one.load(0, MOMENTS[4])) == 4
        assert value_of(other.load(1, MOMENTS[4])) == -4
    assert values_in(path, 0) == {MOMENTS[4]: 4, MOMENTS[5]: 5}
    assert values_in(path, 1) == {MOMENTS[4]: -4, MOMENTS[5]: -5}


def test_a_file_of_something_else_is_refused_and_stays(path):
    path.write_bytes(b"something else " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        StateFile(path)
    assert path.read_bytes() == b"something else " * 100


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (self.path.touch, ())


def test_nothing_but_plain_data_is_loaded(file, path, tmp_path):
    touched = tmp_path / "touched"
    file.save(0, MOMENTS[0], ClientState({}, {}, {}, Hostile(touched)))
    file.commit()
    with closing(StateFile(path)) as other, pytest.raises(Exception, match=r"weights_only|Weights only"):
        other.load(0, MOMENTS[0])
    assert not touched.exists()
