"""The linear layers of an encoder's blocks, by name, for methods that add low-rank matrices to their weights.

``qkv`` is the fused projection, ``query`` and ``value`` are its first and last third, ``lin1`` and ``lin2`` are the
layers of the MLP.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from voxelsam.errors import ConfigError
from voxelsam.nn.layers import Mlp
from voxelsam.nn.seam import Tokens
from voxelsam.nn.vit import SamEncoder

Layer = Literal["qkv", "query", "value", "lin1", "lin2"]


def weight(encoder: SamEncoder, block: int, layer: Layer) -> Float[Tensor, "rows columns"]:
    """The weight of a layer; changing it in place changes the encoder."""
    if layer in ("lin1", "lin2"):
        return encoder.get_parameter(f"blocks.{block}.mlp.{layer}.weight")
    fused = encoder.get_parameter(f"blocks.{block}.attn.qkv.weight")
    thirds = dict(zip(("query", "key", "value"), fused.chunk(3), strict=True))
    return thirds.get(layer, fused)


def sizes(encoder: SamEncoder, layer: Layer) -> list[tuple[int, int]]:
    """Columns and rows of the layer's weight, which are what it takes and what it gives, for each block."""
    return [(shape[1], shape[0]) for shape in (weight(encoder, i, layer).shape for i in range(len(encoder.blocks)))]


@torch.no_grad()
def fold(encoder: SamEncoder, block: int, layer: Layer, increment: Float[Tensor, "rows columns"]) -> None:
    """Adds a matrix on column vectors to the layer's weight, in place."""
    own = weight(encoder, block, layer)
    own += increment.to(own)


def two_layers(mlp: Callable[[Tokens], Tokens]) -> Mlp:
    """The MLP of a block as what it is, so that something can be added between its layers.

    Raises:
        ConfigError: this encoder has other MLPs.
    """
    if not isinstance(mlp, Mlp):
        raise ConfigError(f"low-rank matrices in the MLP need SAM's MLP of two layers, but {type(mlp).__name__} came")
    return mlp
