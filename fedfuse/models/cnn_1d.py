"""A convolutional network for time series."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs

SHORTEST_POOLED = 8


class CNN1d(nn.Module):
    """Convolutions over time with ReLU and pools, the mean over time, and a layer for the features.

    A pool halves the series, unless it has fewer than 8 steps left.

    Parameters
    ----------
    input_shape : Sequence[int]
        ``[channels, time]`` of one series, or ``[time]`` if it has one channel.
    num_classes : int
        How many logits there are.
    channels : Sequence[int]
        The output channels of each convolution.
    kernel_size : int
        How many steps of time a convolution sees at once; odd, so that it keeps the length.
    embedding_size : int
        The width of the features.

    Raises
    ------
    ConfigurationError
        If the input is no series, a width is less than 1, or the kernel is even.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (32, 64, 64),
        kernel_size: int = 5,
        embedding_size: int = 64,
    ) -> None:
        super().__init__()
        if len(input_shape) not in (1, 2):
            raise ConfigurationError(
                "A 1-D CNN needs series [channels, time] or [time]; the shape of a sample is "
                f"{list(input_shape)}. The models mlp_small and small take samples of any shape."
            )
        *first, length = input_shape
        widths = [*(first or [1]), *channels]
        if min(*widths, length, embedding_size) < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigurationError(
                f"A 1-D CNN with {widths[0]} input channels, {length} steps, channels={list(channels)}, "
                f"kernel_size={kernel_size}, embedding_size={embedding_size} is not possible; each must be at least 1, "
                "and kernel_size odd."
            )
        layers: list[nn.Module] = [] if first else [nn.Unflatten(1, (1, length))]
        for inner, outer in pairwise(widths):
            layers += [nn.Conv1d(inner, outer, kernel_size, padding=kernel_size // 2), nn.ReLU()]
            if length >= SHORTEST_POOLED:
                layers.append(nn.MaxPool1d(2))
                length //= 2
        layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(widths[-1], embedding_size), nn.ReLU()]
        self.embedding_size = embedding_size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of series ``[batch, channels, time]`` or ``[batch, time]``."""
        features = self.body(inputs)
        return Outputs(self.head(features), features)
