import pytest
import torch

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.encoding.uint8 import uint8
from fedfuse.errors import ConfigurationError
from fedfuse.knowledge import InvalidKnowledgeError


def decode(*numbers, num_samples=1, num_classes=3):
    tensors = {"code": torch.tensor(numbers, dtype=torch.uint8)}
    return uint8(510, compressed=False).decode(tensors, num_samples, num_classes, torch.float64)["soft_labels"]


def test_a_sample_is_its_likeliest_class_and_the_levels_of_the_others():
    soft_labels = torch.tensor([[51.0, 357.0, 102.0], [510.0, 0.0, 0.0]], dtype=torch.float64) / 510
    encoded = uint8(510, compressed=False).encode({"soft_labels": soft_labels}, 2)["code"]
    assert encoded.tolist() == [1, 0, 51, 0, 102, 0]
    assert torch.equal(decode(*encoded.tolist(), num_samples=2), soft_labels)


def test_two_classes_of_one_half_fit_into_their_byte():
    soft_labels = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)
    encoded = uint8(510, compressed=False).encode({"soft_labels": soft_labels}, 1)["code"]
    assert encoded.tolist() == [1, 0, 255]
    assert torch.equal(decode(1, 0, 255), soft_labels)


def test_the_error_is_below_two_thousandths_where_it_is_largest():
    # Of equal remainders of a tenth one class gets all.
    soft_labels = torch.full((1, 10), 50.9 / 510, dtype=torch.float64)
    soft_labels[0, 0] = 1 - soft_labels[0, 1:].sum()
    encoding = uint8(510, compressed=True)
    decoded = encoding.decode(encoding.encode({"soft_labels": soft_labels}, 1), 1, 10, torch.float64)["soft_labels"]
    assert float((decoded - soft_labels).abs().max()) == pytest.approx(0.9 / 510)
    assert 1 / 510 < 2e-3


def test_levels_above_their_sum_are_refused():
    assert decode(0, 255, 255).tolist() == [[0.0, 0.5, 0.5]]
    with pytest.raises(InvalidKnowledgeError, match="more than there are"):
        decode(0, 255, 255, 1, num_classes=4)


def test_a_class_that_there_is_not_is_refused():
    with pytest.raises(InvalidKnowledgeError, match="a class that there is not"):
        decode(3, 0, 0)


def test_fewer_levels_are_coarser():
    soft_labels = torch.softmax(torch.randn(50, 4, generator=torch.Generator().manual_seed(1)), 1).double()
    encoding = uint8(20, compressed=True)
    decoded = encoding.decode(encoding.encode({"soft_labels": soft_labels}, 50), 50, 4, torch.float64)["soft_labels"]
    assert torch.equal((20 * decoded).round() / 20, decoded)
    assert 1 / 50 < float((decoded - soft_labels).abs().max()) < 1 / 20


@pytest.mark.parametrize("levels", ["0", "511", "2.5", "true"])
def test_levels_are_as_many_as_fit(levels):
    with pytest.raises(ConfigurationError, match="must be a whole number from 1 to 510"):
        build(compose([f"encoding={{name: uint8, levels: {levels}}}"]).encoding, "encoding")
