from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedfuse.assembly import load_federation
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.data.sources.office_caltech10 import office_caltech10
from fedfuse.errors import ConfigurationError

REAL = Path(__file__).parents[4] / "shared" / "data" / "office_caltech10"
COUNTS = [[1, 3, 0], [2, 2, 0], [6, 2, 0], [1, 1, 2]]


def write(folder, counts=COUNTS, domains=("a", "a", "b", "b")):
    table = pa.table(
        {"features": [[float(x) for x in row] for row in counts], "label": [0, 1, 1, 0], "domain": domains}
    )
    pq.write_table(table, folder / "all.parquet")
    return str(folder)


def test_rows_are_divided_by_their_sum_and_columns_standardised_within_their_domain(tmp_path):
    data = office_caltech10(write(tmp_path))
    # Shares of a: (1/4, 3/4, 0), (1/2, 1/2, 0); of b: (3/4, 1/4, 0), (1/4, 1/4, 1/2).
    expected = [[-1, 1, 0], [1, -1, 0], [1, 0, -1], [-1, 0, 1]]
    assert data.samples.inputs.numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert (data.domains.names, data.domains.members.tolist()) == (("a", "b"), [0, 0, 1, 1])


@pytest.mark.parametrize("counts", [[[1, -1]] * 4, [[0, 0]] * 4])
def test_what_is_no_histogram_is_refused(tmp_path, counts):
    with pytest.raises(ConfigurationError, match="does not hold histograms"):
        office_caltech10(write(tmp_path, counts))


def test_other_columns_are_refused(tmp_path):
    pq.write_table(pa.table({"features": [[1.0], [2.0]], "label": [0, 1]}), tmp_path / "all.parquet")
    with pytest.raises(ConfigurationError, match=r"data\.domain=domain: .*all\.parquet has no such column"):
        office_caltech10(str(tmp_path))


def test_it_says_what_the_folder_must_hold():
    with pytest.raises(ConfigurationError, match=r"\$FEDFUSE_DATA/office_caltech10.*800 counts of SURF"):
        office_caltech10()


@pytest.mark.skipif(not REAL.is_dir(), reason="the data set is not here")
def test_the_real_set_gives_every_client_a_domain():
    configuration = compose(["data=office_caltech10", f"data.path={REAL}"])
    assert configuration.num_clients == 4
    assert configuration.partition.name == "by_domain"
    assert [model.name for model in configuration.model] == ["mlp_small", "mlp_large"]
    data = build(configuration.data, "data")
    assert data.samples.inputs.shape == (2533, 800)
    assert data.domains.names == ("amazon", "caltech", "dslr", "webcam")
    assert np.bincount(data.domains.members).tolist() == [958, 1123, 157, 295]
    assert data.class_names[9] == "projector"
    for domain in range(4):
        within = data.samples.inputs.numpy()[data.domains.members == domain]
        assert np.abs(within.mean(0)).max() < 1e-5
        assert within.std(0)[within.std(0) > 0] == pytest.approx(1, abs=1e-4)
    assert len(load_federation(configuration).clients) == 4
