"""Networks made ready for prediction: modules are replaced by ones that compute the same faster, without gradients.

Linear layers become products (``voxelsam.nn.products``), sums with the residual stream are made in place, and on
processors work that is done token by token is done on few tokens at a time, which stay in the cache. Attention is the
one of ``voxelsam.nn.vit``, with other projections, on few frames at a time.

In half precision (bfloat16, float16) linear layers, convolutions and attention compute in half, from weights that were
cast once, and give half, and so do norms, which stand at the heads of branches. The residual stream, what is inside
norms, and the statistics of soft-max stay in single precision. So every module takes numbers of either kind.

What is made ready are the blocks of SAM's encoder and what a method does in them. Patch embedding, neck and decoder do
3 % of the work, but roundings in them meet the result undiminished: they stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from voxelsam.nn.layers import Mlp, Plus
from voxelsam.nn.products import Product
from voxelsam.nn.seam import EncoderAdaptation, Projected, Stack, Tokens
from voxelsam.nn.vit import Attention, Block, BlockAttention

WIDE, NARROW = 1024, 256
"""Tokens at a time: in an MLP and in attention, whose products are quicker on many; in norms and sums."""


@dataclass(frozen=True)
class Arithmetic:
    """In what a prepared network computes."""

    numbers: torch.dtype
    """Of linear layers, convolutions and attention."""
    product: type[Product]
    """Of linear layers."""

    @property
    def half(self) -> bool:
        """Whether these are numbers of two bytes."""
        return self.numbers != torch.float32

    def linear(self, layer: nn.Linear, *, gelu: bool = False) -> Product:
        """A linear layer, with exact GELU behind it where wanted."""
        bias = None if layer.bias is None else layer.bias.detach().to(self.numbers)
        return self.product(layer.weight.detach().to(self.numbers), bias, gelu=gelu)


def ready(module: nn.Module, arithmetic: Arithmetic) -> nn.Module:
    """The same function for prediction; ``module`` is used up, its tensors are not changed.

    Args:
        module: blocks of SAM's encoder, or what a method does in them, in evaluation mode.
        arithmetic: in what it shall compute.
    """
    if isinstance(module, nn.Linear):
        return arithmetic.linear(module)
    if isinstance(module, Mlp) and isinstance(module.act, nn.GELU):
        return ReadyMlp(module, arithmetic)
    if isinstance(module, nn.LayerNorm) and arithmetic.half:
        return HalfNorm(module, arithmetic.numbers)
    if isinstance(module, _ConvNd) and arithmetic.half:
        return HalfConvolution(module, arithmetic.numbers)
    if isinstance(module, Plus):
        return PlusInPlace()
    if isinstance(module, Attention):
        return ReadyAttention(module, arithmetic)
    if isinstance(module, Block):
        return ReadyBlock(module, arithmetic)
    for name, part in module.named_children():
        module.add_module(name, ready(part, arithmetic))
    return module


class ReadyMlp(nn.Module):
    """SAM's MLP, with GELU behind its first product.

    Args:
        mlp: the one of a block.
        arithmetic: in what it shall compute.
    """

    def __init__(self, mlp: Mlp, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.lin1 = arithmetic.linear(mlp.lin1, gelu=True)
        self.lin2 = arithmetic.linear(mlp.lin2)

    def forward(self, x: Float[Tensor, "*tokens channels"]) -> Float[Tensor, "*tokens channels"]:
        """As many channels as came in."""
        parts = [self.lin2(self.lin1(part)) for (part,) in _tiles(WIDE, x)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(x.shape)


class HalfNorm(nn.Module):
    """A layer norm that computes in single precision and gives half.

    Args:
        norm: over the channels.
        numbers: the half precision.
    """

    def __init__(self, norm: nn.LayerNorm, numbers: torch.dtype) -> None:
        super().__init__()
        self.norm, self.numbers = norm, numbers

    @property
    def bias(self) -> Float[Tensor, " channels"]:
        """What it makes of a token of zeros."""
        return self.norm.bias

    def forward(self, x: Float[Tensor, "*tokens channels"]) -> Float[Tensor, "*tokens channels"]:
        """Mean 0 and variance 1 over channels, then scaled and shifted."""
        normed = torch.empty_like(x, dtype=self.numbers)
        for part, place in _tiles(NARROW, x, normed):
            place.copy_(self.norm(part.float()))
        return normed


class HalfConvolution(nn.Module):
    """A convolution that computes in half precision, whatever comes.

    Args:
        convolution: is used up.
        numbers: the half precision.
    """

    def __init__(self, convolution: _ConvNd, numbers: torch.dtype) -> None:
        super().__init__()
        self.convolution, self.numbers = convolution.to(numbers), numbers

    def forward(self, x: Float[Tensor, "*shape"]) -> Tensor:
        """The convolution's result."""
        y: Tensor = self.convolution(x.to(self.numbers))
        return y


