"""Office-Caltech10: photographs of ten kinds of objects in four domains, as histograms of visual words."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedfuse.data.samples import LabelledData, Samples
from fedfuse.data.sources.local import local
from fedfuse.data.sources.location import require
from fedfuse.data.sources.standardise import standardise
from fedfuse.errors import ConfigurationError

CONTENT = (
    "train.parquet and test.parquet, or all.parquet, columns features (800 counts of SURF visual words), label and "
    "domain (amazon, caltech, dslr, webcam), made of the SURF features that the authors of the set publish"
)


def office_caltech10(path: str | None = None) -> LabelledData:
    """2,533 photographs of 10 kinds of objects in 4 domains, as histograms of 800 SURF visual words.

    As is usual with this set, each histogram is divided by its sum, and then each column is standardised within its
    domain, which needs no labels and, where a client has one domain, no data of others.

    Parameters
    ----------
    path : str, optional
        The folder with its files; else ``$FEDFUSE_DATA/office_caltech10``.

    Returns
    -------
    LabelledData
        Inputs ``[2533, 800]``, with domains.

    Raises
    ------
    ConfigurationError
        If the set is not there, or its folder holds something else.

    Notes
    -----
    Source: B. Gong et al., "Geodesic Flow Kernel for Unsupervised Domain Adaptation", CVPR 2012.
    """
    found = require("office_caltech10", path, CONTENT)
    data = local(str(found), label="label", inputs="features", domain="domain", standardize=False)
    counts = data.samples.inputs.numpy()
    sums = counts.sum(1, keepdims=True)
    if data.domains is None or counts.ndim != 2 or counts.min() < 0 or sums.min() <= 0:
        raise ConfigurationError(f"{found} does not hold histograms: {CONTENT} are needed.")
    features = _within(counts / sums, data.domains.members)
    return replace(data, samples=Samples(torch.from_numpy(features), data.samples.labels))


def _within(features: NDArray[np.float32], domains: NDArray[np.int64]) -> NDArray[np.float32]:
    """Standardise each column within each domain."""
    standardised = np.empty_like(features)
    for domain in np.unique(domains):
        standardised[domains == domain] = standardise(features[domains == domain])
    return standardised
