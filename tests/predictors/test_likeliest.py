import pytest
import torch

from fedfuse.predictors.likeliest import likeliest

SURE = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]], dtype=torch.float64)
UNSURE = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.4, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize(("labels", "best"), [([0, 1, 1], "sure"), ([1, 1, 1], "unsure"), ([0, 0, 0], "unsure")])
def test_the_candidate_that_gives_the_labels_more_is_taken(labels, best):
    # 0.9 * 0.9 * 0.8 > 0.6 ** 3, but 0.1 * 0.9 * 0.8 < 0.4 * 0.6 ** 2 and 0.9 * 0.1 * 0.2 < 0.6 * 0.4 ** 2.
    assert likeliest(["sure", "unsure"], [SURE, UNSURE], torch.tensor(labels)) == best
    assert likeliest(["unsure", "sure"], [UNSURE, SURE], torch.tensor(labels)) == best


def test_of_equally_good_ones_up_to_rounding_the_first_is_taken():
    labels = torch.tensor([0, 1, 1])
    rounded = [SURE, SURE * (1 + 1e-13), SURE * (1 - 1e-13)]
    assert likeliest(["first", "second", "third"], rounded, labels) == "first"
    assert likeliest(["first", "second"], [SURE, SURE * (1 + 1e-6)], labels) == "second"


def test_without_samples_the_first_is_taken():
    empty = torch.zeros(0, 2, dtype=torch.float64)
    assert likeliest(["first", "second"], [empty, empty], torch.zeros(0, dtype=torch.int64)) == "first"


def test_no_single_sample_decides_alone():
    # Both are as wrong as counts on the first sample; the second sample decides.
    wrong = torch.tensor([[1e-9, 1.0], [0.5, 0.5]], dtype=torch.float64)
    wronger = torch.tensor([[0.0, 1.0], [0.6, 0.4]], dtype=torch.float64)
    assert likeliest(["wrong", "wronger"], [wrong, wronger], torch.tensor([0, 0])) == "wronger"
