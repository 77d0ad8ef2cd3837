"""A small vision transformer (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929), without dropout."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.image import image_shape
from fedfuse.models.outputs import Outputs

PATCHES_A_SIDE = 8


class ViT(nn.Module):
    """Patches as tokens, blocks of attention, and the mean over all tokens, for grey or colour images.

    Parameters
    ----------
    input_shape : Sequence[int]
        ``[channels, height, width]`` of one image.
    num_classes : int
        How many logits there are.
    patch_size : int or None
        The side of a patch in pixels; the image is padded with zeros until patches fill it. None takes the smallest
        of at least 2 with which there are no more than 8 patches along the shorter side.
    dimension : int
        The width of a token.
    depth : int
        How many blocks there are.
    heads : int
        How many heads each attention has; they share the dimension out.
    embedding_size : int
        The width of the features. If it is not the dimension, a linear layer with ReLU makes it so.

    Raises
    ------
    ConfigurationError
        If the input is not an image, a number is less than 1, or the heads do not divide the dimension.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        patch_size: int | None = None,
        dimension: int = 64,
        depth: int = 4,
        heads: int = 4,
        embedding_size: int = 64,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape("ViT", input_shape)
        patch = max(2, -(-min(height, width) // PATCHES_A_SIDE)) if patch_size is None else patch_size
        if min(patch, dimension, depth, heads, embedding_size) < 1 or dimension % heads:
            raise ConfigurationError(
                f"A ViT with patch_size={patch}, dimension={dimension}, depth={depth}, heads={heads}, "
                f"embedding_size={embedding_size} is not possible; each must be at least 1, and heads must divide "
                "dimension."
            )
        rows, columns = -(-height // patch), -(-width // patch)
        self.embedding_size = embedding_size
        self.to_tokens = nn.Sequential(
            nn.ZeroPad2d((0, columns * patch - width, 0, rows * patch - height)),
            nn.Conv2d(channels, dimension, kernel_size=patch, stride=patch),
            nn.Flatten(start_dim=2),
        )
        self.positions = nn.Parameter(0.02 * torch.randn(rows * columns, dimension))
        self.blocks = nn.Sequential(*(Block(dimension, heads) for _ in range(depth)), nn.LayerNorm(dimension))
        self.embed = (
            nn.Identity()
            if embedding_size == dimension
            else nn.Sequential(nn.Linear(dimension, embedding_size), nn.ReLU())
        )
        self.head = nn.Linear(embedding_size, num_classes)

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of images ``[batch, channels, height, width]``."""
        tokens = self.to_tokens(inputs).transpose(1, 2) + self.positions
        features = self.embed(self.blocks(tokens).mean(dim=1))
        return Outputs(self.head(features), features)


class Block(nn.Module):
    """Attention between the tokens, then two layers on each token, both added to what came in."""

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dimension), Attention(dimension, heads))
        self.layers = nn.Sequential(
            nn.LayerNorm(dimension),
            nn.Linear(dimension, 2 * dimension),
            nn.GELU(),
            nn.Linear(2 * dimension, dimension),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the next tokens of tokens ``[batch, tokens, dimension]``."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.layers(tokens)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention with several heads, written out so that many models can be run at once."""

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(dimension, 3 * dimension)
        self.project = nn.Linear(dimension, dimension)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens ``[batch, tokens, dimension]`` by how well their queries and keys agree."""
        split = self.queries_keys_values(tokens).unflatten(2, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each [batch, heads, tokens, dimension / heads]
        scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
        mixed = torch.softmax(scores, dim=-1) @ values
        return self.project(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Say the number of heads, which no shape of a parameter tells."""
        return f"heads={self.heads}"
