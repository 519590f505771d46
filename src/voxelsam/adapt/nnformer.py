"""nnFormer (arXiv 2109.03201): windows of attention in a U, trained from scratch (``voxelsam.nn.nnformer``).

The defaults are the paper's for abdominal CT: 149.5 million numbers for one channel and 14 classes. Published tables
give the original 149.3 to 150.5 million; its code, with the two auxiliary outputs of deep supervision that are not
here, has 150.1. ``width: 24, heads: [2, 2, 4, 4]`` (2.4 million) is for trying out. Sides are padded to multiples of
eight patches: 16 slices, 32 rows and columns.
"""

from dataclasses import dataclass

from voxelsam.adapt import Adaptation
from voxelsam.adapt._whole import Input, Whole, adaptation
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.nnformer import NnFormer, Sizes

needs_backbone = False

HALVED = 8
"""By what the three steps down divide the tokens."""


@dataclass(frozen=True)
class Config(Input):
    """What can be chosen about nnFormer."""

    width: int = 192
    """Channels of the first stage, an even number; each of the three further stages doubles them."""
    heads: tuple[int, int, int, int] = (6, 12, 24, 48)
    """Attention heads of the stages; they divide the channels of their stage."""
    windows: tuple[int, int, int, int] = (4, 4, 8, 4)
    """Tokens per side of an attention window in the stages."""
    patch: tuple[int, int, int] = (2, 4, 4)
    """Voxels per token along depth, height and width; the last two are even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width: an even number, not {self.width}")
        if min(self.heads) < 1 or any(self.width * 2**stage % heads for stage, heads in enumerate(self.heads)):
            raise ValueError(f"heads: divisors of the channels of their stage, not {self.heads}")
        if min(self.windows) < 1:
            raise ValueError(f"windows: at least 1, not {self.windows}")
        if min(self.patch) < 1 or self.patch[1] % 2 or self.patch[2] % 2:
            raise ValueError(f"patch: at least 1, and even along height and width, not {self.patch}")


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh network."""
    axes = config.dimensions
    sizes = Sizes(config.width, config.heads, config.windows, config.patch, flat=axes == 2)
    steps = [HALVED * side for side in config.patch[-axes:]]
    return adaptation(Whole(NnFormer(config.channels, classes, sizes), config, steps, steps))
