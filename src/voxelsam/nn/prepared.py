"""Networks made ready for prediction: modules are replaced by ones that compute the same faster, without gradients.

Linear layers become products (``voxelsam.nn.products``), and sums with the residual stream are made in place. On
processors a branch that a method leaves as it is works on few tokens at a time, from the norm to the sum, and attention
on few frames or on few rows of windows. What these need in between has one place in memory, which they use in turn: so
the residual stream is nearly all that is held, and little memory is asked of the system and given back.

In half precision (bfloat16, float16) linear layers, convolutions and attention compute in half, from weights that were
cast once, and give half, and so do norms, which stand at the heads of branches. The residual stream, what is inside
norms, and the statistics of soft-max stay in single precision. So every module takes numbers of either kind.

What is made ready are the blocks of SAM's encoder and what a method does in them. Patch embedding, neck and decoder do
3 % of the work, but roundings in them meet the result undiminished: they stay in single precision, and the decoder has
a preparation of its own (``voxelsam.nn.prepared_decoder``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from voxelsam.nn.layers import Mlp, Plus
from voxelsam.nn.products import Product
from voxelsam.nn.seam import EncoderAdaptation, Projected, Stack, Tokens
from voxelsam.nn.vit import Attention, Block, BlockAttention

Some = Float[Tensor, "n channels"]
Place = Float[Tensor, "n rows"] | None
"""Where a product writes to; None where it makes a new place each time."""

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
        if not _in_parts(x):
            y: Tensor = self.lin2(self.lin1(x))
            return y
        hidden = _room(self.lin1, x)

        def of(part: Some, place: Place) -> Some:
            return self.lin2.at(self.lin1.at(part, _first(hidden, part)), place)

        tokens = x.flatten(0, -2)
        return _made(of, tokens, torch.empty_like(tokens, dtype=self.lin2.gives)).view(x.shape)

    def add_to(self, stream: Tokens, norm: nn.Module) -> None:
        """Adds what it makes of the normed residual stream, in place and a part at a time.

        Args:
            stream: On a processor, without gaps in memory.
            norm: Before this MLP; gives the numbers that this one takes.
        """
        hidden, place = _room(self.lin1, stream), _room(self.lin2, stream)
        for (part,) in _tiles(WIDE, stream):
            _add(part, self.lin2.at(self.lin1.at(norm(part), _first(hidden, part)), _first(place, part)))


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
        _add(x, more)
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
        for name, layer in (("qkv", attention.qkv), ("proj", attention.proj)):
            self.add_module(name, arithmetic.linear(layer))
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

    def product(self, name: str) -> Product:
        """``qkv`` or ``proj``."""
        return cast("Product", self.get_submodule(name))

    def add_to(
        self,
        stream: Tokens,
        project: Callable[[Some, Place], Float[Tensor, "n three_channels"]],
        window: int,
        filling: Float[Tensor, " three_channels"] | None,
    ) -> None:
        """Adds what it makes of the residual stream, in place and some frames, or rows of windows, at a time.

        Args:
            stream: On a processor, without gaps in memory.
            project: Makes queries, keys and values of some tokens, in the place of ``self.qkv`` if it has one.
            window: See ``Attention``.
            filling: See ``Attention``.
        """
        views, into, out = list(_views(stream, window)), self.product("qkv"), self.product("proj")
        tokens, channels = views[0].shape[:-1].numel(), stream.shape[-1]
        room, place = into.room(tokens), _room(out, views[0])
        if room is None and tokens > WIDE:
            room = stream.new_empty(tokens, 3 * channels, dtype=into.gives)
        for view in views:
            qkv = _made(project, view.flatten(0, -2), room).view(*view.shape[:-1], 3 * channels)
            seen = self.seen(qkv, window, filling, resample=False)
            for part, what in _tiles(WIDE, view, seen):
                _add(part, out.at(what, _first(place, part)))


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
        x = self._attended(block, adaptation.before_attention(block, x, stack), stack, adaptation)
        x = adaptation.before_mlp(block, x, stack)
        mlp = self.get_submodule("mlp")
        if _in_parts(x) and isinstance(mlp, ReadyMlp) and _leaves("mlp", adaptation):
            mlp.add_to(x, self.norm2)
            return x
        stream: Tokens = self.plus(x, adaptation.mlp(block, mlp, self.norm2(x), stack))
        return stream

    def _attended(self, block: int, x: Tokens, stack: Stack, adaptation: EncoderAdaptation) -> Tokens:
        """The residual stream after attention."""
        attention, attend = self.get_submodule("attn"), BlockAttention(self, block, adaptation)
        if not (_in_parts(x) and isinstance(attention, ReadyAttention) and _leaves("attention", adaptation)):
            stream: Tokens = self.plus(x, adaptation.attention(block, attend, self.norm1(x), stack))
            return stream
        product = attention.product("qkv")

        def project(tokens: Some, place: Place) -> Float[Tensor, "n three_channels"]:
            normed = self.norm1(tokens)
            qkv = product.at(normed, place)
            given = qkv[None, None]
            changed = adaptation.qkv(block, given, normed[None, None])
            return qkv if changed is given else changed[0, 0]

        filling = attend.filling(x, x.shape[1:3], self.window)
        attention.add_to(x, project, self.window, filling)
        return x


def _add(x: Float[Tensor, "*tokens channels"], more: Float[Tensor, "*tokens channels"]) -> None:
    """The sum in place of the first."""
    for stream, some in _tiles(NARROW, x, more):
        stream.add_(some)


def _leaves(point: str, adaptation: EncoderAdaptation) -> bool:
    """Whether a method does nothing at a point of the seam."""
    return getattr(type(adaptation), point) is getattr(EncoderAdaptation, point)


def _in_parts(x: Float[Tensor, "*tokens channels"]) -> bool:
    """Whether work is done in parts: graphics cards and compilers want it whole, in large pieces."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and x.is_contiguous()


