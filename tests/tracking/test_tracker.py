import pytest
import records

from fedfuse.results import LOCAL_ONLY, append_round
from fedfuse.tracking.tracker import FEDERATED, Trackers


class Listener:
    """Notes what it is told; fails at one of the calls if it is told to."""

    def __init__(self, fails_at=None):
        self.told = []
        self._fails_at = fails_at

    def begin(self, directory, configuration):
        self._note("begin", directory, configuration)
        return ["look here", "and there"]

    def round_finished(self, metrics, stage):
        self._note("round", metrics["round"], stage)

    def end(self, summary, figures):
        self._note("end", summary, figures)

    def _note(self, *call):
        self.told.append(call)
        if call[0] == self._fails_at:
            raise RuntimeError("the server\nis  gone" + "!" * 1000)


@pytest.fixture
def notes():
    return []


def test_all_trackers_are_told_everything_in_order(notes, tmp_path):
    listeners = [Listener(), Listener()]
    trackers = Trackers(listeners, notes.append)
    trackers.begin(tmp_path, {"seed": 1})
    trackers.round_finished({"round": 1}, FEDERATED)
    trackers.end({"num_rounds": 1}, [tmp_path / "a.png"])
    for listener in listeners:
        assert listener.told == [
            ("begin", tmp_path, {"seed": 1}),
            ("round", 1, FEDERATED),
            ("end", {"num_rounds": 1}, [tmp_path / "a.png"]),
        ]
    assert notes == ["look here", "and there"] * 2


def test_rounds_that_were_recorded_before_are_told_at_the_beginning(notes, tmp_path):
    for record in records.rounds([1, 2]):
        append_round(tmp_path, record)
    append_round(tmp_path / LOCAL_ONLY, records.rounds([1])[0])
    listener = Listener()
    Trackers([listener], notes.append).begin(tmp_path, {})
    assert listener.told[1:] == [("round", 1, FEDERATED), ("round", 2, FEDERATED), ("round", 1, LOCAL_ONLY)]


@pytest.mark.parametrize("fails_at", ["begin", "round", "end"])
def test_a_tracker_that_fails_is_named_once_and_told_nothing_more(notes, tmp_path, fails_at):
    failing, other = Listener(fails_at), Listener()
    trackers = Trackers([failing, other], notes.append)
    trackers.begin(tmp_path, {})
    trackers.round_finished({"round": 1}, FEDERATED)
    trackers.round_finished({"round": 2}, FEDERATED)
    trackers.end(None)
    assert failing.told[-1][0] == fails_at
    assert [call[0] for call in failing.told].count(fails_at) == 1
    assert [call[0] for call in other.told] == ["begin", "round", "round", "end"]
    [complaint] = [note for note in notes if "failed" in note]
    assert complaint.startswith("Listener failed and is told nothing more: RuntimeError: the server is gone!!!")
    assert len(complaint) < 400


def test_an_interrupt_is_not_swallowed(notes, tmp_path):
    listener = Listener()
    listener.begin = lambda directory, configuration: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        Trackers([listener], notes.append).begin(tmp_path, {})


def test_the_end_is_told_once(notes, tmp_path):
    listener = Listener()
    trackers = Trackers([listener], notes.append)
    trackers.end(None)
    trackers.end({"num_rounds": 1})
    assert listener.told == [("end", None, ())]
