"""What protectors are given, for tests."""

import numpy as np
import torch

from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.keystream import Keystream
from fedfuse.privacy.protector import Context

EXPOSURE = Exposure(num_rounds=20, num_rows=300, num_classes=10, num_clients=10, epochs=5, batch_size=16)


def context(reference=None, seed=0, rows=None, radius=None, likeness=None, num_transfer=300, purpose="test"):
    """What a protector may look at, with streams that follow from a seed."""

    def never():
        raise AssertionError("it looked at private data")

    return Context(
        rows=torch.arange(0) if rows is None else rows,
        num_transfer=num_transfer,
        reference=reference,
        likeness=never if likeness is None else lambda: likeness,
        radius=radius,
        generator=np.random.default_rng(seed),
        keystream=Keystream(seed.to_bytes(32, "big"), purpose),
    )
