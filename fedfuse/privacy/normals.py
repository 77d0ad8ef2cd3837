"""Standard normal numbers that back a guarantee.

The numbers are floating-point ones, and so is the sum that they are added to: what their rounding may tell is not
covered by a guarantee that speaks of real numbers (Mironov, CCS 2012), unlike with the discrete mechanisms.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedfuse.privacy.keystream import Keystream


def standard_normals(keystreams: Sequence[Keystream], number: int) -> Tensor:
    r"""Draw the next so many numbers from each keystream; what it gives does not depend on the others.

    Source: Box and Muller, Annals of Mathematical Statistics 29 (1958): of two uniform numbers u and v,
    :math:`\sqrt{-2 \ln u}` times the cosine and the sine of :math:`2 \pi v` are two independent standard normal
    numbers. Of the ways that were measured it is the quickest. The radius comes from 64 bits in double precision, so
    that the tails are right up to the largest number, 8.6; the angle comes from 32 bits in single precision.

    Parameters
    ----------
    keystreams : Sequence[Keystream]
        K streams. Each gives its radii first, then its angles.
    number : int
        How many numbers of each.

    Returns
    -------
    Tensor
        float32 ``[K, number]``.
    """
    half = (number + 1) // 2
    of_radii, of_angles = np.empty((len(keystreams), half), "<i8"), np.empty((len(keystreams), half), "<i4")
    for keystream, of_radius, of_angle in zip(keystreams, of_radii, of_angles, strict=True):
        keystream.fill(of_radius)
        keystream.fill(of_angle)
    # Uniform on [-2**63, 2**63].
    uniform = of_radii.astype(np.float64)
    uniform *= 2.0**-64
    # Not below 2**-53, because zero has no logarithm, and at most 1.
    uniform += 0.5 + 2.0**-53
    # NumPy's logarithm in double, sine and cosine in single precision take less than half of the time of torch's.
    np.log(uniform, out=uniform)
    radius = uniform.astype(np.float32)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle = of_angles.astype(np.float32)
    angle *= math.pi * 2.0**-31
    normals = np.empty((len(keystreams), 2, half), np.float32)
    np.multiply(np.cos(angle, out=normals[:, 0]), radius, out=normals[:, 0])
    np.multiply(np.sin(angle, out=normals[:, 1]), radius, out=normals[:, 1])
    return torch.from_numpy(normals).flatten(1)[:, :number]
