"""The five points at which a method may act inside a frozen image encoder.

The encoder calls one ``EncoderAdaptation`` with the index of the block; the default of each point is "do nothing". In
a block the points come in this order, each exactly once::

    x = before_attention(x)                    on the residual stream
    x = x + attention(attend, norm1(x))        around attention; attend() passes through qkv()
    x = before_mlp(x)                          on the residual stream
    x = x + mlp(mlp, norm2(x))                 around the MLP

Convention: tokens are ``frames height width channels``; frames are batch × depth with depth varying fastest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.errors import InputError

Tokens = Float[Tensor, "frames height width channels"]
Projected = Float[Tensor, "frames height width three_channels"]
"""Queries, keys and values behind each other."""


@dataclass(frozen=True)
class Stack:
    """How frames are grouped: frames = batch × depth, depth varies fastest."""

    depth: int = 1
    """Slices per stack."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise InputError(f"a stack has at least one slice, but depth={self.depth} came")


SINGLE = Stack()
"""Every frame is a stack of its own."""


@dataclass(frozen=True)
class BlockSpec:
    """What a method may know about one block before it is built."""

    dim: int
    """Channels of the tokens."""
    heads: int
    """Attention heads; dim is a multiple."""
    grid: tuple[int, int]
    """Tokens along height and width."""
    window: int
    """Tokens per side of an attention window, 0 for global attention."""


@runtime_checkable
class Attend(Protocol):
    """The block's own frozen attention, bound so that it passes through the ``qkv`` point."""

    def __call__(self, x: Tokens, /, window: int | None = None) -> Tokens:
        """Attends over normed tokens.

        Args:
            x: Tokens after the block's first norm.
            window: None for the block's own windows. A number cuts x into windows of that many tokens per side, 0
                takes x whole; the relative-position tables are then resampled to those sequences, so that a method
                can attend over something else than the image, such as depth.
        """
        ...


class EncoderAdaptation(nn.Module):
    """Does nothing at all five points; a method overrides those it needs.

    Factors that are shared over blocks are ordinary attributes of the one object. Nothing is attached to the
    encoder, so its state dict stays that of the public checkpoint.
    """

    def before_attention(self, block: int, x: Tokens, stack: Stack) -> Tokens:
        """The residual stream before the first norm."""
        return x

    def qkv(self, block: int, qkv: Projected, x: Tokens) -> Projected:
        """Queries, keys and values (3 × dim channels, in that order) of the tokens that attention sees.

        In a windowed block both arguments have the windows along the first axis and include the zeros that fill the
        last windows, so a method that leaves zeros at zero changes nothing there.
        """
        return qkv

    def attention(self, block: int, attend: Attend, x: Tokens, stack: Stack) -> Tokens:
        """Wraps attention of the normed tokens; what is returned is added to the residual stream."""
        return attend(x)

    def before_mlp(self, block: int, x: Tokens, stack: Stack) -> Tokens:
        """The residual stream before the second norm."""
        return x

    def mlp(self, block: int, mlp: Callable[[Tokens], Tokens], x: Tokens, stack: Stack) -> Tokens:
        """Wraps the MLP of the normed tokens; what is returned is added to the residual stream."""
        return mlp(x)
