"""Convolutions of images as matrix products, which the models of many clients compute quicker together on CUDA."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class UnfoldedConv2d(nn.Conv2d):
    """A convolution that lays the pixels under its kernel out as rows of a matrix, and multiplies it with its weights.

    It has neither groups nor dilation.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        high, wide = cast(tuple[int, int], self.padding)
        images = functional.pad(input, (wide, wide, high, high)).permute(0, 2, 3, 1).contiguous()
        # Moved two channels at a time, which is quicker.
        in_pairs = self.in_channels % 2 == 0
        if in_pairs:
            images = torch.view_as_complex(images.reshape(*images.shape[:3], self.in_channels // 2, 2))
        windows = images.unfold(1, self.kernel_size[0], self.stride[0]).unfold(2, self.kernel_size[1], self.stride[1])
        windows = windows.permute(0, 1, 2, 4, 5, 3).contiguous()
        if in_pairs:
            windows = torch.view_as_real(windows)
        rows = windows.reshape(len(input) * windows.shape[1] * windows.shape[2], weight[0].numel())
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
        maps = rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)
        # In the usual order again: a model may rely on it, for example with ``view``.
        return maps.reshape(*windows.shape[:3], len(weight)).permute(0, 3, 1, 2).contiguous()


def unfold_convolutions(module: nn.Module) -> nn.Module:
    """Let the convolutions of images in a module be matrix products; parameters and their names stay."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.dilation == (1, 1) and _pads_with_zeros(layer):
            layer.__class__ = UnfoldedConv2d
    return module


def _pads_with_zeros(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
