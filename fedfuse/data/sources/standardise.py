"""Tables of features brought to one scale."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def standardise(features: NDArray[Any]) -> NDArray[np.float32]:
    """Subtract the mean of every column and divide by its standard deviation, both over all rows.

    This looks at the features, not the labels, of all samples before they are shared out. The clients of a real
    federation would have to agree on these numbers beforehand.

    Parameters
    ----------
    features : NDArray
        ``[n, d]``.

    Returns
    -------
    NDArray[np.float32]
        ``[n, d]``; columns with the same number everywhere become 0.
    """
    standardised = np.zeros(features.shape, dtype=np.float32)
    for column in range(features.shape[1]):  # one by one, because double precision takes twice the memory
        values = features[:, column].astype(np.float64)
        if values.max() > values.min():
            standardised[:, column] = (values - values.mean()) / values.std()
    return standardised
