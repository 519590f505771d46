"""Low-rank methods act on queries and values of the fused projection, whose output is query, key, value in a row."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from voxelsam.nn.seam import EncoderAdaptation
from voxelsam.nn.vit import SamEncoder

Tokens = Float[Tensor, "frames height width channels"]
Projected = Float[Tensor, "frames height width three_channels"]


@runtime_checkable
class Foldable(Protocol):
    """An encoder adaptation that can put its linear part into the weights of the encoder."""

    def folded(self, encoder: SamEncoder) -> EncoderAdaptation:
        """Adds the linear part to the weights of ``encoder``, in place; returns what is left to do at the points."""


def increase(qkv: Projected, query: Tokens, value: Tokens) -> Projected:
    """The fused projection with increments on its query and value thirds."""
    q, k, v = qkv.chunk(3, dim=-1)
    return torch.cat((q + query, k, v + value), dim=-1)


@torch.no_grad()
def fold(
    encoder: SamEncoder,
    block: int,
    query: Float[Tensor, "channels channels"],
    value: Float[Tensor, "channels channels"],
) -> None:
    """Adds the same increments, given as matrices on column vectors, to the weights of a block, in place."""
    q, _, v = encoder.get_parameter(f"blocks.{block}.attn.qkv.weight").chunk(3, dim=0)
    q += query.to(q)
    v += value.to(v)
