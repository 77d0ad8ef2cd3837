"""Which samples are images that a model for images can take."""

from collections.abc import Sequence

from fedfuse.errors import ConfigurationError


def image_shape(model: str, input_shape: Sequence[int], smallest: int = 1) -> tuple[int, int, int]:
    """Read the shape of a sample as that of an image.

    Parameters
    ----------
    model : str
        What the user calls the kind of model, for example ``"LeNet"``; for error messages.
    input_shape : Sequence[int]
        The shape of one sample.
    smallest : int
        The least height and width that the model can take.

    Returns
    -------
    tuple[int, int, int]
        Channels, height and width.

    Raises
    ------
    ConfigurationError
        If the sample is no image, or one that is too small.
    """
    if len(input_shape) != 3:
        raise ConfigurationError(
            f"A {model} needs images [channels, height, width]; the shape of a sample is {list(input_shape)}. "
            "The models mlp_small and small take samples of any shape."
        )
    channels, height, width = input_shape
    if channels < 1 or min(height, width) < smallest:
        raise ConfigurationError(
            f"A {model} needs images of {smallest}x{smallest} or larger with at least one channel; these are "
            f"{height}x{width} with {channels}."
        )
    return channels, height, width
