"""The handwritten digits that ship with scikit-learn: a data source that needs no download."""

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
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / BRIGHTEST
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    return LabelledData(Samples(inputs, labels), tuple(str(name) for name in bunch.target_names))
