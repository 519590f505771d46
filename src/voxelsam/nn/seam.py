"""The points at which a method may act inside a frozen model: five in the image encoder, three in the decoder.

The encoder calls one ``EncoderAdaptation`` with the index of the block; the default of each point is "do nothing". In
a block the points come in this order, each exactly once::

    x = before_attention(x)                    on the residual stream
    x = x + attention(attend, norm1(x))        around attention; attend() passes through qkv()
    x = before_mlp(x)                          on the residual stream
    x = x + mlp(mlp, norm2(x))                 around the MLP

The decoder's two-way transformer calls a ``DecoderAdaptation`` in the same way, with the index of the layer::

    tokens = norm1(…self-attention…)
    tokens = norm2(tokens + from_image(attention of the tokens to the image))
    tokens = norm3(tokens + mlp(mlp, tokens))
    image  = norm4(to_image(image, attention of the image to the tokens))

Convention: tokens are ``frames height width channels``; frames are batch × depth with depth varying fastest. In the
decoder tokens are ``frames n channels``, and the image is ``frames pixels channels``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.errors import InputError
from voxelsam.nn.prompt_encoder import EncodedPrompts

Tokens = Float[Tensor, "frames height width channels"]
Projected = Float[Tensor, "frames height width three_channels"]
"""Queries, keys and values behind each other."""
Asking = Float[Tensor, "frames n channels"]
"""Tokens of the decoder: quality, masks, prompts."""
Pixels = Float[Tensor, "frames pixels channels"]
"""The image in the decoder, row by row."""

Meeting = Literal["never", "neighbours", "stack"]
"""How the slices of a stack meet in the image encoder: not at all · each with those beside it, by a rule that is the
same in a stack of any length (a convolution along the depth) · by a rule that was made for stacks as in training."""


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

    @property
    def blank(self) -> Float[Tensor, " channels"]:
        """What the block's first norm makes of a token of zeros."""
        ...

    def __call__(
        self,
        x: Tokens,
        /,
        window: int | None = None,
        *,
        filling: Float[Tensor, " channels"] | None = None,
        relative: bool = True,
        arrange: Callable[[Projected], Projected] | None = None,
    ) -> Tokens:
        """Attends over normed tokens.

        Attending twice over the same tensor projects its tokens once; it must not be changed in between.

        Args:
            x: Tokens after the block's first norm.
            window: None for the block's own windows. A number cuts x into windows of that many tokens per side, 0
                takes x whole; the relative-position tables are then resampled to those sequences, so that a method
                can attend over something else than the image, such as depth.
            filling: The token that fills windows reaching over the edge; None for zeros. ``blank`` gives what comes
                of filling before the norm.
            relative: Whether relative positions count.
            arrange: Puts the projected tokens into other sequences, which attention then is over; the result has
                their order. The same as arranging x, but nothing is projected again.
        """
        ...


class EncoderAdaptation(nn.Module):
    """Does nothing at all five points; a method overrides those it needs.

    Factors that are shared over blocks are ordinary attributes of the one object. Nothing is attached to the
    encoder, so its state dict stays that of the public checkpoint.
    """

    @property
    def meeting(self) -> Meeting:
        """How slices meet at these points, which tells prediction how a volume may be cut.

        A method that says nothing is taken to need stacks as in training, which is always right.
        """
        return "never" if type(self) is EncoderAdaptation else "stack"

    def before_attention(self, block: int, x: Tokens, stack: Stack) -> Tokens:
        """The residual stream before the first norm."""
        return x

    def qkv(self, block: int, qkv: Projected, x: Tokens) -> Projected:
        """Queries, keys and values (3 × dim channels, in that order) of the tokens that attention sees.

        Called with the tokens that ``attend`` was given and no windows: with whole frames, or in prediction with some
        tokens in a row, ``1 1 n channels``. Where windows reach over the edge, what fills them passes once more by
        itself, as a picture of one token: zeros, unless ``attention`` of the same method asks for another token. So
        each token is to be changed by itself, whatever stands beside it. ``qkv`` belongs to the method, which may
        change it in place.
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


@runtime_checkable
class Embeds(Protocol):
    """An image encoder whose frames do not see each other before its first block: stacks may share what is there."""

    def embed(self, images: Float[Tensor, "frames 3 y x"]) -> Tokens:
        """Tokens of the frames before the first block."""
        ...

    def blocks_of(
        self, tokens: Tokens, stack: Stack = SINGLE, adaptation: EncoderAdaptation | None = None
    ) -> Float[Tensor, "frames channels height width"]:
        """Features of embedded frames."""
        ...


class DecoderAdaptation(nn.Module):
    """Does nothing at all three points of each layer of the decoder; a method overrides those it needs.

    Every point is told the encoded prompts, so that a method can let them steer it.
    """

    def from_image(self, layer: int, seen: Asking, prompts: EncodedPrompts) -> Asking:
        """What the tokens saw in the image; what is returned is added to the tokens."""
        return seen

    def mlp(self, layer: int, mlp: Callable[[Asking], Asking], tokens: Asking, prompts: EncodedPrompts) -> Asking:
        """Wraps the MLP of the tokens; what is returned is added to them."""
        return mlp(tokens)

    def to_image(self, layer: int, image: Pixels, seen: Pixels, prompts: EncodedPrompts) -> Pixels:
        """The image, and what it saw in the tokens; returns their sum before the last norm."""
        return image + seen
