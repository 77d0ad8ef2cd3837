"""An arm of the ablation: what fedfuse's clients do, with densities sent beside plain soft labels."""

from strategies.density_weighted import DensityWeighted


class DensityFuse(DensityWeighted):
    """Density-weighted consensus of clients that rehearse: see `strategies.fedfuse.FedFuse` for ``rehearse``."""

    def __init__(self, temperature: float = 1.0, rehearse: float = 0.3) -> None:
        super().__init__(temperature)
        self.rehearse = rehearse
