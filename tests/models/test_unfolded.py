import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fedfuse.models.unfolded import UnfoldedConv2d, unfold_convolutions

CONVOLUTIONS = {
    "padded": {"kernel_size": 3, "padding": 1},
    "valid": {"kernel_size": 5},
    "strided, no bias": {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    "oblong": {"kernel_size": (1, 4), "stride": (2, 1), "padding": (0, 2)},
    "point": {"kernel_size": 1},
}


def outputs_and_gradients(layer, parameters, inputs):
    """Run a layer with the parameters of several clients, and differentiate."""
    tensors = [tensor.clone().requires_grad_() for tensor in (inputs, *parameters.values())]
    own = dict(zip(parameters, tensors[1:], strict=True))
    outputs = torch.vmap(lambda one, x: functional_call(layer, one, (x,)))(own, tensors[0])
    return outputs, *torch.autograd.grad(outputs.sin().sum(), tensors)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_maps_and_gradients_are_those_of_the_convolution_itself(settings, channels):
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(channels, 6, **settings).double()
    unfolded = unfold_convolutions(copy.deepcopy(layer))
    assert type(unfolded) is UnfoldedConv2d
    parameters = {
        name: torch.randn(3, *tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in layer.named_parameters()
    }
    inputs = torch.randn(3, 2, channels, 9, 8, generator=generator, dtype=torch.float64)
    expected = outputs_and_gradients(layer, parameters, inputs)
    for tensor, other in zip(outputs_and_gradients(unfolded, parameters, inputs), expected, strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding="valid"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Linear(4, 4),
    ],
    ids=str,
)
def test_other_layers_stay_as_they_are(layer):
    before = type(layer)
    assert type(unfold_convolutions(nn.Sequential(layer))[0]) is before


def test_parameters_keep_their_names():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 3)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = unfold_convolutions(model).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
