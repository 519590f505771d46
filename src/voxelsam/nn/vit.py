"""SAM's image encoder: a plain vision transformer with attention windows (Kirillov et al. 2023, arXiv 2304.02643).

Convention: attribute names are Meta's parameter names. Inside, tokens are ``frames height width channels`` from the
patch embedding to the neck; windows exist inside attention only. Windows that reach over the edge are filled with
zeros after the first norm, unless a method asks for other tokens. What fills them takes part as one key
(``voxelsam.nn.positions.Beyond``); no other work is done for it.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from voxelsam.errors import InputError, WeightsError
from voxelsam.nn.attention import attend, resize_table
from voxelsam.nn.layers import LayerNorm2d, Mlp
from voxelsam.nn.positions import Beyond
from voxelsam.nn.seam import SINGLE, BlockSpec, EncoderAdaptation, Projected, Stack, Tokens

UNADAPTED = EncoderAdaptation()
"""What the encoder calls when no method is given."""


class PatchEmbed(nn.Module):
    """One token per square patch of pixels."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, images: Float[Tensor, "frames 3 y x"]) -> Tokens:
        """Tokens of the patches."""
        features: Tensor = self.proj(images)
        return rearrange(features, "frames channels h w -> frames h w channels").contiguous()


class Attention(nn.Module):
    """Multi-head attention of a grid of tokens with its frozen relative-position tables."""

    def __init__(self, dim: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, dim // heads))

    def forward(
        self,
        qkv: Projected,
        window: int = 0,
        filling: Float[Tensor, " three_channels"] | None = None,
        *,
        resample: bool,
        relative: bool = True,
    ) -> Tokens:
        """Attends within each window, or within each element of the first axis: ``self.proj`` of what is ``seen``."""
        out: Tensor = self.proj(self.seen(qkv, window, filling, resample=resample, relative=relative))
        return out

    def seen(
        self,
        qkv: Projected,
        window: int = 0,
        filling: Float[Tensor, " three_channels"] | None = None,
        *,
        resample: bool,
        relative: bool = True,
    ) -> Tokens:
        """What each token takes from its window, with the heads joined.

        Windows that reach over the edge are smaller; what fills them up is one more key. So there are up to four kinds
        of windows: whole ones, those at the right edge, those at the bottom, and the one in the corner.

        Args:
            qkv: The tokens after ``self.qkv``.
            window: Tokens per side of a window; 0 for none.
            filling: The filling token after ``self.qkv``; not needed where windows fit.
            resample: Whether tables made for another grid are stretched to this one; otherwise they are an error.
            relative: Whether relative positions count; False is the same as tables of zeros.
        """
        height, width = (window, window) if window else (qkv.shape[1], qkv.shape[2])
        rel_h: Tensor = self.rel_pos_h
        rel_w: Tensor = self.rel_pos_w
        if resample:
            rel_h, rel_w = resize_table(rel_h, 2 * height - 1), resize_table(rel_w, 2 * width - 1)
        if not relative:
            rel_h, rel_w = torch.zeros_like(rel_h), torch.zeros_like(rel_w)
        beyond = None if filling is None else Beyond(*self._shared(filling), (height, width))
        rows = [
            _joined([self._windows(part, rel_h, rel_w, beyond) for part in _whole_and_rest(row, 2, width)], 2)
            for row in _whole_and_rest(qkv, 1, height)
        ]
        return _joined(rows, 1)

    def _shared(self, filling: Float[Tensor, " three_channels"]) -> tuple[Tensor, Tensor]:
        """Key and value of the filling token, for each head."""
        _, key, value = rearrange(filling, "(three heads dim) -> three heads dim", three=3, heads=self.heads)
        return key, value

    def _windows(self, qkv: Projected, rel_h: Tensor, rel_w: Tensor, beyond: Beyond | None) -> Tokens:
        """Attention in windows of one kind: as large as the tables say, or cut off at the edge."""
        full = (rel_h.shape[0] + 1) // 2, (rel_w.shape[0] + 1) // 2
        h, w = grid = (min(full[0], qkv.shape[1]), min(full[1], qkv.shape[2]))
        q, k, v = rearrange(
            qkv,
            "frames (rows h) (columns w) (three heads dim) -> three (frames rows columns) heads (h w) dim",
            three=3,
            heads=self.heads,
            h=h,
            w=w,
        )
        return rearrange(
            attend(q, k, v, rel_h, rel_w, grid, beyond=None if grid == full else beyond),
            "(frames rows columns) heads (h w) dim -> frames (rows h) (columns w) (heads dim)",
            frames=len(qkv),
            rows=qkv.shape[1] // h,
            h=h,
        )


def _whole_and_rest(x: Tokens, axis: int, window: int) -> list[Tokens]:
    """What whole windows cover along an axis, and what remains; neither if it is empty."""
    rest = x.shape[axis] % window
    return [part for part in torch.split(x, [x.shape[axis] - rest, rest], dim=axis) if part.shape[axis]]


def _joined(parts: list[Tokens], axis: int) -> Tokens:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)


