import pytest
import torch

from fedfuse.models.cnn import CNN
from fedfuse.models.cnn_1d import CNN1d
from fedfuse.models.mlp import MLP
from fedfuse.models.small import small


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 8, 8), CNN),
        ((3, 32, 32), CNN),
        ((1, 8, 7), MLP),
        ((9, 128), CNN1d),
        ((30,), MLP),
        ((2, 4, 8, 8), MLP),
    ],
)
def test_the_model_suits_the_shape(shape, kind):
    model = small(shape, 5, embedding_size=7)
    assert type(model) is kind
    outputs = model(torch.zeros(2, *shape))
    assert (outputs.logits.shape, outputs.features.shape) == ((2, 5), (2, 7))
    assert small(shape, 5).embedding_size == 64


def test_images_get_sixteen_and_thirty_two_channels():
    kernels, _, second, *_ = small((1, 8, 8), 10).parameters()
    assert (kernels.shape[0], second.shape[0]) == (16, 32)
