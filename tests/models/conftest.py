import pytest
import torch


@pytest.fixture(autouse=True)
def the_same_weights_every_time():
    """With unlucky ones all ReLUs are off, and there is nothing to see of a gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
