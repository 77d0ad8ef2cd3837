from pathlib import Path

import pytest
import torch

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.data.sources.usps import usps
from fedfuse.errors import ConfigurationError

REAL = Path(__file__).parents[4] / "shared" / "data" / "usps"


def test_it_says_what_the_folder_must_hold():
    with pytest.raises(
        ConfigurationError, match=r"data\.path=DIR.*\$FEDFUSE_DATA/usps.*train\.parquet and test\.parquet"
    ):
        usps()


@pytest.mark.skipif(not REAL.is_dir(), reason="the data set is not here")
def test_the_real_set_is_complete():
    configuration = compose(["data=usps", f"data.path={REAL}"])
    assert [model.name for model in configuration.model] == ["lenet", "cnn_small", "mlp_large"]
    data = build(configuration.data, "data")
    assert data.samples.inputs.shape == (9298, 1, 16, 16)
    assert data.samples.inputs.dtype == torch.uint8
    assert torch.bincount(data.samples.labels[:7291]).tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    assert torch.bincount(data.samples.labels[7291:]).tolist() == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    assert data.official_test.tolist() == [False] * 7291 + [True] * 2007
    assert data.class_names == tuple("0123456789")
