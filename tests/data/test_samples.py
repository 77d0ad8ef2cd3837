import numpy as np
import pytest
import torch

from fedfuse.data.samples import Groups, LabelledData, Samples, as_numbers
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
        (torch.zeros(3, 2, dtype=torch.int16), torch.zeros(3, dtype=torch.int64), "Inputs are torch.int16"),
    ],
)
def test_samples_that_do_not_fit_are_refused(inputs, labels, message):
    with pytest.raises(ConfigurationError, match=message):
        Samples(inputs, labels)


def test_pixels_become_numbers_from_0_to_1_and_others_are_cast():
    pixels = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert as_numbers(pixels, torch.float64).tolist() == [[0, 0.2, 1]]
    assert as_numbers(pixels, torch.float32).dtype == torch.float32
    assert pixels.tolist() == [[0, 51, 255]]
    assert as_numbers(torch.tensor([2.5]), torch.float64).tolist() == [2.5]
    samples = Samples(pixels, torch.tensor([0]))
    assert samples.to(torch.float64).inputs.dtype == torch.uint8


def test_groups_are_selected_with_their_names():
    groups = Groups(("a", "b", "c"), np.array([2, 0, 2]))
    chosen = groups.select(np.array([1, 0]))
    assert (chosen.names, chosen.members.tolist()) == (("a", "b", "c"), [0, 2])


@pytest.mark.parametrize("member", [-1, 2])
def test_a_group_without_a_name_is_refused(member):
    with pytest.raises(ConfigurationError, match="2 names allow 0 to 1"):
        Groups(("a", "b"), np.array([0, member]))


def known_data():
    return LabelledData(
        four_samples(),
        ("a", "b", "c", "d"),
        natural_clients=Groups(("x", "y"), np.array([0, 1, 1, 0])),
        domains=Groups(("u", "v"), np.array([1, 1, 0, 0])),
        order=np.array([5, 6, 8, 9]),
        official_test=np.array([True, False, False, True]),
    )


def test_what_is_known_of_samples_is_selected_with_them():
    chosen = known_data().select(np.array([3, 1]))
    assert chosen.samples.labels.tolist() == [0, 2]
    assert chosen.natural_clients.members.tolist() == [0, 1]
    assert chosen.domains.members.tolist() == [0, 1]
    assert chosen.order.tolist() == [9, 6]
    assert chosen.official_test.tolist() == [True, False]
    population = known_data().population.select(np.array([3, 1]))
    assert population.labels.tolist() == [0, 2]
    assert population.positions.tolist() == [3, 1]
    assert population.natural_clients.members.tolist() == [0, 1]
    assert population.domains.members.tolist() == [0, 1]
    assert population.order.tolist() == [9, 6]
    assert (len(population), population.num_classes) == (2, 4)


def test_of_samples_alone_nothing_else_is_known():
    data = LabelledData(four_samples(), ("a", "b", "c", "d"))
    population = data.population.select(np.array([0]))
    assert population.natural_clients is population.domains is population.order is None
    assert data.select(np.array([0])).official_test is None


@pytest.mark.parametrize("name", ["natural_clients", "domains", "order", "official_test"])
def test_what_is_known_must_have_an_entry_for_each_sample(name):
    entries = np.zeros(3, dtype=bool if name == "official_test" else np.int64)
    value = Groups(("x",), entries) if name in ("natural_clients", "domains") else entries
    with pytest.raises(ConfigurationError, match=rf"^{name} has shape \[3\]; there are 4 samples"):
        LabelledData(four_samples(), ("a", "b", "c", "d"), **{name: value})


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_without_a_class_name_is_refused(label):
    samples = Samples(torch.zeros(2, 1), torch.tensor([0, label]))
    with pytest.raises(ConfigurationError, match=f"Label {label} has no class name; 4 class names allow 0 to 3"):
        LabelledData(samples, ("a", "b", "c", "d"))


def test_the_first_and_last_labels_are_allowed():
    assert LabelledData(four_samples(), ("a", "b", "c", "d")).class_names == ("a", "b", "c", "d")
