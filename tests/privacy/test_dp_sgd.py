from dataclasses import replace

import pytest
from protection import EXPOSURE

from fedfuse.errors import ConfigurationError
from fedfuse.privacy.dp_sgd import DpSgd
from fedfuse.privacy.training_accountant import epsilon_of

KNOWN = replace(EXPOSURE, num_rounds=3, epochs=2, batch_size=16, num_examples=(100, 0, 17, 16, 1))
DELTA = 1e-3


def test_a_client_goes_through_its_examples_as_often_as_configured_in_expectation():
    protector = DpSgd(noise_multiplier=1.5)
    assert protector.steps_of(100, KNOWN) == (0.16, 1.5, 14)
    assert protector.steps_of(100, KNOWN, num_rounds=3) == (0.16, 1.5, 42)
    assert protector.steps_of(17, KNOWN) == (16 / 17, 1.5, 4)
    assert protector.steps_of(16, KNOWN) == protector.steps_of(1, KNOWN) == (1.0, 1.5, 2)
    assert protector.steps_of(0, KNOWN)[2] == 0


def test_with_a_noise_multiplier_the_worst_client_counts():
    protector = DpSgd(noise_multiplier=3.0, delta=DELTA)
    losses = {n: epsilon_of([protector.steps_of(n, KNOWN, 3)], DELTA, "pld") for n in (100, 17, 16, 1)}
    assert max(losses, key=losses.get) == 17
    guarantee = protector.guarantee(KNOWN, 3)
    assert guarantee.epsilon == losses[17]
    assert (guarantee.unit, guarantee.delta) == ("record", DELTA)
    assert "the server included" in guarantee.adversary


def test_before_the_last_round_an_upper_bound_is_stated_that_never_falls():
    for protector in (DpSgd(noise_multiplier=3.0, delta=DELTA), DpSgd(epsilon=2.0, delta=DELTA)):
        stated = [protector.guarantee(KNOWN, number).epsilon for number in (1, 2, 3)]
        worst = [
            max(epsilon_of([protector.steps_of(n, KNOWN, number)], DELTA, "pld") for n in KNOWN.num_examples)
            for number in (1, 2, 3)
        ]
        assert stated == sorted(stated)
        assert all(bound >= exact for bound, exact in zip(stated, worst, strict=True))
        assert stated[0] < stated[2]


def test_with_a_target_every_client_finds_its_own_noise_and_none_exceeds_it():
    protector = DpSgd(epsilon=2.0, delta=DELTA)
    taken = [protector.steps_of(n, KNOWN, 3) for n in (100, 17, 16)]
    assert len({noise for _, noise, _ in taken}) == 3
    losses = [epsilon_of([steps], DELTA, "pld") for steps in taken]
    assert all(1.97 < loss <= 2.0 for loss in losses)
    assert protector.guarantee(KNOWN, 3).epsilon == 2.0


def test_where_nobody_tells_how_many_examples_there_are_only_a_target_can_be_promised():
    unknown = replace(KNOWN, num_examples=None)
    protector = DpSgd(epsilon=2.0)
    protector.check(unknown)
    assert [protector.guarantee(unknown, number).epsilon for number in (1, 3)] == [2.0, 2.0]
    with pytest.raises(ConfigurationError, match=r"noise_multiplier=1.5 .* give epsilon instead"):
        DpSgd(noise_multiplier=1.5).guarantee(unknown, 1)


def test_delta_is_at_most_one_over_the_examples_of_any_client():
    DpSgd(epsilon=1, delta=0.01).check(KNOWN)
    with pytest.raises(ConfigurationError, match=r"delta=0.011; it must be at most 0.01, "):
        DpSgd(epsilon=1, delta=0.011).check(KNOWN)


def test_the_guarantee_says_what_it_does_not_cover_and_where_draws_come_from():
    secure = str(DpSgd(epsilon=2.0).guarantee(KNOWN, 3))
    assert "numbers of training examples counting as known, validation and test examples not covered" in secure
    assert "the operating system's generator" in secure
    assert "simulation only" in str(DpSgd(epsilon=2.0).guarantee(replace(KNOWN, secure=False), 3))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give one of noise_multiplier and epsilon"),
        ({"epsilon": 1, "noise_multiplier": 1}, "give one of"),
        ({"epsilon": 0}, "epsilon=0 must be positive"),
        ({"epsilon": float("nan")}, "epsilon=nan must be positive"),
        ({"noise_multiplier": -1}, "noise_multiplier=-1 must be positive"),
        ({"epsilon": 1, "clip": 0}, "clip=0 must be positive"),
        ({"epsilon": 1, "delta": 0}, "delta=0 must be above 0"),
        ({"epsilon": 1, "delta": 1}, "delta=1 must be above 0 and below 1"),
    ],
)
def test_wrong_numbers_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        DpSgd(**arguments)


def test_an_unknown_accountant_is_refused_with_the_nearest():
    with pytest.raises(ConfigurationError, match="pld"):
        DpSgd(epsilon=1, accountant="pdl")
