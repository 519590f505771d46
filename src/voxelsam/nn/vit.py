"""SAM's image encoder: a plain vision transformer with attention windows (Kirillov et al. 2023, arXiv 2304.02643).

Convention: attribute names are Meta's parameter names. Inside, tokens are ``frames height width channels`` from the
patch embedding to the neck; windows exist inside attention only. Windows that reach over the edge are filled with
zeros after the first norm, unless a method asks for other tokens; what fills them takes part as keys.
"""

from collections.abc import Callable, Collection

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from voxelsam.errors import InputError, WeightsError
from voxelsam.nn.attention import attend, resize_table
from voxelsam.nn.layers import LayerNorm2d, Mlp, from_windows, to_windows
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
        return rearrange(features, "frames channels h w -> frames h w channels")


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
        self, x: Tokens, adapt_qkv: Callable[[Projected, Tokens], Projected], *, resample: bool, relative: bool = True
    ) -> Tokens:
        """Attends within each element of the first axis.

        Args:
            x: Normed tokens; windows, if any, lie along the first axis.
            adapt_qkv: Called with the projected tokens and x.
            resample: Whether tables made for another grid are stretched to this one; otherwise they are an error.
            relative: Whether relative positions count; False is the same as tables of zeros.
        """
        height, width = grid = (x.shape[1], x.shape[2])
        rel_h: Tensor = self.rel_pos_h
        rel_w: Tensor = self.rel_pos_w
        if resample:
            rel_h, rel_w = resize_table(rel_h, 2 * height - 1), resize_table(rel_w, 2 * width - 1)
        if not relative:
            rel_h, rel_w = torch.zeros_like(rel_h), torch.zeros_like(rel_w)
        q, k, v = rearrange(
            adapt_qkv(self.qkv(x), x),
            "frames h w (three heads dim) -> three frames heads (h w) dim",
            three=3,
            heads=self.heads,
        )
        y = attend(q, k, v, rel_h, rel_w, grid)
        out: Tensor = self.proj(rearrange(y, "frames heads (h w) dim -> frames h w (heads dim)", h=height, w=width))
        return out


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
    ) -> Tokens:
        """Cuts into windows, attends, puts the windows together again."""
        side = self.block.window if window is None else window
        grid = (x.shape[1], x.shape[2])
        cut = to_windows(x, side, filling) if side else x
        y: Tensor = self.block.attn(cut, self._qkv, resample=window is not None, relative=relative)
        return from_windows(y, grid) if side else y

    def _qkv(self, qkv: Projected, x: Tokens) -> Projected:
        return self.adaptation.qkv(self.index, qkv, x)


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
        self.checkpointing = False
        """Whether the backward pass computes each block again, instead of keeping what was computed in it."""
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
        """Features of the frames, one vector per patch.

        Args:
            images: Frames after the pixel statistics of the backbone were applied.
            stack: How frames are grouped, for methods that look along depth.
            adaptation: The method that acts inside; None for the frozen encoder alone.

        Raises:
            WeightsError: the images are not of the size that this encoder was built for.
            InputError: the frames do not divide into stacks.
        """
        if tuple(images.shape[-2:]) != self.image_size:
            raise WeightsError(
                f"this encoder was built for images of {self.image_size[0]} × {self.image_size[1]} pixels "
                f"(height × width), but {images.shape[-2]} × {images.shape[-1]} came; "
                "build or load the backbone with that image_size"
            )
        if images.shape[0] % stack.depth:
            raise InputError(f"{images.shape[0]} frames do not divide into stacks of {stack.depth} slices")
        x: Tensor = self.patch_embed(images) + self.pos_embed
        again = self.checkpointing and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            given = (index, x, stack, UNADAPTED if adaptation is None else adaptation)
            x = checkpoint(block, *given, use_reentrant=False) if again else block(*given)
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
