import torch

from fedfuse.encoding.float16 import float16


def test_probabilities_are_in_half_precision():
    soft_labels = torch.tensor([[1 / 3, 2 / 3], [1e-7, 1 - 1e-7]], dtype=torch.float64)
    encoding = float16(compressed=True)
    decoded = encoding.decode(encoding.encode({"soft_labels": soft_labels}, 2), 2, 2, torch.float64)
    assert torch.equal(decoded["soft_labels"], soft_labels.to(torch.float16).to(torch.float64))