def _room(product: Product, x: Float[Tensor, "*tokens channels"]) -> Place:
    """A place for what a product makes of one tile of the tokens."""
    return product.room(_even(x.shape[:-1].numel(), WIDE))


def _first(room: Place, x: Some) -> Place:
    """The place of so many tokens."""
    return None if room is None else room[: len(x)]


def _made(function: Callable[[Some, Place], Tensor], x: Some, room: Place) -> Float[Tensor, "n rows"]:
    """What a function makes of tokens, tile by tile; there is room where there are several tiles."""
    if room is None:
        return function(x, None)
    for part, place in _tiles(WIDE, x, room[: len(x)]):
        made = function(part, place)
        if made is not place:
            place.copy_(made)
    return room[: len(x)]


def _even(number: int, most: int) -> int:
    """The size of pieces that are nearly equal, and as few as can be of at most so many."""
    return max(1, -(-number // max(1, -(-number // most))))


def _views(x: Tokens, window: int) -> Iterator[Tokens]:
    """Some frames at a time, or some rows of windows of one, of about as many tokens as are taken at a time."""
    frames, height, width, _ = x.shape
    if window and height * width > WIDE:
        for frame in torch.split(x, 1):
            yield from torch.split(frame, window * max(1, WIDE // (window * width)), dim=1)
    else:
        yield from torch.split(x, _even(frames, max(1, WIDE // (height * width))))


def _tiles(tokens: int, *several: Float[Tensor, "*tokens channels"]) -> Iterator[tuple[Tensor, ...]]:
    """So many tokens at a time, or all, of tensors of as many tokens; the first may be changed in place."""
    if _in_parts(several[0]):
        size = _even(several[0].shape[:-1].numel(), tokens)
        yield from zip(*(torch.split(x.flatten(0, -2), size) for x in several), strict=True)
    else:
        yield several
