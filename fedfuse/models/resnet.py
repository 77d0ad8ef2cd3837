"""The small residual networks for images of 32x32 (He, Zhang, Ren and Sun, CVPR 2016, section 4.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.image import image_shape
from fedfuse.models.norm import normalisation
from fedfuse.models.outputs import Outputs


class ResNet(nn.Module):
    """A convolution, three stages of residual blocks, and the mean over the map, for grey or colour images.

    It has ``6 * blocks_per_stage + 2`` layers: 1 block a stage makes a ResNet-8, 3 make a ResNet-20.

    Parameters
    ----------
    input_shape : Sequence[int]
        ``[channels, height, width]`` of one image.
    num_classes : int
        How many logits there are.
    blocks_per_stage : int
        How many blocks of two convolutions each stage has.
    width : int
        The channels of the first stage; each later stage has twice as many, on a map of half the size.
    norm : str
        One of ``group``, ``batch`` and ``none``; see `fedfuse.models.norm.normalisation`.
    embedding_size : int
        The width of the features. If it is not that of the last stage, a linear layer with ReLU makes it so.

    Raises
    ------
    ConfigurationError
        If the input is not an image, a number is less than 1, or the norm is unknown.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        blocks_per_stage: int = 1,
        width: int = 16,
        norm: str = "group",
        embedding_size: int = 64,
    ) -> None:
        super().__init__()
        depth, _, _ = image_shape("ResNet", input_shape)
        if min(blocks_per_stage, width, embedding_size) < 1:
            raise ConfigurationError(
                f"A ResNet with blocks_per_stage={blocks_per_stage}, width={width}, embedding_size={embedding_size} "
                "has an empty layer; each must be at least 1."
            )
        layers = [_convolution(depth, width, 1, norm), normalisation(norm, width), nn.ReLU()]
        channels = width
        for stage in range(3):
            for block in range(blocks_per_stage):
                halves = stage > 0 and block == 0
                layers.append(ResidualBlock(channels, 2 * channels if halves else channels, norm))
                channels = 2 * channels if halves else channels
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if embedding_size != channels:
            layers += [nn.Linear(channels, embedding_size), nn.ReLU()]
        self.embedding_size = embedding_size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of images ``[batch, channels, height, width]``."""
        features = self.body(inputs)
        return Outputs(self.head(features), features)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to what came in; where the channels double, the map is halved.

    The shortcut has no parameters (option A of the paper): it takes every second pixel, and new channels are zero.
    """

    def __init__(self, inner: int, outer: int, norm: str) -> None:
        super().__init__()
        self.stride = 1 if inner == outer else 2
        self.num_new_channels = outer - inner
        self.layers = nn.Sequential(
            _convolution(inner, outer, self.stride, norm),
            normalisation(norm, outer),
            nn.ReLU(),
            _convolution(outer, outer, 1, norm),
            normalisation(norm, outer),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the next maps of maps ``[batch, inner, height, width]``."""
        shortcut = inputs
        if self.num_new_channels:
            # The mean over one pixel is the pixel: quicker backward than two slices, which fill two maps with zeros.
            kept = nn.functional.avg_pool2d(inputs, kernel_size=1, stride=self.stride)
            shortcut = nn.functional.pad(kept, (0, 0, 0, 0, 0, self.num_new_channels))
        return torch.relu(self.layers(inputs) + shortcut)


def _convolution(inner: int, outer: int, stride: int, norm: str) -> nn.Module:
    # A normalisation has a shift of its own, and would take a bias before it away.
    return nn.Conv2d(inner, outer, kernel_size=3, stride=stride, padding=1, bias=norm == "none")
