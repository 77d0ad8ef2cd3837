import pytest
import torch

from fedfuse.audit.averages import mean_answers


def test_the_mean_is_over_the_rounds_in_which_a_row_was_answered_and_uniform_without_any():
    first = (torch.tensor([0, 2]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    second = (torch.tensor([2]), torch.tensor([[0.7, 0.3]]))
    mean = mean_answers([first, second], num_transfer=3, num_classes=2)
    assert mean.flatten().tolist() == pytest.approx([1.0, 0.0, 0.5, 0.5, 0.6, 0.4])
