"""Low-rank methods act on queries and values of the fused projection, whose output is query, key, value in a row."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    """The fused projection with increments on its query and value thirds, which it is given up for."""
    if torch.compiler.is_compiling():
        q, k, v = qkv.chunk(3, dim=-1)
        return torch.cat((q + query, k, v + value), dim=-1)
    increased: Projected = _Increased.apply(qkv, query, value)  # type: ignore[no-untyped-call]
    return increased


class _Increased(torch.autograd.Function):
    """Adds in place; gradients are views of that of the sum, so that nothing is copied either way."""

    @staticmethod
    def forward(ctx: Any, qkv: Projected, query: Tokens, value: Tokens) -> Projected:
        q, _, v = qkv.chunk(3, dim=-1)
        q += query
        v += value
        ctx.mark_dirty(qkv)
        return qkv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_sum: Projected) -> tuple[Projected, Tokens, Tokens]:
        by_query, _, by_value = by_sum.chunk(3, dim=-1)
        return by_sum, by_query, by_value


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