class Block(nn.Module):
    """One transformer block with the five points of the seam."""

    def __init__(self, spec: BlockSpec, mlp_ratio: float) -> None:
        super().__init__()
        self.window = spec.window
        self.norm1 = nn.LayerNorm(spec.dim, eps=1e-6)
        self.attn = Attention(spec.dim, spec.heads, (spec.window, spec.window) if spec.window else spec.grid)
        self.norm2 = nn.LayerNorm(spec.dim, eps=1e-6)
        self.mlp = Mlp(spec.dim, int(spec.dim * mlp_ratio))

    def forward(self, block: int, x: Tokens, stack: Stack, adaptation: EncoderAdaptation) -> Tokens:
        """The residual stream after this block.

        Args:
            block: Index of this block, handed on to the adaptation.
            x: The residual stream.
            stack: How frames are grouped.
            adaptation: The method, or one that does nothing.
        """
        x = adaptation.before_attention(block, x, stack)
        x = x + adaptation.attention(block, BlockAttention(self, block, adaptation), self.norm1(x), stack)
        x = adaptation.before_mlp(block, x, stack)
        return x + adaptation.mlp(block, self.mlp, self.norm2(x), stack)


class BlockAttention:
    """What a method gets as ``Attend``: the attention of one block, with the method's own ``qkv`` point inside."""

    def __init__(self, block: Block, index: int, adaptation: EncoderAdaptation) -> None:
        self.block, self.index, self.adaptation = block, index, adaptation
        self._kept: tuple[Tokens, Projected] | None = None

    @property
    def blank(self) -> Float[Tensor, " channels"]:
        """The norm of a token of zeros is its bias."""
        return self.block.norm1.bias

    def __call__(
        self,
        x: Tokens,
        window: int | None = None,
        *,
        filling: Float[Tensor, " channels"] | None = None,
        relative: bool = True,
        arrange: Callable[[Projected], Projected] | None = None,
    ) -> Tokens:
        """Projects each token once, arranges, and attends within windows."""
        side = self.block.window if window is None else window
        qkv = self._projected(x)
        if arrange is not None:
            qkv = arrange(qkv)
        token = self.filling(x, qkv.shape[1:3], side, filling)
        y: Tensor = self.block.attn(qkv, side, token, resample=window is not None, relative=relative)
        return y

    def _projected(self, x: Tokens) -> Projected:
        """Queries, keys and values of the tokens; kept, since a method may attend over the same tokens twice."""
        if self._kept is None or self._kept[0] is not x:
            self._kept = (x, self.adaptation.qkv(self.index, self.block.attn.qkv(x), x))
        return self._kept[1]

    def filling(
        self, x: Tokens, grid: Sequence[int], window: int, filling: Float[Tensor, " channels"] | None = None
    ) -> Float[Tensor, " three_channels"] | None:
        """The same of the filling token, by itself; None where windows fit.

        Args:
            x: Of the kind of the tokens.
            grid: Tokens along height and width.
            window: Tokens per side of a window; 0 for none.
            filling: The token; None for zeros.
        """
        if not window or not any(size % window for size in grid):
            return None
        token = (x.new_zeros(x.shape[-1]) if filling is None else filling.to(x.dtype)).expand(1, 1, 1, -1)
        return self.adaptation.qkv(self.index, self.block.attn.qkv(token), token).flatten()


