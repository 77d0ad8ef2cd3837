"""The wines that ship with scikit-learn: a small table, as a data source that needs no download."""

from importlib.metadata import distribution

import numpy as np
import torch

from fedfuse.data.samples import LabelledData, Samples

GROWERS = 3


def wine() -> LabelledData:
    """178 wines of 3 growers with 13 chemical measurements each (scikit-learn, no download).

    Returns
    -------
    LabelledData
        Inputs ``[178, 13]``, each column with mean 0 and standard deviation 1 over all wines: a real federation would
        have to agree on such a scale beforehand. Class names ``"grower 1"`` to ``"grower 3"``.

    Notes
    -----
    Source: S. Aeberhard and M. Forina, "Wine", UCI Machine Learning Repository, 1992.
    """
    # The file is read directly: importing sklearn.datasets takes a second, longer than a round.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/wine_data.csv")
    table = np.loadtxt(str(path), delimiter=",", skiprows=1)
    measurements, growers = table[:, :-1], table[:, -1]
    inputs = torch.from_numpy((measurements - measurements.mean(0)) / measurements.std(0)).float()
    class_names = tuple(f"grower {number}" for number in range(1, GROWERS + 1))
    return LabelledData(Samples(inputs, torch.from_numpy(growers).long()), class_names)
