"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs


class CNN(nn.Module):
    """3x3 convolutions with ReLU, each followed by a pool that halves the image, for grey or colour images.

    It has no BatchNorm and no Dropout, so that many clients can be trained at once.

    Parameters
    ----------
    input_shape : Sequence[int]
        ``[channels, height, width]`` of one image.
    num_classes : int
        How many logits there are.
    channels : Sequence[int]
        The output channels of each convolution.
    embedding_size : int
        The width of the features.

    Raises
    ------
    ConfigurationError
        If the input is not an image, is too small for the pools, or a width is less than 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (8, 16),
        embedding_size: int = 32,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigurationError(
                f"A CNN needs images [channels, height, width]; the shape of a sample is {list(input_shape)}."
            )
        depth, height, width = input_shape
        smallest = 2 ** len(channels)
        if min(height, width) < smallest:
            raise ConfigurationError(
                f"Images of {height}x{width} are too small for a CNN with channels={list(channels)}, "
                f"which halves them {len(channels)} times; it needs {smallest}x{smallest} or fewer entries."
            )
        depths = [depth, *channels]
        if min(*depths, embedding_size) < 1:
            raise ConfigurationError(
                f"A CNN with {depth} input channels, channels={list(channels)}, "
                f"embedding_size={embedding_size} has an empty layer; each must be at least 1."
            )
        layers: list[nn.Module] = []
        for inner, outer in pairwise(depths):
            # ReLU after a pool gives the same values and gradients as before it, for a quarter of the numbers.
            layers += [nn.Conv2d(inner, outer, kernel_size=3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        pooled_size = depths[-1] * (height // smallest) * (width // smallest)
        layers += [nn.Flatten(), nn.Linear(pooled_size, embedding_size), nn.ReLU()]
        self.embedding_size = embedding_size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of images ``[batch, channels, height, width]``."""
        features = self.body(inputs)
        return Outputs(self.head(features), features)