class SamEncoder(nn.Module):
    """Images to features, one map per frame.

    Args:
        dim: Channels of the tokens.
        depth: Number of blocks.
        heads: Attention heads per block.
        patch: Pixels per side of a patch.
        window: Tokens per side of an attention window.
        global_blocks: Indices of the blocks that attend over the whole image.
        image_size: Pixels (height, width), multiples of ``patch``.
        out_channels: Channels of the features.
        mlp_ratio: Hidden width of the MLPs as a multiple of ``dim``.

    Raises:
        WeightsError: the sizes contradict each other.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        window: int,
        global_blocks: Collection[int],
        image_size: tuple[int, int],
        out_channels: int = 256,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise WeightsError(f"{dim} channels do not divide into {heads} heads")
        if not set(global_blocks) <= set(range(depth)):
            raise WeightsError(
                f"global blocks {sorted(global_blocks)} are not all among the {depth} blocks 0..{depth - 1}"
            )
        self.checkpointing = 0
        """How many blocks, from the first, the backward pass computes again instead of keeping what was computed."""
        self.image_size = image_size
        self.grid = tokens_along(image_size, patch)
        self.blocks_spec = tuple(
            BlockSpec(dim, heads, self.grid, 0 if index in global_blocks else window) for index in range(depth)
        )
        self.patch_embed = PatchEmbed(patch, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, *self.grid, dim))
        self.blocks = nn.ModuleList(Block(spec, mlp_ratio) for spec in self.blocks_spec)
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(
        self,
        images: Float[Tensor, "frames 3 y x"],
        stack: Stack = SINGLE,
        adaptation: EncoderAdaptation | None = None,
    ) -> Float[Tensor, "frames channels height width"]:
        """Features of the frames, one vector per patch: ``blocks_of(embed(images))``.

        Args:
            images: Frames after the pixel statistics of the backbone were applied.
            stack: How frames are grouped, for methods that look along depth.
            adaptation: The method that acts inside; None for the frozen encoder alone.

        Raises:
            WeightsError: the images are not of the size that this encoder was built for.
            InputError: the frames do not divide into stacks.
        """
        return self.blocks_of(self.embed(images), stack, adaptation)

    def embed(self, images: Float[Tensor, "frames 3 y x"]) -> Tokens:
        """Tokens of the frames with their positions, before the first block; frames do not see each other.

        What several stacks share can be computed once: ``blocks_of`` takes the tokens from here in any order.

        Args:
            images: Frames after the pixel statistics of the backbone were applied.

        Raises:
            WeightsError: the images are not of the size that this encoder was built for.
        """
        if tuple(images.shape[-2:]) != self.image_size:
            raise WeightsError(
                f"this encoder was built for images of {self.image_size[0]} × {self.image_size[1]} pixels "
                f"(height × width), but {images.shape[-2]} × {images.shape[-1]} came; "
                "build or load the backbone with that image_size"
            )
        tokens: Tensor = self.patch_embed(images) + self.pos_embed
        return tokens

    def blocks_of(
        self, tokens: Tokens, stack: Stack = SINGLE, adaptation: EncoderAdaptation | None = None
    ) -> Float[Tensor, "frames channels height width"]:
        """Features of embedded frames: all blocks, then the neck.

        Args:
            tokens: What ``embed`` gives; they are not changed.
            stack: How frames are grouped, for methods that look along depth.
            adaptation: The method that acts inside; None for the frozen encoder alone.

        Raises:
            InputError: the frames do not divide into stacks.
        """
        if tokens.shape[0] % stack.depth:
            raise InputError(f"{tokens.shape[0]} frames do not divide into stacks of {stack.depth} slices")
        x: Tensor = tokens
        again = self.checkpointing if torch.is_grad_enabled() else 0
        for index, block in enumerate(self.blocks):
            given = (index, x, stack, UNADAPTED if adaptation is None else adaptation)
            x = checkpoint(block, *given, use_reentrant=False) if index < again else block(*given)
        features: Tensor = self.neck(rearrange(x, "frames h w channels -> frames channels h w"))
        return features


def tokens_along(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Tokens along height and width of an image.

    Raises:
        WeightsError: the image does not divide into patches.
    """
    height, width = image_size
    if min(image_size) < patch or height % patch or width % patch:
        raise WeightsError(f"an image of {height} × {width} pixels does not divide into patches of {patch} × {patch}")
    return height // patch, width // patch
