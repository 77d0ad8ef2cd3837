from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import describe
from fedfuse.models.vit import Attention, Block, ViT


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    patches, positions = 1 * 4 * 4 * 64 + 64, 7 * 7 * 64
    attention = 2 * 64 + (64 * 192 + 192) + (64 * 64 + 64)
    layers = 2 * 64 + (64 * 128 + 128) + (128 * 64 + 64)
    expected = patches + positions + 4 * (attention + layers) + 2 * 64 + (64 * 10 + 10)
    assert num_parameters(ViT((1, 28, 28), 10)) == expected == 138_890


@pytest.mark.parametrize(
    ("shape", "patch", "tokens"),
    [
        ((1, 8, 8), 2, 16),
        ((1, 16, 16), 2, 64),
        ((1, 28, 28), 4, 49),
        ((3, 32, 32), 4, 64),
        ((3, 96, 96), 12, 64),
        ((1, 30, 17), 3, 60),
        ((1, 1, 1), 2, 1),
    ],
)
def test_patches_suit_the_image(shape, patch, tokens):
    model = ViT(shape, 10, depth=1)
    assert model.to_tokens[1].kernel_size == (patch, patch)
    assert model.positions.shape == (tokens, 64)
    assert model.to_tokens(torch.zeros(2, *shape)).shape == (2, 64, tokens)


def test_every_pixel_counts_where_patches_do_not_divide_the_image():
    model = ViT((1, 9, 10), 10, patch_size=4, depth=1)
    image = torch.randn(1, 1, 9, 10, requires_grad=True)
    torch.autograd.backward(model(image).logits[0, 0])
    assert (image.grad != 0).all()


def test_attention_is_that_of_torch():
    attention = Attention(12, heads=3)
    tokens = torch.randn(2, 5, 12)
    queries, keys, values = (
        part.reshape(2, 5, 3, 4).transpose(1, 2) for part in attention.queries_keys_values(tokens).chunk(3, dim=2)
    )
    mixed = functional.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(attention(tokens), attention.project(mixed.transpose(1, 2).reshape(2, 5, 12)))


def test_a_block_is_that_of_torch_with_the_norms_first():
    block = Block(8, heads=2)
    torch_block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
    norm, attention = block.attention
    torch_block.self_attn.in_proj_weight, torch_block.self_attn.in_proj_bias = (
        attention.queries_keys_values.parameters()
    )
    torch_block.self_attn.out_proj = attention.project
    torch_block.norm1 = norm
    torch_block.norm2, torch_block.linear1, _, torch_block.linear2 = block.layers
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(block(tokens), torch_block(tokens))


def test_features_are_the_mean_over_all_tokens():
    model = ViT((1, 8, 8), 10)
    images = torch.randn(2, 1, 8, 8)
    tokens = model.blocks(model.to_tokens(images).transpose(1, 2) + model.positions)
    assert tokens.shape == (2, 16, 64)
    torch.testing.assert_close(model(images).features, tokens.mean(1))
    assert ViT((1, 8, 8), 10, embedding_size=5)(images).features.shape == (2, 5)


def test_another_number_of_heads_is_another_architecture():
    two, four = (describe("vit", partial(ViT, (1, 8, 8), 10, heads=heads), (1, 8, 8)) for heads in (2, 4))
    assert two.shapes == four.shapes
    assert two.signature != four.signature


@pytest.mark.parametrize("numbers", [{"heads": 5}, {"depth": 0}, {"patch_size": 0}, {"embedding_size": 0}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ConfigurationError, match="is not possible; each must be at least 1, and heads must divide"):
        ViT((1, 8, 8), 10, **numbers)


def test_what_is_no_image_is_refused():
    with pytest.raises(ConfigurationError, match=r"A ViT needs images .* is \[9, 128\]"):
        ViT((9, 128), 6)
