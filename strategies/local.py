"""Local training: nothing is exchanged. The bar that every other strategy must clear."""

from fedfuse.strategy import FusionStrategy


class Local(FusionStrategy):
    """Local-only training: nothing is shared, nothing is fused.

    Every client learns from its own data alone. It shows what federation is worth, and under strong label skew it can
    win on the clients' own data.
    """
