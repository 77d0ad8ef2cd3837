"""What holds for every encoding that quantises."""

import functools
import lzma

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.encoding.compression import FILTERS
from fedfuse.knowledge import InvalidKnowledgeError

NAMES = ("float16", "uint8", "top_k", "hard")
# Bytes of 1,000 samples of 10 classes, before entropy coding.
BYTES = {"float16": 20_000, "uint8": 10_000, "top_k": 6_000, "hard": 1_000}
# How far a probability may be off; nothing is promised of those that are not kept.
BOUNDS = {"float16": 2**-11, "uint8": 1 / 510}


@functools.cache
def encoding(name, **values):
    given_values = "".join(f", {key}: {str(value).lower()}" for key, value in values.items())
    return build(compose([f"encoding={{name: {name}{given_values}}}"]).encoding, "encoding")


def answers(num_samples=1000, num_classes=10, sharpness=3.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)
    return torch.softmax(logits, 1).to(dtype)


def there_and_back(chosen, soft_labels, dtype=torch.float64):
    encoded = chosen.encode({"soft_labels": soft_labels}, len(soft_labels))
    return chosen.decode(encoded, len(soft_labels), soft_labels.shape[1], dtype)["soft_labels"]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_takes_so_many_bytes(name):
    encoded = encoding(name, compressed=False).encode({"soft_labels": answers()}, 1000)
    assert set(encoded) == {"code"}
    assert (encoded["code"].dtype, encoded["code"].shape) == (torch.uint8, (BYTES[name],))
    compressed = encoding(name).encode({"soft_labels": answers()}, 1000)
    assert len(compressed["code"]) < BYTES[name]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_samples=st.integers(0, 12),
    num_classes=st.sampled_from([2, 3, 10, 256, 300]),
    sharpness=st.sampled_from([0.0, 0.01, 1.0, 4.0, 60.0]),
)
def test_what_is_read_is_on_the_simplex_as_near_as_promised_and_stays_the_same(
    name, seed, num_samples, num_classes, sharpness
):
    soft_labels = answers(num_samples, num_classes, sharpness, seed)
    chosen = encoding(name)
    once = there_and_back(chosen, soft_labels)
    assert once.shape == soft_labels.shape
    assert (once >= 0).all()
    tolerance = 2**-11 if name == "float16" else 1e-12
    assert ((once.sum(1) - 1).abs() <= tolerance).all()
    if name in BOUNDS:
        assert ((once - soft_labels).abs() <= BOUNDS[name]).all()
    # Entropy coding loses nothing.
    assert torch.equal(there_and_back(encoding(name, compressed=False), soft_labels), once)
    if name in ("uint8", "hard"):
        assert torch.equal(there_and_back(chosen, once), once)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_labels_come_back_in_the_precision_of_the_run(name, dtype):
    back = there_and_back(encoding(name), answers(20, dtype=dtype), dtype)
    assert back.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_encoding_the_same_gives_the_same_bytes(name):
    first, second = (encoding(name).encode({"soft_labels": answers(50)}, 50) for _ in range(2))
    assert torch.equal(first["code"], second["code"])


@pytest.mark.parametrize("name", NAMES)
def test_rows_travel_as_bits(name):
    rows = torch.tensor([1, 4, 5, 38], dtype=torch.int32)
    chosen, soft_labels = encoding(name), answers(4)
    encoded = chosen.encode({"soft_labels": soft_labels, "rows": rows}, 40)
    assert encoded["rows"].shape == (5,)
    decoded = chosen.decode(encoded, 40, 10, torch.float64)
    assert torch.equal(decoded["rows"], rows)
    assert decoded["rows"].dtype == torch.int32
    assert torch.equal(decoded["soft_labels"], there_and_back(chosen, soft_labels))


@pytest.mark.parametrize("name", NAMES)
def test_nobody_may_have_answered(name):
    nothing = {"soft_labels": torch.zeros(0, 10), "rows": torch.zeros(0, dtype=torch.int32)}
    chosen = encoding(name)
    decoded = chosen.decode(chosen.encode(nothing, 40), 40, 10, torch.float32)
    assert decoded["soft_labels"].shape == (0, 10)
    assert decoded["rows"].tolist() == []


@pytest.mark.parametrize("name", NAMES)
def test_rounding_below_zero_is_none_and_rows_are_divided_by_their_sum(name):
    off, on = torch.tensor([[1.0005, -0.0005, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.equal(there_and_back(encoding(name), off), there_and_back(encoding(name), on))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_probability_is_not_sent(name, value):
    soft_labels = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    soft_labels[0, 1] = value
    with pytest.raises(InvalidKnowledgeError, match="no probabilities"):
        encoding(name).encode({"soft_labels": soft_labels}, 2)


def code(*numbers, dtype=torch.uint8):
    return {"code": torch.tensor(numbers, dtype=dtype)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compressed", [True, False])
@settings(deadline=None)
@given(noise=st.binary(max_size=80))
def test_whatever_comes_from_the_wire_is_read_or_refused(name, compressed, noise):
    chosen = encoding(name, compressed=compressed)
    tensors = {"code": torch.from_numpy(np.frombuffer(noise, dtype=np.uint8).copy())}
    try:
        decoded = chosen.decode(tensors, 4, 3, torch.float64)
    except InvalidKnowledgeError:
        return
    assert decoded["soft_labels"].shape == (4, 3)
    assert decoded["soft_labels"].isfinite().all()


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"soft_labels": torch.full((2, 3), 1 / 3)},
        {"rows": torch.tensor([3], dtype=torch.uint8)},
        code(0, 1, 2, 3, 4, 5) | {"more": torch.zeros(1)},
        code(0, 1, 2, 3, 4, 5, dtype=torch.float32),
        {"code": torch.zeros(2, 3, dtype=torch.uint8)},
        code(0, 1, 2, 3, 4),
        code(0, 1, 2, 3, 4, 5, 6),
        code(0, 1, 2, 3, 4, 5) | {"rows": torch.tensor([0, 1])},
        code(0, 1, 2, 3, 4, 5) | {"rows": torch.tensor([1], dtype=torch.uint8)},  # one row, not two
        code(0, 1, 2, 3, 4, 5) | {"rows": torch.tensor([5], dtype=torch.uint8)},  # the third of two
    ],
)
def test_tensors_that_are_not_what_travels_are_refused(tensors):
    with pytest.raises(InvalidKnowledgeError):
        encoding("uint8", compressed=False).decode(tensors, 2, 3, torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_that_expands_without_bound_is_refused(name):
    bomb = lzma.compress(bytes(2**20), lzma.FORMAT_RAW, filters=FILTERS)
    with pytest.raises(InvalidKnowledgeError, match="do not decompress to"):
        encoding(name).decode({"code": torch.tensor(list(bomb), dtype=torch.uint8)}, 4, 3, torch.float64)
