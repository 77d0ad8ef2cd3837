from dataclasses import replace

import pytest

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.contestants import CONTESTANTS, Contestant
from fedfuse.benchmark.measured import LeftOut
from fedfuse.benchmark.referee import LeftOutError, OpponentProcess, hold, opponents_for


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Opponent:
    """Notes what it is asked, in a list that all share; preparing takes 7 seconds of the clock."""

    def __init__(self, name, asked, clock, seconds, failing=()):
        self.name, self.asked, self.clock, self.seconds, self.failing = name, asked, clock, iter(seconds), failing

    def _ask(self, what, *values):
        self.asked.append((self.name, what, *values))
        if what in self.failing:
            raise LeftOutError(f"{what} failed")

    def prepare(self, cell):
        self.clock.now += 7
        self._ask("prepare", cell.clients)
        return 50 * cell.clients

    def take_turn(self):
        self._ask("turn")
        return next(self.seconds)

    def finish(self):
        self._ask("finish")


@pytest.fixture
def asked():
    return []


@pytest.fixture
def make(asked):
    clock = Clock()

    def make(cells, **opponents):
        names = {name.replace("_", " "): values for name, values in opponents.items()}
        made = {
            name: Opponent(name, asked, clock, *(values if isinstance(values, tuple) else (values,)))
            for name, values in names.items()
        }
        return list(hold(cells, made, clock))

    return make


CELL = Cell("mlp64", "training", 10, 2)


def test_everybody_prepares_then_all_take_turns_then_all_clear_away(make, asked):
    make([CELL], plain_loop=[1, 1, 1], matrix_product=[1, 1, 1])
    names = ("plain loop", "matrix product")
    assert asked == [
        *((name, "prepare", 10) for name in names),
        *((name, "turn") for _ in range(3) for name in names),
        *((name, "finish") for name in names),
    ]


def test_the_first_turn_warms_up_and_counts_with_the_preparing(make):
    (outcome,) = make([CELL], plain_loop=[5, 1, 2])
    (one,) = outcome.measured
    assert one.seconds == (1, 2)
    assert one.start == 12
    assert one.operations == 500


def test_the_time_of_fewer_clients_is_scaled_and_that_of_the_product_is_not(make, asked):
    cell = replace(CELL, clients=1000)
    (outcome,) = make([cell], plain_loop=[1, 2, 4], matrix_product=[1, 2, 4])
    loop, product = outcome.measured
    assert ("plain loop", "prepare", 100) in asked
    assert (loop.clients_measured, loop.seconds, loop.start) == (100, (20, 40), 8)
    assert loop.is_scaled
    assert product.seconds == (2, 4)
    assert not product.is_scaled
    assert product.rate == product.operations / 3


def test_who_cannot_do_the_work_is_not_asked(make, asked):
    make([replace(CELL, work="round")], plain_loop=[1, 1, 1], **{"pfl-research": [1, 1, 1]})
    assert {name for name, *_ in asked} == {"plain loop"}


@pytest.mark.parametrize("what", ["prepare", "turn", "finish"])
def test_who_fails_is_left_out_and_the_others_go_on(make, asked, what):
    (outcome,) = make([CELL], plain_loop=([1, 1, 1], (what,)), matrix_product=[1, 1, 1])
    assert outcome.left_out == (LeftOut(CELL, "plain loop", f"{what} failed"),)
    assert [one.contestant for one in outcome.measured] == ["matrix product"]
    assert [name for name, said, *_ in asked if said == what].count("plain loop") == 1


def test_a_real_cell_of_two_clients(tmp_path):
    cell = Cell("mlp64", "training", 2, 1)
    names = ("plain loop", "fedfuse stacked")
    processes = {name: OpponentProcess(CONTESTANTS[name], tmp_path / "log") for name in names}
    try:
        (outcome,) = hold([cell], processes)
    finally:
        for process in processes.values():
            process.stop()
    assert [one.contestant for one in outcome.measured] == list(names)
    assert all(len(one.seconds) == 1 and one.seconds[0] > 0 for one in outcome.measured)
    assert outcome.measured[0].operations == outcome.measured[1].operations


@pytest.fixture
def contestant(tmp_path, monkeypatch):
    """Return a function that starts the process of a contestant, whose module has this text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def start(text):
        (tmp_path / "a_contestant.py").write_text(text)
        return OpponentProcess(Contestant("a_contestant:compete", ("training",)), tmp_path / "log")

    return start


def test_a_process_that_ends_is_left_out(contestant):
    process = contestant("import os\ndef compete(cell, turns):\n    os._exit(3)\n")
    try:
        for _ in range(2):
            with pytest.raises(LeftOutError, match=r"its process ended \(exit code 3\)"):
                process.prepare(CELL)
    finally:
        process.stop()


def test_only_those_are_started_that_can_do_something_and_all_end(monkeypatch, tmp_path):
    started, stopped = [], []

    class Process:
        def __init__(self, contestant, log):
            started.append(contestant.target)

        def stop(self):
            stopped.append(self)

    monkeypatch.setattr("fedfuse.benchmark.referee.OpponentProcess", Process)
    with pytest.raises(KeyboardInterrupt), opponents_for(["distillation"], tmp_path / "log") as opponents:
        assert set(opponents) == {"plain loop", "fedfuse sequential", "fedfuse stacked", "matrix product"}
        raise KeyboardInterrupt
    assert len(started) == len(stopped) == 4


def test_a_contestant_gets_its_cell_has_one_thread_and_prints_to_the_log(contestant, tmp_path):
    process = contestant(
        "import os, torch\n"
        "def compete(cell, turns):\n"
        "    print(cell)\n"
        "    threads = int(os.environ['OMP_NUM_THREADS']) * 10 + torch.get_num_threads()\n"
        "    turns.take_all(threads, lambda: None)\n"
    )
    try:
        assert process.prepare(CELL) == 11
        for _ in range(3):
            assert process.take_turn() >= 0
        process.finish()
    finally:
        process.stop()
    assert (tmp_path / "log").read_text() == f"{CELL}\n"
