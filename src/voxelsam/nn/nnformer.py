"""nnFormer (arXiv 2109.03201): local-volume attention in a U, skip attention in place of concatenation.

Written from the paper (section 3) with the sizes of its published code. Where the two differ in the position index of
a window (the code gives different offsets one index) this is the paper's; tokens that only fill up the last windows
are never attended to. There is no stochastic depth and no deep supervision.

Tokens are ``batch depth height width channels``. Two dimensions are one slice: along depth every kernel, stride and
window is 1.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

Map = Float[Tensor, "batch channels depth height width"]
Tokens = Float[Tensor, "batch depth height width channels"]
Three = tuple[int, int, int]


@dataclass(frozen=True)
class Sizes:
    """Of an nnFormer; the defaults are those of the paper for abdominal CT."""

    width: int = 192
    """Channels of the first stage; each further one doubles them."""
    heads: tuple[int, ...] = (6, 12, 24, 48)
    """Attention heads of the stages."""
    windows: tuple[int, ...] = (4, 4, 8, 4)
    """Tokens per side of an attention window in the stages."""
    patch: Three = (2, 4, 4)
    """Voxels per token along depth, height and width; even numbers along the last two."""
    flat: bool = False
    """Two dimensions: nothing reaches along depth."""

    def along(self, size: int) -> Three:
        """A kernel, stride or window of this size on every axis that there is."""
        return (1 if self.flat else size), size, size


class WindowAttention(nn.Module):
    """Attention in windows with relative positions; the windows may be moved by half their size.

    Args:
        dim: Channels of the tokens.
        heads: Attention heads; dim is a multiple.
        window: Most tokens along each axis of a window; an axis with fewer is one window.
        shifted: Whether windows lie half a window further.
        crossed: Whether queries come from other tokens than keys and values, and without a projection.
    """

    def __init__(self, dim: int, heads: int, window: Three, *, shifted: bool, crossed: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.project = nn.Linear(dim, 2 * dim if crossed else 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.positions = nn.Parameter(torch.empty(heads, *(2 * side - 1 for side in window)))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tokens, asking: Tokens | None = None) -> Tokens:
        """What the tokens see in their windows.

        Args:
            x: Keys and values; queries too where nothing else asks.
            asking: Queries, where they are not of x.
        """
        sides = tuple(x.shape[1:4])
        window = tuple(min(most, side) for most, side in zip(self.window, sides, strict=True))
        shift = tuple(
            most // 2 if self.shifted and side > most else 0 for most, side in zip(self.window, sides, strict=True)
        )
        projected: Tensor = self.project(x)
        parts = projected.chunk(3, -1) if asking is None else (asking.to(projected.dtype), *projected.chunk(2, -1))
        queries, keys, values = (
            rearrange(_cut(part, window, shift), "b n t (heads c) -> b n heads t c", heads=self.heads) for part in parts
        )
        bias = self._bias(window).to(queries.dtype)[None]
        foreign = _foreign(sides, window, shift, x.device)
        if foreign is not None:
            bias = bias.masked_fill(foreign[:, None], -torch.inf)
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias[None])
        result: Tensor = self.out(_joined(rearrange(seen, "b n heads t c -> b n t (heads c)"), sides, window, shift))
        return result

    def _bias(self, window: Sequence[int]) -> Float[Tensor, "heads t t"]:
        """What relative positions add, for every query (row) and key of a window."""
        device = self.positions.device
        offsets = []
        for side, most in zip(window, self.window, strict=True):
            place = torch.arange(side, device=device)
            offsets.append(place[:, None] - place + most - 1)
        k, j, i = offsets
        found = self.positions[:, k[:, None, None, :, None, None], j[:, None, None, :, None], i[:, None, None, :]]
        return rearrange(found, "heads k j i z y x -> heads (k j i) (z y x)")


class Block(nn.Module):
    """Attention and an MLP, each after a norm and beside the stream.

    Args:
        dim: Channels of the tokens.
        heads: Attention heads.
        window: Tokens along each axis of a window.
        shifted: Whether windows lie half a window further.
        crossed: Skip attention: queries from below, keys and values from the encoder.
    """

    def __init__(self, dim: int, heads: int, window: Three, *, shifted: bool = False, crossed: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window, shifted=shifted, crossed=crossed)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tokens, below: Tokens | None = None) -> Tokens:
        """Tokens that have seen their windows.

        Args:
            x: In skip attention those of the encoder.
            below: Tokens of the stage below, which ask and are added too.
        """
        if below is None:
            x = x + self.attention(self.norm1(x))
        else:
            x = x + below + self.attention(self.norm1(x), self.norm1(below))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class Resized(nn.Module):
    """A norm over the channels, then a convolution that halves or doubles the sides.

    Args:
        dim: Channels of the tokens.
        convolution: From ``dim`` channels.
        before: What happens to the tokens first.
    """

    def __init__(self, dim: int, convolution: nn.Module, before: nn.Module) -> None:
        super().__init__()
        self.before, self.norm, self.convolution = before, nn.LayerNorm(dim), convolution

    def forward(self, x: Tokens) -> Tokens:
        """Fewer or more tokens."""
        return _tokens(self.convolution(_map(self.norm(self.before(x)))))


class Embedding(nn.Module):
    """Four convolutions of kernel 3 from voxels to tokens.

    Args:
        channels: Of the image.
        sizes: Of the network.
    """

    def __init__(self, channels: int, sizes: Sizes) -> None:
        super().__init__()
        half, full = sizes.width // 2, sizes.width
        deep = 1 if sizes.flat else sizes.patch[0]
        first = (deep, sizes.patch[1] // 2, sizes.patch[2] // 2)
        steps = ((channels, half, first), (half, half, (1, 1, 1)), (half, full, (1, 2, 2)), (full, full, (1, 1, 1)))
        kernel, padding = sizes.along(3), (0 if sizes.flat else 1, 1, 1)
        self.convolutions = nn.ModuleList(nn.Conv3d(a, b, kernel, stride, padding) for a, b, stride in steps)
        self.norms = nn.ModuleList(nn.LayerNorm(b) for _, b, _ in steps)

    def forward(self, images: Map) -> Tokens:
        """Tokens, one per patch."""
        *convolutions, last = self.convolutions
        *norms, norm = self.norms
        x = images
        for convolution, one in zip(convolutions, norms, strict=True):
            x = _map(one(_tokens(F.gelu(convolution(x)))))
        tokens: Tensor = norm(_tokens(last(x)))
        return tokens


class NnFormer(nn.Module):
    """Four stages down, three up; each of two blocks, the second with shifted windows.

    Args:
        channels: Of the image.
        classes: Of the result.
        sizes: Of the network.
    """

    def __init__(self, channels: int, classes: int, sizes: Sizes) -> None:
        super().__init__()
        dims = [sizes.width * 2**stage for stage in range(len(sizes.heads))]
        windows = [sizes.along(window) for window in sizes.windows]
        two, three, padding = sizes.along(2), sizes.along(3), (0 if sizes.flat else 1, 1, 1)
        self.flat = sizes.flat
        self.embedding = Embedding(channels, sizes)

        def block(stage: int, **kind: bool) -> Block:
            return Block(dims[stage], sizes.heads[stage], windows[stage], **kind)

        stages = range(len(dims))
        self.down = nn.ModuleList(nn.Sequential(block(stage), block(stage, shifted=True)) for stage in stages)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.shrink = nn.ModuleList(
            Resized(dim, nn.Conv3d(dim, 2 * dim, three, two, padding), nn.GELU()) for dim in dims[:-1]
        )
        self.grow = nn.ModuleList(
            Resized(2 * dim, nn.ConvTranspose3d(2 * dim, dim, two, two), nn.Identity()) for dim in dims[:-1]
        )
        self.skips = nn.ModuleList(block(stage, crossed=True) for stage in stages[:-1])
        self.up = nn.ModuleList(block(stage, shifted=True) for stage in stages[:-1])
        patch = (1, *sizes.patch[1:]) if sizes.flat else sizes.patch
        self.out = nn.ConvTranspose3d(sizes.width, classes, patch, patch)

    def forward(self, images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch classes *sides"]:
        """Logits.

        Args:
            images: Sides (depth, height, width; height, width in two dimensions) are multiples of eight patches.
        """
        x = self.embedding(images[:, :, None] if self.flat else images)
        beside = []
        for stage, (blocks, norm) in enumerate(zip(self.down, self.norms, strict=True)):
            x = blocks(x)
            beside.append(norm(x))
            if stage < len(self.shrink):
                x = self.shrink[stage](x)
        x = beside.pop()
        for stage in reversed(range(len(beside))):
            x = self.up[stage](self.skips[stage](beside[stage], self.grow[stage](x)))
        logits: Tensor = self.out(_map(x))
        return logits[:, :, 0] if self.flat else logits


def _tokens(x: Map) -> Tokens:
    return x.movedim(1, -1)


def _map(x: Tokens) -> Map:
    return x.movedim(-1, 1)


def _cut(x: Tokens, window: Sequence[int], shift: Sequence[int]) -> Float[Tensor, "batch windows tokens channels"]:
    """Windows, filled up with zeros behind the last token of each axis."""
    missing = [amount for side, size in zip(x.shape[1:4], window, strict=True) for amount in (-side % size, 0)][::-1]
    x = torch.roll(F.pad(x, (0, 0, *missing)), [-step for step in shift], (1, 2, 3))
    d, h, w = window
    return rearrange(x, "b (k d) (j h) (i w) c -> b (k j i) (d h w) c", d=d, h=h, w=w)


def _joined(
    x: Float[Tensor, "batch windows tokens channels"], sides: Sequence[int], window: Sequence[int], shift: Sequence[int]
) -> Tokens:
    """The inverse of ``_cut``."""
    k, j, _ = (-(-side // size) for side, size in zip(sides, window, strict=True))
    d, h, w = window
    whole = rearrange(x, "b (k j i) (d h w) c -> b (k d) (j h) (i w) c", k=k, j=j, d=d, h=h, w=w)
    return torch.roll(whole, list(shift), (1, 2, 3))[:, : sides[0], : sides[1], : sides[2]]


def _foreign(
    sides: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device
) -> Bool[Tensor, "windows tokens tokens"] | None:
    """Which pairs of tokens share a window but not a place: across the edge of the image, or filling; None if none."""
    if not any(shift) and all(side % size == 0 for side, size in zip(sides, window, strict=True)):
        return None
    whole = [-(-side // size) * size for side, size in zip(sides, window, strict=True)]
    regions = torch.zeros((1, *whole, 1), device=device)
    cuts = []
    for side, step, full in zip(sides, shift, whole, strict=True):
        edges = sorted({0, side - step, full - step, full})
        cuts.append([slice(a, b) for a, b in itertools.pairwise(edges)])
    for number, (k, j, i) in enumerate(itertools.product(*cuts)):
        regions[:, k, j, i] = number
    regions = _cut(regions, window, [0, 0, 0])[0, :, :, 0]
    return regions[:, :, None] != regions[:, None]
