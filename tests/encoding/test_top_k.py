import pytest
import torch

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.encoding.top_k import top_k
from fedfuse.errors import ConfigurationError
from fedfuse.knowledge import InvalidKnowledgeError


def decode(*numbers, k=2, num_classes=4):
    tensors = {"code": torch.tensor(numbers, dtype=torch.uint8)}
    return top_k(k, compressed=False).decode(tensors, 1, num_classes, torch.float64)["soft_labels"]


def encode(soft_labels, k=2):
    return top_k(k, compressed=False).encode({"soft_labels": soft_labels}, len(soft_labels))["code"].tolist()


def test_the_likeliest_are_kept_and_the_rest_is_spread_evenly():
    soft_labels = torch.tensor([[5.0, 25.0, 204.0, 21.0]], dtype=torch.float64) / 255
    assert encode(soft_labels) == [2, 1, 204, 25]
    expected = torch.tensor([[13.0, 25.0, 204.0, 13.0]], dtype=torch.float64) / 255
    torch.testing.assert_close(decode(2, 1, 204, 25), expected, rtol=0, atol=1e-15)


def test_of_equally_likely_classes_the_first_are_kept():
    assert encode(torch.full((1, 4), 0.25), k=3)[:3] == [0, 1, 2]


def test_more_classes_than_there_are_keeps_all():
    soft_labels = torch.tensor([[51.0, 204.0]], dtype=torch.float64) / 255
    assert encode(soft_labels, k=9) == [1, 0, 204, 51]
    torch.testing.assert_close(decode(1, 0, 204, 51, k=9, num_classes=2), soft_labels, rtol=0, atol=1e-15)


def test_kept_classes_are_off_by_less_than_a_level():
    soft_labels = torch.softmax(3 * torch.randn(500, 10, generator=torch.Generator().manual_seed(3)), 1).double()
    encoding = top_k(3, compressed=True)
    decoded = encoding.decode(encoding.encode({"soft_labels": soft_labels}, 500), 500, 10, torch.float64)["soft_labels"]
    likeliest = soft_labels.topk(3, 1).indices
    assert float((decoded - soft_labels).gather(1, likeliest).abs().max()) < 1 / 255
    rest = 1 - soft_labels.gather(1, likeliest).sum(1)
    torch.testing.assert_close(1 - decoded.gather(1, likeliest).sum(1), rest, rtol=0, atol=1 / 255)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((2, 2, 100, 25), "a class twice"),
        ((2, 1, 200, 56), "more levels than there are"),
        ((2, 4, 100, 25), "a class that there is not"),
    ],
)
def test_what_nobody_writes_is_refused(numbers, reason):
    with pytest.raises(InvalidKnowledgeError, match=reason):
        decode(*numbers)


def test_nothing_is_left_where_all_classes_are_kept():
    with pytest.raises(InvalidKnowledgeError, match="classes that there are not"):
        decode(1, 0, 204, 50, num_classes=2)


@pytest.mark.parametrize("k", ["0", "-1", "2.5", "true"])
def test_k_is_a_whole_number_of_at_least_one(k):
    with pytest.raises(ConfigurationError, match="must be a whole number of at least 1"):
        build(compose([f"encoding={{name: top_k, k: {k}}}"]).encoding, "encoding")
