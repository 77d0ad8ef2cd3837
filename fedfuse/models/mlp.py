"""A multilayer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs


class MLP(nn.Module):
    """Fully connected layers with ReLU, for inputs of any shape.

    Parameters
    ----------
    input_shape : Sequence[int]
        The shape of one sample.
    num_classes : int
        How many logits there are.
    hidden : Sequence[int]
        The width of each layer before the features.
    embedding_size : int
        The width of the features.

    Raises
    ------
    ConfigurationError
        If a width is less than 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (64,),
        embedding_size: int = 32,
    ) -> None:
        super().__init__()
        widths = [math.prod(input_shape), *hidden, embedding_size]
        if min(widths) < 1:
            raise ConfigurationError(
                f"An MLP with input_shape={list(input_shape)}, hidden={list(hidden)}, "
                f"embedding_size={embedding_size} has an empty layer; every width must be at least 1."
            )
        layers: list[nn.Module] = [nn.Flatten()]
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.ReLU()]
        self.embedding_size = embedding_size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of inputs ``[batch, *input_shape]``."""
        features = self.body(inputs)
        return Outputs(self.head(features), features)
