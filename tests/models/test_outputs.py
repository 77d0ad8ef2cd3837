import torch

from fedfuse.models.outputs import Outputs


def test_logits_come_first_and_features_second_and_most_models_have_one_head():
    logits, features, fused_logits = Outputs(torch.zeros(1, 10), torch.zeros(1, 32))
    assert (logits.shape, features.shape) == ((1, 10), (1, 32))
    assert fused_logits is None
