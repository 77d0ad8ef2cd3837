import numpy as np
import pytest
import torch

from fedfuse.errors import ConfigurationError
from fedfuse.privacy.flags import read_flags


def test_rows_that_are_named_are_flagged_in_full():
    assert read_flags([0, 3], 5).tolist() == [1, 0, 0, 1, 0]
    assert read_flags([], 2).tolist() == [0, 0]
    assert read_flags([0], 1).dtype == torch.float64


@pytest.mark.parametrize("row", [5, -1, 1.5, True])
def test_a_row_that_is_not_there_is_refused(row):
    with pytest.raises(ConfigurationError, match=f"flags: {row!r} is no row of the 5 transfer samples"):
        read_flags([row], 5)


def test_a_file_has_a_number_for_each_sample(tmp_path):
    np.save(tmp_path / "flags.npy", np.array([0, 0.5, 1], dtype=np.float32))
    (tmp_path / "flags.csv").write_text("0\n0.5\n1\n")
    for name in ("flags.npy", "flags.csv"):
        assert read_flags(str(tmp_path / name), 3).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_a_likelihood_outside_of_zero_and_one_is_refused(tmp_path, value):
    path = tmp_path / "flags.npy"
    np.save(path, np.array([0.5, value]))
    with pytest.raises(ConfigurationError, match=rf"a likelihood must be in \[0, 1\], not {value:g}"):
        read_flags(str(path), 2)


def test_a_file_that_does_not_fit_or_cannot_be_read_is_refused(tmp_path):
    np.save(tmp_path / "flags.npy", np.zeros((2, 2)))
    with pytest.raises(ConfigurationError, match=r"has shape \[2, 2\], not \[4\]"):
        read_flags(str(tmp_path / "flags.npy"), 4)
    (tmp_path / "words.txt").write_text("none\n")
    for name in ("words.txt", "missing.npy"):
        with pytest.raises(ConfigurationError, match=f"{name} cannot be read"):
            read_flags(str(tmp_path / name), 4)
