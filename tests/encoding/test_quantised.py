from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fedfuse.encoding.compression import decompress
from fedfuse.encoding.quantised import Quantised
from fedfuse.knowledge import InvalidKnowledgeError


@dataclass(frozen=True)
class Percent:
    def width(self, num_classes):
        return num_classes

    def quantise(self, soft_labels):
        return (100 * soft_labels).round().astype(np.uint8)

    def restore(self, table, num_classes):
        return np.where(table == 255, np.nan, table / 100)


SOFT_LABELS = {"soft_labels": torch.tensor([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])}


def test_the_table_travels_byte_by_byte_of_all_samples():
    assert Quantised(Percent(), compressed=False).encode(SOFT_LABELS, 3)["code"].tolist() == [20, 50, 100, 80, 50, 0]
    compressed = Quantised(Percent()).encode(SOFT_LABELS, 3)["code"]
    assert list(decompress(compressed.numpy().tobytes(), 6)) == [20, 50, 100, 80, 50, 0]


def test_what_is_read_is_what_was_quantised():
    for compressed in (True, False):
        encoding = Quantised(Percent(), compressed)
        decoded = encoding.decode(encoding.encode(SOFT_LABELS, 3), 3, 2, torch.float32)
        assert torch.equal(decoded["soft_labels"], SOFT_LABELS["soft_labels"])
        assert set(decoded) == {"soft_labels"}


def test_what_is_not_finite_when_it_is_read_is_refused():
    with pytest.raises(InvalidKnowledgeError, match="not finite"):
        Quantised(Percent(), False).decode({"code": torch.tensor([255, 0], dtype=torch.uint8)}, 1, 2, torch.float32)
