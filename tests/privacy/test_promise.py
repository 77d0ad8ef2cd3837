import json
from types import SimpleNamespace

from protection import EXPOSURE

from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, Guarantee
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.promise import Promise


class Accounted:
    role = "mechanism"

    def guarantee(self, exposure, num_rounds):
        return Guarantee("dp", "a mechanism", "record", "the server", num_rounds / 10, 1e-5, FROM_THE_SYSTEM)


SILENT = SimpleNamespace(guarantee=lambda exposure, num_rounds: None)
VOTES = SimpleNamespace(
    guarantee=lambda exposure, num_rounds: Guarantee("votes", "noise", "client", "other clients", num_rounds, 1e-6)
)


def test_without_protectors_nothing_is_promised():
    promise = Promise((), SILENT, EXPOSURE)
    assert json.loads(promise.to_json()) == {
        "protectors": [],
        "differential_privacy": False,
        "rounds": 20,
        "summary": "No differential privacy is guaranteed.",
    }
    assert not promise.is_claimed
    assert promise.spent(3) == {}


def test_noise_alone_promises_nothing():
    promise = Promise((Noise(),), SILENT, EXPOSURE)
    assert not promise.is_claimed
    assert promise.spent(3) == {}
    assert json.loads(promise.to_json())["differential_privacy"] is False


def test_what_is_promised_is_what_holds_after_the_last_round():
    promise = Promise((Accounted(), Noise()), VOTES, EXPOSURE)
    assert promise.is_claimed
    assert [(guarantee.protector, guarantee.epsilon) for guarantee in promise.in_the_end] == [
        ("dp", 2.0),
        ("noise", None),
        ("votes", 20),
    ]
    written = json.loads(promise.to_json())
    assert written["differential_privacy"] is True
    assert written["summary"] == "See protectors."
    assert written["protectors"][0] == {
        "protector": "dp",
        "mechanism": "a mechanism",
        "unit": "record",
        "adversary": "the server",
        "epsilon": 2.0,
        "delta": 1e-5,
        "draws": FROM_THE_SYSTEM,
    }


def test_what_is_spent_so_far_is_told_for_each_unit():
    assert Promise((Accounted(),), VOTES, EXPOSURE).spent(5) == {"record": 0.5, "client": 5}


def test_of_two_guarantees_for_one_unit_the_weaker_is_told():
    both = SimpleNamespace(guarantee=lambda exposure, num_rounds: Guarantee("votes", "noise", "record", "all", 0.1, 0))
    assert Promise((Accounted(),), both, EXPOSURE).spent(5) == {"record": 0.5}
    assert Promise((Accounted(),), both, EXPOSURE).spent(0) == {"record": 0.1}
