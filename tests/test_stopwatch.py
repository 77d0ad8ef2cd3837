from types import SimpleNamespace

import pytest

from fedfuse import stopwatch
from fedfuse.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_times_are_kept_by_verb_and_times_of_a_repeated_verb_add_up(clock):
    watch = Stopwatch()
    for verb, seconds in (("learn", 2.0), ("express", 0.5), ("learn", 3.0)):
        with watch.verb(verb):
            clock.now += seconds
        clock.now += 10
    assert watch.seconds == {"learn": 5.0, "express": 0.5}


def test_a_verb_is_announced_before_it_begins_and_before_its_time_runs(clock):
    told = []

    def announce(name):
        told.append(name)
        clock.now += 7

    watch = Stopwatch(announce)
    with watch.verb("learn"):
        assert told == ["learn"]
        clock.now += 1
    with watch.verb("learn"):
        pass
    assert told == ["learn", "learn"]
    assert watch.seconds == {"learn": 1.0}


def test_an_error_passes_and_its_time_counts(clock):
    watch = Stopwatch()
    with pytest.raises(RuntimeError, match="no"), watch.verb("learn"):
        clock.now += 4
        raise RuntimeError("no")
    assert watch.seconds == {"learn": 4.0}


def test_stopwatches_share_nothing(clock):
    first, second = Stopwatch(), Stopwatch()
    with first.verb("learn"):
        clock.now += 1
    assert second.seconds == {}


def test_the_real_clock_goes_forward():
    watch = Stopwatch()
    with watch.verb("learn"):
        pass
    assert watch.seconds["learn"] >= 0
