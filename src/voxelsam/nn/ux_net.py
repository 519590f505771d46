"""The encoder of 3D UX-Net (arXiv 2209.15076): a hierarchy of convolutions with large kernels, in 2 or 3 dimensions.

Written from the paper (section 3.1): a stem that projects with kernel 7 and stride 2, then four stages of blocks with
a depth-wise convolution of kernel 7, layer norm, and depth-wise scaling to four times the channels and back; between
stages a convolution of kernel 2 and stride 2.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

Map = Float[Tensor, "batch channels *sides"]

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
KERNEL, EXPANSION = 7, 4
FIRST_SCALE = 1e-6
"""Layer scale: a block starts as the identity, nearly."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Map) -> Map:
        """Normed at every voxel."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class UxBlock(nn.Module):
    """``x + scale · shrink(gelu(grow(norm(depthwise(x)))))``; every convolution keeps the channels apart.

    Args:
        channels: Of the map.
        dimensions: 2 or 3.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        convolution, wide = CONVOLUTION[dimensions], EXPANSION * channels
        self.depthwise = convolution(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.norm = ChannelNorm(channels, eps=1e-6)
        self.grow = convolution(channels, wide, 1, groups=channels)
        self.act = nn.GELU()
        self.shrink = convolution(wide, channels, 1, groups=channels)
        self.scale = nn.Parameter(torch.full((channels, *(1,) * dimensions), FIRST_SCALE))

    def forward(self, x: Map) -> Map:
        """A map of the same size."""
        increment: Tensor = self.shrink(self.act(self.grow(self.norm(self.depthwise(x)))))
        return x + self.scale * increment


class UxEncoder(nn.Module):
    """Four maps, at a half, a quarter, an eighth and a sixteenth of each side.

    Args:
        dimensions: 2 or 3.
        channels: Of the input.
        widths: Channels of the four maps (48, 96, 192, 384 in the paper).
        depths: Blocks in the four stages (2, 2, 2, 2 in the paper).
    """

    def __init__(self, dimensions: int, channels: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        stem = nn.Sequential(
            convolution(channels, widths[0], KERNEL, stride=2, padding=KERNEL // 2), ChannelNorm(widths[0], eps=1e-6)
        )
        between = [
            nn.Sequential(ChannelNorm(before, eps=1e-6), convolution(before, after, 2, stride=2))
            for before, after in pairwise(widths)
        ]
        self.entries = nn.ModuleList([stem, *between])
        self.stages = nn.ModuleList(
            nn.Sequential(*(UxBlock(width, dimensions) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.norms = nn.ModuleList(ChannelNorm(width, eps=1e-6) for width in widths)

    def forward(self, x: Map) -> list[Map]:
        """The maps, largest first.

        Args:
            x: Sides are multiples of 16.
        """
        maps = []
        for entry, stage, norm in zip(self.entries, self.stages, self.norms, strict=True):
            x = stage(entry(x))
            maps.append(norm(x))
        return maps
