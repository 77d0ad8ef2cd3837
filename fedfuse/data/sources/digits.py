"""The handwritten digits that ship with scikit-learn: a data source that needs no download."""

from importlib.metadata import distribution

import numpy as np
import torch

from fedfuse.data.samples import LabelledData, Samples

BRIGHTEST = 16.0


def digits() -> LabelledData:
    """1,797 handwritten digits in 10 classes, 8x8 grey images (scikit-learn, no download).

    Returns
    -------
    LabelledData
        Inputs ``[1797, 1, 8, 8]`` from 0 to 1; class names ``"0"`` to ``"9"``.

    Notes
    -----
    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998 (its test set, as `sklearn.datasets.load_digits` gives it).
    """
    # The file is read directly: importing sklearn.datasets takes a second, longer than a round.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = torch.from_numpy(np.loadtxt(str(path), delimiter=",", dtype=np.float32))
    inputs = table[:, :-1].reshape(-1, 1, 8, 8) / BRIGHTEST
    labels = table[:, -1].to(torch.int64)
    return LabelledData(Samples(inputs, labels), tuple("0123456789"))
