"""A small network of inverted residual blocks, after MobileNetV2 (Sandler et al., CVPR 2018, arXiv 1801.04381)."""

from collections.abc import Sequence

from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.image import image_shape
from fedfuse.models.norm import normalisation
from fedfuse.models.outputs import Outputs

STEM = 16
# Of each block: how much it widens, its output channels, and whether it halves the map.
BLOCKS = ((1, 16, False), (4, 24, True), (4, 24, False), (4, 40, True), (4, 40, False), (4, 64, True), (4, 64, False))
# Maps below this size are not halved any more, and images of this size are halved by the first convolution.
SMALLEST_HALVED, LARGE_IMAGE = 8, 64


class MobileNet(nn.Module):
    """A convolution, seven inverted residual blocks, a 1x1 convolution and the mean over the map.

    For grey or colour images. The last convolution has as many channels as the features are wide.

    Parameters
    ----------
    input_shape : Sequence[int]
        ``[channels, height, width]`` of one image.
    num_classes : int
        How many logits there are.
    norm : str
        One of ``group``, ``batch`` and ``none``; see `fedfuse.models.norm.normalisation`.
    embedding_size : int
        The width of the features.

    Raises
    ------
    ConfigurationError
        If the input is not an image, the width is less than 1, or the norm is unknown.
    """

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, norm: str = "group", embedding_size: int = 64
    ) -> None:
        super().__init__()
        depth, height, width = image_shape("MobileNet", input_shape)
        if embedding_size < 1:
            raise ConfigurationError(f"embedding_size of a MobileNet must be at least 1, not {embedding_size}.")
        side, channels = min(height, width), STEM
        stride = 2 if side >= LARGE_IMAGE else 1
        layers = _convolution(depth, STEM, norm, kernel=3, stride=stride)
        side //= stride
        for expansion, outer, halves in BLOCKS:
            stride = 2 if halves and side >= SMALLEST_HALVED else 1
            layers.append(InvertedResidual(channels, outer, expansion, stride, norm))
            side, channels = side // stride, outer
        layers += [*_convolution(channels, embedding_size, norm), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.embedding_size = embedding_size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of images ``[batch, channels, height, width]``."""
        features = self.body(inputs)
        return Outputs(self.head(features), features)


class InvertedResidual(nn.Module):
    """Widen with a 1x1 convolution, filter each channel by itself, narrow again; add what came in where it fits."""

    def __init__(self, inner: int, outer: int, expansion: int, stride: int, norm: str) -> None:
        super().__init__()
        wide = expansion * inner
        self.is_residual = stride == 1 and inner == outer
        self.layers = nn.Sequential(
            *(_convolution(inner, wide, norm) if expansion > 1 else []),
            *_convolution(wide, wide, norm, kernel=3, stride=stride, groups=wide),
            *_convolution(wide, outer, norm)[:-1],  # what is narrow stays linear: a ReLU would lose too much there
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the next maps of maps ``[batch, inner, height, width]``."""
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.is_residual else outputs


def _convolution(
    inner: int, outer: int, norm: str, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=norm == "none")
    return [convolution, normalisation(norm, outer), nn.ReLU6()]