class PlusInPlace(Plus):
    """The sum takes the place of the residual stream, which belongs to the blocks: see ``ReadyBlock``."""

    def forward(self, x: Tokens, more: Tokens) -> Tokens:
        """The stream, changed."""
        for stream, some in _tiles(NARROW, x, more):
            stream.add_(some)
        return x


class ReadyAttention(Attention):
    """Attention on few frames at a time, so that queries, keys and values in windows are held of these only.

    Args:
        attention: is used up.
        arithmetic: in what it shall compute.
    """

    def __init__(self, attention: Attention, arithmetic: Arithmetic) -> None:
        nn.Module.__init__(self)
        self.heads = attention.heads
        for name, part in attention.named_children():
            self.add_module(name, ready(part, arithmetic))
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(
        self,
        qkv: Projected,
        window: int = 0,
        filling: Float[Tensor, " three_channels"] | None = None,
        *,
        resample: bool,
        relative: bool = True,
    ) -> Tokens:
        """Attends within each window, see ``Attention``; frames do not see one another."""
        frames = max(1, WIDE // (qkv.shape[1] * qkv.shape[2]))
        if qkv.device.type != "cpu" or torch.compiler.is_compiling() or len(qkv) <= frames:
            return super().forward(qkv, window, filling, resample=resample, relative=relative)
        seen = qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)
        for begin in range(0, len(qkv), frames):
            some = slice(begin, begin + frames)
            seen[some] = super().forward(qkv[some], window, filling, resample=resample, relative=relative)
        return seen


class ReadyBlock(Block):
    """A block of SAM's encoder whose branches are added to the residual stream in place.

    Args:
        block: is used up.
        arithmetic: in what it shall compute.
    """

    def __init__(self, block: Block, arithmetic: Arithmetic) -> None:
        nn.Module.__init__(self)
        self.window = block.window
        for name, part in block.named_children():
            self.add_module(name, ready(part, arithmetic))
        self.plus = PlusInPlace()

    def forward(self, block: int, x: Tokens, stack: Stack, adaptation: EncoderAdaptation) -> Tokens:
        """The residual stream after this block, see ``Block``; the first one makes a stream from what was given."""
        if block == 0:
            x = x.clone(memory_format=torch.contiguous_format)
        x = adaptation.before_attention(block, x, stack)
        x = self.plus(x, adaptation.attention(block, BlockAttention(self, block, adaptation), self.norm1(x), stack))
        x = adaptation.before_mlp(block, x, stack)
        stream: Tokens = self.plus(x, adaptation.mlp(block, self.mlp, self.norm2(x), stack))
        return stream


def _tiles(tokens: int, *several: Float[Tensor, "*tokens channels"]) -> Iterator[tuple[Tensor, ...]]:
    """So many tokens at a time of tensors of the same shape, the first of which may be changed in place.

    Graphics cards and compilers get them whole: they want large pieces of work.
    """
    first = several[0]
    if first.device.type != "cpu" or torch.compiler.is_compiling() or not first.is_contiguous():
        yield several
    else:
        yield from zip(*(torch.split(x.flatten(0, -2), tokens) for x in several), strict=True)
