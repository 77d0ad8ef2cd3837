import dataclasses

import pytest

from fedfuse.privacy.guarantee import Guarantee


def test_no_guarantee_is_said_plainly():
    guarantee = Guarantee("noise", "gaussian noise of scale 0.05 on soft labels")
    assert str(guarantee) == "noise: gaussian noise of scale 0.05 on soft labels; guarantee: none"
    assert (guarantee.unit, guarantee.adversary) == ("none", "none")
    assert guarantee.epsilon is guarantee.delta is None


def test_a_guarantee_names_its_loss_its_unit_and_its_adversary():
    guarantee = Guarantee("dp_sgd", "clipped and noised gradients", "record", "the server", epsilon=2.5, delta=1e-5)
    assert str(guarantee) == (
        "dp_sgd: clipped and noised gradients; guarantee: epsilon 2.5, delta 1e-05 for one record against the server"
    )


def test_a_privacy_loss_of_zero_is_a_guarantee():
    assert "guarantee: epsilon 0, delta 0 for one client" in str(Guarantee("p", "m", "client", "all", 0.0, 0.0))


def test_a_guarantee_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Guarantee("noise", "noise").epsilon = 1.0


@pytest.mark.parametrize(
    ("epsilon", "written"),
    [
        (2.5, "2.5"),
        (1.23401, "1.235"),
        (1.2340, "1.234"),
        (0.000123451, "0.0001235"),
        (9.9999, "10"),
        (1211.31, "1212"),
    ],
)
def test_a_privacy_loss_is_rounded_up(epsilon, written):
    assert f"epsilon {written}, delta" in str(Guarantee("p", "m", "client", "all", epsilon, 1e-5))
