import pytest
import torch

from fedfuse.encoding.hard import hard
from fedfuse.knowledge import InvalidKnowledgeError


def test_the_likeliest_class_is_read_as_a_smoothed_label():
    encoding = hard(smoothing=0.2, compressed=False)
    encoded = encoding.encode({"soft_labels": torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]])}, 2)
    assert encoded["code"].tolist() == [1, 0]
    decoded = encoding.decode(encoded, 2, 4, torch.float64)["soft_labels"]
    expected = torch.tensor([[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]], dtype=torch.float64)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-15)


def test_a_class_that_there_is_not_is_refused():
    with pytest.raises(InvalidKnowledgeError, match="a class that there is not"):
        hard(0.1, compressed=False).decode({"code": torch.tensor([4], dtype=torch.uint8)}, 1, 4, torch.float64)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        hard(smoothing, compressed=True)
