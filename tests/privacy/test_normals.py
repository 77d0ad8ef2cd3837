import numpy as np
import pytest
import torch
from scipy import stats

from fedfuse.privacy.keystream import Keystream
from fedfuse.privacy.normals import standard_normals

KEY = bytes(range(32))


def draw(number, keystream=None):
    (drawn,) = standard_normals([keystream or Keystream(KEY, "test")], number)
    return drawn


def test_they_are_standard_normal():
    drawn = draw(200_001)
    assert (drawn.shape, drawn.dtype) == ((200_001,), torch.float32)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 0.01
    # The two halves come from the same uniform numbers.
    first, second = drawn[:100_000], drawn[100_001:]
    for one, other in ((first, second), (first.square(), second.square())):
        assert abs(np.corrcoef(one.numpy(), other.numpy())[0, 1]) < 0.01


def test_they_are_what_box_and_muller_make_of_the_stream():
    stream = Keystream(KEY, "test")
    radii = np.frombuffer(stream.bytes(8 * 500), dtype="<i8").astype(np.float64) / 2.0**64 + 0.5
    angles = np.frombuffer(stream.bytes(4 * 500), dtype="<i4").astype(np.float64) / 2.0**32 * 2 * np.pi
    expected = np.concatenate([np.cos(angles), np.sin(angles)]) * np.tile(np.sqrt(-2 * np.log(radii)), 2)
    np.testing.assert_allclose(draw(999), expected[:999], rtol=0, atol=2e-6)


def test_every_call_goes_on_and_every_key_and_purpose_has_its_own():
    stream, again = Keystream(KEY, "test"), Keystream(KEY, "test")
    first, second = draw(5, stream), draw(5, stream)
    assert torch.equal(draw(5, again), first)
    assert torch.equal(draw(5, again), second)
    others = [draw(5, stream), draw(5, Keystream(bytes(32), "test")), draw(5, Keystream(KEY, "other"))]
    assert not any(torch.equal(first, other) for other in [second, *others])


def test_what_one_stream_gives_does_not_depend_on_the_others():
    # Runners draw for one client or for many, and promise the same models.
    purposes = [str(client) for client in range(20)]
    for number in (1, 2, 7, 1001, 6570):
        together = standard_normals([Keystream(KEY, purpose) for purpose in purposes], number)
        for own, purpose in zip(together, purposes, strict=True):
            assert torch.equal(own, draw(number, Keystream(KEY, purpose)))


class Extremes:
    """The least whole number, one in the middle, and the largest, as radii; every angle is 0."""

    def fill(self, numbers):
        numbers[:] = [-(2**63), 0, 2**63 - 1] if numbers.itemsize == 8 else 0


def test_the_ends_of_the_range_give_finite_numbers_of_the_right_size():
    largest, middle, least, *sines = draw(6, Extremes()).tolist()
    assert largest == pytest.approx((2 * 53 * np.log(2)) ** 0.5)
    assert middle == pytest.approx((2 * np.log(2)) ** 0.5)
    assert (least, sines) == (0, [0, 0, 0])


def test_no_number_and_no_stream_is_nothing():
    assert draw(0).shape == (0,)
    assert standard_normals([], 7).shape == (0, 7)
