"""Images of one size and colour made to fit another."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedfuse.data.samples import as_numbers
from fedfuse.errors import ConfigurationError

# What each colour adds to the brightness of a grey pixel: ITU-R BT.601, as in most image programs.
BRIGHTNESS = (0.299, 0.587, 0.114)


def fit_images(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize images, and make them grey or coloured, so that they have a given shape.

    Parameters
    ----------
    images : Tensor
        ``[n, channels, height, width]``, bytes or floating point from 0 to 1.
    shape : Sequence[int]
        ``[channels, height, width]`` wanted; 1 or 3 channels.

    Returns
    -------
    Tensor
        ``[n, *shape]``: the same tensor where nothing had to be done, else floating point. Bilinear, with antialiasing
        where the image becomes smaller.

    Raises
    ------
    ConfigurationError
        If the shapes differ and one of them is not that of an image with 1 or 3 channels.
    """
    own = tuple(images.shape[1:])
    if own == tuple(shape):
        return images
    if len(own) != 3 or len(shape) != 3 or {own[0], shape[0]} - {1, 3}:
        raise ConfigurationError(
            f"samples of shape {list(own)} cannot be made {list(shape)}; only grey and colour images are resized."
        )
    numbers = as_numbers(images, images.dtype if images.is_floating_point() else torch.float32)
    if own[0] == 3 and shape[0] == 1:
        weights = torch.tensor(BRIGHTNESS, dtype=numbers.dtype).reshape(1, 3, 1, 1)
        numbers = (numbers * weights).sum(1, keepdim=True)
    if own[1:] != tuple(shape[1:]):
        numbers = functional.interpolate(numbers, size=tuple(shape[1:]), mode="bilinear", antialias=True)
    return numbers.expand(-1, shape[0], -1, -1).contiguous()
