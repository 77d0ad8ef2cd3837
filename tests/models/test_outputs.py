import torch

from fedfuse.models.outputs import Outputs


def test_logits_come_first_and_features_second():
    logits, features = Outputs(logits=torch.zeros(1, 10), features=torch.zeros(1, 32))
    assert (logits.shape, features.shape) == ((1, 10), (1, 32))
