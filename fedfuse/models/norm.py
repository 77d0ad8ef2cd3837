"""The normalisation between the convolutions of a deep network."""

import math

from torch import nn

from fedfuse.errors import unknown_name

NORMS = ("group", "batch", "none")
CHANNELS_IN_A_GROUP = 8


def normalisation(norm: str, channels: int) -> nn.Module:
    """Make one normalisation layer.

    Parameters
    ----------
    norm : str
        ``group`` normalises groups of 8 channels within each sample (Wu and He, ECCV 2018), so that what a client
        learns does not depend on which samples meet in a batch; where 8 does not divide the channels, groups are
        smaller. ``batch`` normalises each channel over the batch, and keeps running statistics. ``none`` does nothing.
    channels : int
        How many channels the maps have.

    Raises
    ------
    ConfigurationError
        If the name is unknown.
    """
    if norm not in NORMS:
        raise unknown_name("norm", str(norm), NORMS)
    if norm == "group":
        return nn.GroupNorm(channels // math.gcd(channels, CHANNELS_IN_A_GROUP), channels)
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()
