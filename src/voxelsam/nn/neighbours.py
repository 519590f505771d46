"""A convolution along the depth, as products of matrices on channels-last tokens.

Each slice is multiplied by the middle tap, and added to by its neighbours times the other two. So nothing is moved in
memory, and nothing is computed for the zeros beyond both ends.

Convention: tokens are ``batch depth positions channels`` without gaps in memory; a kernel is ``out in 3``, its tap t
meets the slice d + t - 1.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelsam.nn.layers import computed_in

Slices = Float[Tensor, "batch depth positions channels"]
Kernel = Float[Tensor, "out channels three"]
Taps = Float[Tensor, "three channels out"]


def along_depth(x: Slices, kernel: Kernel, bias: Float[Tensor, " out"]) -> Slices:
    """Every slice with both neighbours in its stack.

    Args:
        x: Tokens; as many channels as the kernel gives.
        kernel: Of three taps.
        bias: Added to every token.
    """
    dtype = computed_in(x)
    mixed: Tensor = _AlongDepth.apply(x.to(dtype).contiguous(), kernel.to(dtype), bias.to(dtype))  # type: ignore[no-untyped-call]
    return mixed


def _summed(x: Slices, taps: Taps, bias: Float[Tensor, " out"]) -> Slices:
    out = torch.empty_like(x)
    step = x.shape[2]
    for stack, mixed in zip(x.flatten(1, 2), out.flatten(1, 2), strict=True):
        torch.addmm(bias, stack, taps[1], out=mixed)
        mixed[step:].addmm_(stack[:-step], taps[0])
        mixed[:-step].addmm_(stack[step:], taps[2])
    return out


class _AlongDepth(torch.autograd.Function):
    """Keeps the tokens; the gradient is the same sum with the kernel turned around."""

    @staticmethod
    def forward(ctx: Any, x: Slices, kernel: Kernel, bias: Float[Tensor, " out"]) -> Slices:
        ctx.save_for_backward(x, kernel)
        return _summed(x, kernel.permute(2, 1, 0).contiguous(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_out: Slices) -> tuple[Slices, Kernel, Float[Tensor, " out"]]:
        x, kernel = ctx.saved_tensors
        by_out, step = by_out.contiguous(), x.shape[2]
        by_x = _summed(by_out, kernel.permute(2, 0, 1).flip(0), by_out.new_zeros(x.shape[-1]))
        by_taps = x.new_zeros(3, *kernel.shape[:2])
        for stack, mixed in zip(x.flatten(1, 2), by_out.flatten(1, 2).mT, strict=True):
            by_taps[0].addmm_(mixed[:, step:], stack[:-step])
            by_taps[1].addmm_(mixed, stack)
            by_taps[2].addmm_(mixed[:, :-step], stack[step:])
        return by_x, by_taps.permute(1, 2, 0), by_out.sum((0, 1, 2))
