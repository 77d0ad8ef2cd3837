import numpy as np
import pytest
import torch

from fedfuse.data.samples import LabelledData, Samples
from fedfuse.errors import ConfigurationError


def four_samples():
    return Samples(torch.arange(8, dtype=torch.float32).reshape(4, 2), torch.tensor([3, 2, 1, 0]))


def test_length_is_the_number_of_labels():
    assert len(four_samples()) == 4


@pytest.mark.parametrize("indices", [np.array([2, 0, 2]), torch.tensor([2, 0, 2])])
def test_select_copies_the_samples_at_the_positions_in_their_order(indices):
    samples = four_samples()
    chosen = samples.select(indices)
    assert chosen.inputs.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert chosen.labels.tolist() == [1, 3, 1]
    chosen.inputs.zero_()
    assert samples.inputs[2].tolist() == [4, 5]


def test_select_of_no_positions_is_empty():
    assert four_samples().select(np.empty(0, dtype=np.int64)).inputs.shape == (0, 2)


def test_to_casts_inputs_and_leaves_labels():
    cast = four_samples().to(torch.float64)
    assert cast.inputs.dtype == torch.float64
    assert cast.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"\[3, 2\] do not fit labels of shape \[2\]"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), r"labels of shape \[3, 1\]"),
        (torch.zeros(3, 2), torch.zeros(3), "Labels are torch.float32"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "Inputs are torch.uint8"),
    ],
)
def test_samples_that_do_not_fit_are_refused(inputs, labels, message):
    with pytest.raises(ConfigurationError, match=message):
        Samples(inputs, labels)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_without_a_class_name_is_refused(label):
    samples = Samples(torch.zeros(2, 1), torch.tensor([0, label]))
    with pytest.raises(ConfigurationError, match=f"Label {label} has no class name; 4 class names allow 0 to 3"):
        LabelledData(samples, ("a", "b", "c", "d"))


def test_the_first_and_last_labels_are_allowed():
    assert LabelledData(four_samples(), ("a", "b", "c", "d")).class_names == ("a", "b", "c", "d")
