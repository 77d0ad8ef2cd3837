import torch

from fedfuse.encoding.float32 import FLOAT32, Float32


def test_nothing_is_changed():
    tensors = {"soft_labels": torch.rand(2, 3), "rows": torch.tensor([1, 4], dtype=torch.int32)}
    assert FLOAT32.encode(tensors, 5) is tensors
    assert FLOAT32.decode(tensors, 5, 3, torch.float64) is tensors
    assert not FLOAT32.compact
    assert Float32() == FLOAT32
