import numpy as np
import pytest

from fedfuse.transfer.all import AllRows
from fedfuse.transfer.policy import no_past


@pytest.mark.parametrize("num_samples", [1, 5])
def test_all_rows_are_taken_without_a_draw(num_samples):
    generator = np.random.default_rng(0)
    assert AllRows()(no_past(num_samples), generator).tolist() == list(range(num_samples))
    assert generator.random() == np.random.default_rng(0).random()
