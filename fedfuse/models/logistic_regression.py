"""Logistic regression, the smallest model."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs


class LogisticRegression(nn.Module):
    """One linear layer on the flattened sample, which is also the features.

    Parameters
    ----------
    input_shape : Sequence[int]
        The shape of one sample.
    num_classes : int
        How many logits there are.

    Raises
    ------
    ConfigurationError
        If a sample is empty.
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.embedding_size = math.prod(input_shape)
        if self.embedding_size < 1:
            raise ConfigurationError(f"Logistic regression needs samples that are not empty, not {list(input_shape)}.")
        self.flatten = nn.Flatten()
        self.head = nn.Linear(self.embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of inputs ``[batch, *input_shape]``."""
        features = self.flatten(inputs)
        return Outputs(self.head(features), features)
