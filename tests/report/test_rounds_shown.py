import pytest

from fedfuse.report.rounds_shown import known_by_round, note_on_thinning, thinned


def lines(num_rounds):
    return [{"round": number} for number in range(1, num_rounds + 1)]


@pytest.mark.parametrize("num_rounds", [0, 1, 200])
def test_up_to_200_rounds_are_all_shown(num_rounds):
    assert thinned(lines(num_rounds)) == lines(num_rounds)
    assert note_on_thinning(lines(num_rounds), lines(num_rounds)) == []


def test_of_more_rounds_every_kth_up_to_the_last_is_shown_and_it_says_so():
    shown = thinned(lines(401))
    assert [line["round"] for line in shown] == list(range(2, 402, 3))
    (note,) = note_on_thinning(lines(401), shown)
    assert "Of 401 rounds, 134 evenly spaced ones are shown" in note


def test_rounds_with_an_unknown_value_are_left_out():
    assert known_by_round([{"round": 1, "mean": None}, {"round": 2, "mean": 0.0}], "mean") == {2: 0.0}
