import subprocess
import sys

import numpy as np
import pytest

from fedfuse.data.partitions.dirichlet import dirichlet
from fedfuse.data.partitions.iid import iid
from fedfuse.data.partitions.sharing import check_enough, check_whole_number, share_out
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError

LABELS = np.repeat(np.arange(10), 120)
DATA = Population(LABELS, 10, np.arange(1200))


def test_a_partitioner_is_given_the_samples_in_random_order_and_what_it_gives_out_are_their_positions():
    from flwr_datasets.partitioner import IidPartitioner

    shares = share_out(IidPartitioner(3), LABELS, seed=0)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(1200))
    # It cuts what it is given into runs; sorted labels would give a client few classes.
    assert all(len(np.unique(LABELS[share])) == 10 for share in shares)
    some = share_out(IidPartitioner(3), LABELS, seed=0, num_used=30)
    assert [len(share) for share in some] == [10, 10, 10]
    assert len(np.unique(np.concatenate(some))) == 30


def test_exactly_enough_is_enough():
    check_enough(12, 4, 3)
    with pytest.raises(ConfigurationError, match=r"^4 clients of at least partition.min_samples=3 need 12 samples"):
        check_enough(11, 4, 3)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True])
def test_what_is_no_whole_number_of_at_least_1_is_refused(value):
    with pytest.raises(ConfigurationError, match=f"^classes={value} must be a whole number of at least 1"):
        check_whole_number("classes", value)


@pytest.mark.parametrize("partition", [iid, dirichlet])
def test_values_that_cannot_work_are_refused(partition):
    with pytest.raises(ConfigurationError, match="num_clients=0 must be a whole number of at least 1"):
        partition(DATA, 0, seed=0)
    with pytest.raises(ConfigurationError, match="min_samples=0 must be a whole number of at least 1"):
        partition(DATA, 5, seed=0, min_samples=0)
    with pytest.raises(ConfigurationError, match=r"min_samples=2.5 must be a whole number"):
        partition(DATA, 5, seed=0, min_samples=2.5)
    with pytest.raises(ConfigurationError, match=r"1201 clients .*min_samples=1 need 1201 samples and there are 1200"):
        partition(DATA, 1201, seed=0, min_samples=1)


def test_what_draws_plots_is_loaded_only_when_it_is_used():
    code = (
        "import sys; from fedfuse.data.partitions.sharing import flower_partitioners; "
        "print(flower_partitioners().IidPartitioner.__name__, 'seaborn.relational' in sys.modules); "
        "import inspect, seaborn; inspect.getmodule(flower_partitioners); print('seaborn.relational' in sys.modules); "
        "print(seaborn.heatmap.__name__, 'seaborn.relational' in sys.modules); "
        "import matplotlib.pyplot as plt; print(plt.figure.__name__)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["IidPartitioner False", "False", "heatmap True", "figure"]
