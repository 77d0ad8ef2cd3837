"""USPS: digits from envelopes, another domain for models that know MNIST."""

from fedfuse.data.samples import LabelledData
from fedfuse.data.sources.local import local
from fedfuse.data.sources.location import require

CONTENT = (
    "train.parquet and test.parquet, columns image (16x16 grey) and label (0 to 9), "
    "made of the USPS digits (zip.train and zip.test of Hastie, Tibshirani and Friedman's book)"
)


def usps(path: str | None = None, image_size: int | None = None) -> LabelledData:
    """9,298 handwritten digits from envelopes in 10 classes, 16x16 grey images, of which 2,007 are for testing.

    Parameters
    ----------
    path : str, optional
        The folder with its files; else ``$FEDFUSE_DATA/usps``.
    image_size : int, optional
        Resize the images to squares of so many pixels a side.

    Raises
    ------
    ConfigurationError
        If the set is not there.

    Notes
    -----
    Source: J. J. Hull, "A Database for Handwritten Text Recognition Research", IEEE PAMI 1994; normalised by Y. LeCun
    and others. The test set is known to be harder than the training set.
    """
    return local(str(require("usps", path, CONTENT)), image_size=image_size)
