"""A small model that suits the shape of a sample, for those who do not want to choose."""

from collections.abc import Sequence

from torch import nn

from fedfuse.models.cnn import CNN
from fedfuse.models.cnn_1d import CNN1d
from fedfuse.models.mlp import MLP


def small(input_shape: Sequence[int], num_classes: int, embedding_size: int = 64) -> nn.Module:
    """Make a CNN for images of 8x8 or larger, a 1-D CNN for series ``[channels, time]``, else an MLP.

    Parameters
    ----------
    input_shape : Sequence[int]
        The shape of one sample.
    num_classes : int
        How many logits there are.
    embedding_size : int
        The width of the features.
    """
    if len(input_shape) == 3 and min(input_shape[1:]) >= 8:
        return CNN(input_shape, num_classes, channels=(16, 32), embedding_size=embedding_size)
    if len(input_shape) == 2:
        return CNN1d(input_shape, num_classes, embedding_size=embedding_size)
    return MLP(input_shape, num_classes, hidden=(64,), embedding_size=embedding_size)
