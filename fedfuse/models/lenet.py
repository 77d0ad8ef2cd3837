"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 1998), with ReLU and max pools."""

from collections.abc import Sequence

from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.image import image_shape
from fedfuse.models.outputs import Outputs

CHANNELS = (6, 16)
HIDDEN = 120
CLASSICAL_SIDE = 32
LARGEST_MAP = 5


class LeNet(nn.Module):
    """Two convolutions with pools, then a layer of 120 and the features, for grey or colour images.

    Images of 32x32 meet the classical layout: 5x5 convolutions without padding, and maps of 5x5 at the end. Smaller
    images are padded before the first convolution (28x28 becomes 32x32); those below 16x16 have 3x3 convolutions, both
    padded. The maps of larger images are averaged down to 5x5, so that no image makes the model larger.

    Parameters
    ----------
    input_shape : Sequence[int]
        ``[channels, height, width]`` of one image.
    num_classes : int
        How many logits there are.
    embedding_size : int
        The width of the features; 84 is the classical one.

    Raises
    ------
    ConfigurationError
        If the input is not an image of 8x8 or larger, or the width is less than 1.
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int, embedding_size: int = 64) -> None:
        super().__init__()
        depth, height, width = image_shape("LeNet", input_shape, smallest=8)
        if embedding_size < 1:
            raise ConfigurationError(f"embedding_size of a LeNet must be at least 1, not {embedding_size}.")
        kernel, paddings = _convolutions(min(height, width))
        for padding in paddings:
            height, width = ((side + 2 * padding - kernel + 1) // 2 for side in (height, width))
        map_size = min(height, LARGEST_MAP), min(width, LARGEST_MAP)
        first, second = CHANNELS
        self.embedding_size = embedding_size
        # ReLU after a pool gives the same values and gradients as before it, for a quarter of the numbers.
        self.body = nn.Sequential(
            nn.Conv2d(depth, first, kernel, padding=paddings[0]),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(first, second, kernel, padding=paddings[1]),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Identity() if map_size == (height, width) else nn.AdaptiveAvgPool2d(map_size),
            nn.Flatten(),
            nn.Linear(second * map_size[0] * map_size[1], HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, embedding_size),
            nn.ReLU(),
        )
        self.head = nn.Linear(embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of images ``[batch, channels, height, width]``."""
        features = self.body(inputs)
        return Outputs(self.head(features), features)


def _convolutions(side: int) -> tuple[int, tuple[int, int]]:
    """Choose the kernel of both convolutions and the padding of each by the shorter side of the image."""
    if side >= CLASSICAL_SIDE:
        return 5, (0, 0)
    return (5, (2, 0)) if side >= CLASSICAL_SIDE // 2 else (3, (1, 1))
