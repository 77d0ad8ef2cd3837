"""A data source of noise, for rounds of which only the time counts."""

from collections.abc import Sequence

import torch

from fedfuse.data.samples import LabelledData, Samples


def noise(samples: int, shape: Sequence[int], classes: int, seed: int = 0) -> LabelledData:
    """Draw standard normal samples, and labels that have nothing to do with them.

    Parameters
    ----------
    samples : int
        How many there are.
    shape : Sequence[int]
        Of one of them.
    classes : int
        How many classes there are.
    seed : int
        Decides every draw.

    Returns
    -------
    LabelledData
        Inputs ``[samples, *shape]``, float32; every class equally often, or once more.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, *shape, generator=generator)
    labels = torch.arange(samples) % classes
    return LabelledData(Samples(inputs, labels), tuple(f"class {number}" for number in range(classes)))
