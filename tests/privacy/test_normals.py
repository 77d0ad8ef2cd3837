import numpy as np
import pytest
import torch
from scipy import stats

from fedfuse.privacy.keystream import Keystream
from fedfuse.privacy.normals import secure_normals, simulated_normals

KEY = bytes(range(32))
WAYS = [secure_normals, simulated_normals]


@pytest.mark.parametrize("normals", WAYS)
def test_they_are_standard_normal(normals):
    drawn = normals(Keystream(KEY, "test"))(200_001)
    assert (drawn.shape, drawn.dtype) == ((200_001,), torch.float64)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 0.01
    # The two halves come from the same uniform numbers.
    first, second = drawn[:100_000], drawn[100_001:]
    for one, other in ((first, second), (first.square(), second.square())):
        assert abs(np.corrcoef(one.numpy(), other.numpy())[0, 1]) < 0.01


@pytest.mark.parametrize("normals", WAYS)
def test_every_call_goes_on_and_every_key_and_purpose_has_its_own(normals):
    draw = normals(Keystream(KEY, "test"))
    first, second = draw(5), draw(5)
    again = normals(Keystream(KEY, "test"))
    assert torch.equal(again(5), first)
    assert torch.equal(again(5), second)
    others = [draw(5), normals(Keystream(bytes(32), "test"))(5), normals(Keystream(KEY, "other"))(5)]
    assert not any(torch.equal(first, other) for other in [second, *others])


class Extremes:
    """Integers at the ends of their range: of the radius, then of the angle."""

    def integers(self, number):
        return np.array([2**63, 2**63 - 1, 0, 0], dtype=np.uint64)[:number]


def test_the_ends_of_the_range_give_finite_numbers_of_the_right_size():
    # The least and the largest uniform number, as integers with a sign; the angle is 0.
    first, second, third, fourth = secure_normals(Extremes())(4).tolist()
    assert first == pytest.approx((2 * 53 * np.log(2)) ** 0.5)
    assert (second, third, fourth) == (0, 0, 0)


def test_no_number_is_nothing():
    assert secure_normals(Keystream(KEY, "test"))(0).shape == (0,)
