"""Which clients take part in a round."""

import math
from collections.abc import Sequence

from fedfuse.randomness import numpy_generator


def participants(client_ids: Sequence[int], fraction: float, minimum: int, seed: int, round: int) -> tuple[int, ...]:
    """Draw the clients of a round, without replacement and independently of every other round.

    Parameters
    ----------
    client_ids : Sequence[int]
        All clients that can be reached.
    fraction : float
        The share of them to draw, in ``(0, 1]``; rounded up.
    minimum : int
        Draw at least this many, as far as there are so many.
    seed, round : int
        The stream of the draw.

    Returns
    -------
    tuple[int, ...]
        Ascending client ids.
    """
    everybody = sorted(client_ids)
    # The tiny subtraction keeps 0.07 * 100 = 7.000000000000001 from becoming eight clients.
    wanted = math.ceil(fraction * len(everybody) - 1e-9)
    number = min(max(wanted, minimum, 1), len(everybody))
    if number == len(everybody):
        return tuple(everybody)
    chosen = numpy_generator(seed, "sampling", round).choice(len(everybody), size=number, replace=False)
    return tuple(everybody[index] for index in sorted(chosen.tolist()))
