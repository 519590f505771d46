"""An MLP whose weights are not trained, in the graph of what is: two products with exact GELU between them.

The work is done on few tokens at a time where that keeps it in the cache. For the backward pass the tokens between the
products are kept as they come before GELU, and nothing else.

Convention: tokens are rows; ``lin1`` and ``lin2`` are weights of ``nn.Linear``, ``out in``.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Rows = Float[Tensor, "tokens channels"]
Hidden = Float[Tensor, "tokens hidden"]
Weight = Float[Tensor, "out in"]
Bias = Float[Tensor, " out"]

AT_A_TIME = 1024
"""Tokens at a time on processors; other devices take all at once."""


class FrozenMlp(torch.autograd.Function):
    """``lin2(GELU(lin1(x)))``, with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: Rows, weight1: Weight, bias1: Bias, weight2: Weight, bias2: Bias) -> Rows:
        """As many channels as ``weight2`` gives."""
        hidden, out = x.new_empty(len(x), len(weight1)), x.new_empty(len(x), len(weight2))
        step = _at_a_time(x)
        active = torch.empty_like(hidden[:step])
        for part, kept, made in zip(*(torch.split(tensor, step) for tensor in (x, hidden, out)), strict=True):
            torch.addmm(bias1, part, weight1.T, out=kept)
            torch.ops.aten.gelu.out(kept, out=active[: len(kept)])
            torch.addmm(bias2, active[: len(kept)], weight2.T, out=made)
        ctx.save_for_backward(hidden, weight1, weight2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_out: Rows) -> tuple[Rows, None, None, None, None]:
        """The gradient of the tokens."""
        hidden, weight1, weight2 = ctx.saved_tensors
        by_x = by_out.new_empty(len(by_out), weight1.shape[1])
        step = _at_a_time(by_out)
        by_hidden = torch.empty_like(hidden[:step])
        for part, kept, made in zip(*(torch.split(tensor, step) for tensor in (by_out, hidden, by_x)), strict=True):
            share = torch.mm(part, weight2, out=by_hidden[: len(part)])
            torch.ops.aten.gelu_backward.grad_input(share, kept, grad_input=share)
            torch.mm(share, weight1, out=made)
        return by_x, None, None, None, None


def _at_a_time(x: Rows) -> int:
    """Tokens at a time; at least one."""
    return max(1, min(len(x), AT_A_TIME) if x.device.type == "cpu" else len(x))
