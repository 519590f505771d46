"""3D UX-Net (arXiv 2209.15076): convolutions with large kernels as encoder, UNETR's decoder, trained from scratch.

The encoder is ours (``voxelsam.nn.ux_net``), the blocks of the decoder are MONAI's, as in the paper. With the paper's
sizes it has 53.0 million numbers, as the paper says. ``feature_size: 12`` (3.4 million) is for trying out. It halves
its input four times, so sides are padded to multiples of 16, and height and width to at least 32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt._whole import Input, Whole, adaptation
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.ux_net import UxEncoder

needs_backbone = False

STEP, LEAST = 16, 32


@dataclass(frozen=True)
class Config(Input):
    """What can be chosen about 3D UX-Net."""

    feature_size: int = 48
    """Channels of the first stage; each of the three further stages, and the bottom, doubles them."""
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Blocks in each stage of the encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_size < 1 or min(self.depths) < 1:
            raise ValueError(f"feature_size and depths are at least 1, not {self.feature_size} and {self.depths}")


class UxNet(nn.Module):
    """A U of the encoder's four maps and the input itself.

    Args:
        dimensions: 2 or 3.
        channels: Of the input.
        classes: Of the result.
        width: Channels of the first stage.
        depths: Blocks in the four stages.
    """

    def __init__(self, dimensions: int, channels: int, classes: int, width: int, depths: Sequence[int]) -> None:
        from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock

        super().__init__()
        widths = [width * 2**stage for stage in range(5)]

        def block(before: int, after: int) -> nn.Module:
            made: nn.Module = UnetrBasicBlock(dimensions, before, after, 3, 1, norm_name="instance", res_block=True)
            return made

        self.encoder = UxEncoder(dimensions, channels, widths[:4], depths)
        self.bridges = nn.ModuleList(
            block(before, after) for before, after in zip([channels, *widths[:4]], [width, *widths[1:]], strict=True)
        )
        self.ups = nn.ModuleList(
            UnetrUpBlock(dimensions, 2 * after, after, 3, 2, norm_name="instance", res_block=True)
            for after in widths[3::-1]
        )
        self.last = block(width, width)
        self.out = nn.Conv3d(width, classes, 1) if dimensions == 3 else nn.Conv2d(width, classes, 1)

    def forward(self, x: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch classes *sides"]:
        """Logits.

        Args:
            x: Sides are multiples of 16.
        """
        *skips, y = (bridge(one) for bridge, one in zip(self.bridges, (x, *self.encoder(x)), strict=True))
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            y = up(y, skip)
        logits: Tensor = self.out(self.last(y))
        return logits


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh network."""
    axes = config.dimensions
    network = UxNet(axes, config.channels, classes, config.feature_size, config.depths)
    return adaptation(Whole(network, config, [STEP] * axes, [STEP, LEAST, LEAST][-axes:]))
