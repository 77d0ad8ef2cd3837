from dataclasses import dataclass
from typing import ClassVar

import pytest
from protection import EXPOSURE

from fedfuse.configuration import Component
from fedfuse.errors import ConfigurationError
from fedfuse.privacy.chain import check_chain, check_not_prolonged, guarantees_of, promises, record_of, with_radii
from fedfuse.privacy.exposure import SIMPLEX_DIAMETER
from fedfuse.privacy.guarantee import Guarantee


@dataclass(frozen=True)
class Step:
    role: str
    uses_private_data: bool = False
    radius: float = 0.25
    carrier: ClassVar[str] = "soft_labels"

    def guarantee(self, exposure, num_rounds):
        return Guarantee(self.role, f"{exposure.sensitivity:.3f}", epsilon=float(num_rounds), delta=1e-5)


TRAINING, BOUND, MECHANISM, HEURISTIC = (Step(role) for role in ("training", "bound", "mechanism", "heuristic"))
NAMES = {"training": "dp_sgd", "bound": "clip", "mechanism": "gaussian", "heuristic": "noise"}


def check(*steps):
    check_chain([Component(NAMES[step.role], "a.B", {}) for step in steps], steps)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (TRAINING, BOUND, MECHANISM, HEURISTIC),
        (HEURISTIC, BOUND, MECHANISM),
        (HEURISTIC, HEURISTIC),
        (BOUND, HEURISTIC),
        (Step("heuristic", uses_private_data=True), MECHANISM),
        (MECHANISM, HEURISTIC),
    ],
)
def test_sound_orders_are_allowed(steps):
    check(*steps)


@pytest.mark.parametrize(
    ("steps", "refusal"),
    [
        (
            (HEURISTIC, TRAINING),
            "privacy: dp_sgd protects what is learnt, before anything is sent: put it first, not after noise.",
        ),
        ((TRAINING, TRAINING), "put it first, not after dp_sgd."),
        (
            (MECHANISM, BOUND),
            "privacy: clip after gaussian bounds the noise, not what it must hide: put clip before gaussian.",
        ),
        ((HEURISTIC, BOUND), "put clip before noise."),
        (
            (BOUND, HEURISTIC, MECHANISM),
            "privacy: noise between clip and the noise undoes the bound that the noise relies on: put noise before "
            "clip, or last.",
        ),
        ((MECHANISM, MECHANISM), "privacy: gaussian and gaussian both draw accounted noise: use one of them."),
        (
            (TRAINING, Step("heuristic", uses_private_data=True)),
            "privacy: noise looks at private data that dp_sgd does not cover, and voids its guarantee.",
        ),
        ((MECHANISM, Step("heuristic", uses_private_data=True)), "private data that gaussian does not cover"),
    ],
)
def test_an_order_that_voids_a_guarantee_is_refused(steps, refusal):
    with pytest.raises(ConfigurationError) as refused:
        check(*steps)
    assert refusal in str(refused.value)


def test_only_the_step_right_after_a_bound_knows_its_radius():
    steps = (TRAINING, BOUND, MECHANISM, HEURISTIC)
    assert [radius for _, radius in with_radii(steps)] == [None, None, 0.25, None]


def test_a_bound_makes_the_sensitivity_of_what_follows_smaller_never_larger():
    def stated(*steps):
        return [guarantee.mechanism for guarantee in guarantees_of(steps, EXPOSURE, 3)]

    assert stated(MECHANISM) == ["1.414"]
    assert stated(BOUND, MECHANISM) == ["1.414", "0.500"]
    assert stated(Step("bound", radius=1.0), MECHANISM) == ["1.414", f"{SIMPLEX_DIAMETER:.3f}"]


def test_guarantees_are_those_of_the_rounds_asked_for():
    assert [guarantee.epsilon for guarantee in guarantees_of((TRAINING, MECHANISM), EXPOSURE, 7)] == [7.0, 7.0]


def test_training_and_mechanisms_promise_and_others_do_not():
    assert promises((HEURISTIC, TRAINING))
    assert promises((MECHANISM,))
    assert not promises((BOUND, HEURISTIC))
    assert not promises(())


def test_the_record_says_all_that_a_chain_does_in_its_order():
    clip = Component("clip", "a.Clip", {"radius": 0.5})
    gaussian = Component("gaussian", "a.Gaussian", {"sigma": 2.0, "delta": 1e-5})
    assert record_of((clip, gaussian), True) == ("clip(radius=0.5) > gaussian(delta=1e-05, sigma=2.0); draws: system")
    assert record_of((gaussian, clip), True) != record_of((clip, gaussian), True)
    assert record_of((clip,), False) == "clip(radius=0.5); draws: seed"
    assert record_of((), True) == ""


def test_more_rounds_than_noise_was_calibrated_to_are_refused():
    calibrated, fixed = (Component("dp_sgd", "a.DpSgd", {"epsilon": epsilon}) for epsilon in (4.0, None))
    check_not_prolonged((fixed, Component("noise", "a.Noise", {})), 3, 5)
    for now in (2, 3):
        check_not_prolonged((calibrated,), 3, now)
    with pytest.raises(ConfigurationError) as refused:
        check_not_prolonged((fixed, calibrated), 3, 4)
    assert str(refused.value) == (
        "num_rounds=4, but the noise of dp_sgd was calibrated to 3 rounds: more of them would exceed its epsilon. "
        "Start a new run."
    )
