"""UNETR (arXiv 2103.10504): a plain vision transformer as encoder and a convolutional decoder, trained from scratch.

MONAI's network. The defaults are the paper's (92.8 million numbers in three dimensions for one channel, 14 classes and
stacks of 96³ voxels); ``feature_size: 8, hidden_size: 192, mlp_dim: 768, num_heads: 3`` (7.0 million) is for trying
out. Its patches have 16 voxels to a side, so sides are padded to multiples of 16. It learns one position for each
patch, so that it takes stacks of the size that it is built for.
"""

from dataclasses import dataclass

from torch import nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt._whole import Input, Whole, adaptation
from voxelsam.nn.backbone import Backbone

needs_backbone = False

STEP = 16


@dataclass(frozen=True)
class Config(Input):
    """What can be chosen about UNETR."""

    feature_size: int = 16
    """Channels of the last stage of the decoder."""
    hidden_size: int = 768
    """Channels of the transformer's tokens."""
    mlp_dim: int = 3072
    """Hidden width of its MLPs."""
    num_heads: int = 12
    """Its attention heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("feature_size", "hidden_size", "mlp_dim", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, but {getattr(self, name)} came")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size: a multiple of num_heads ({self.num_heads}), not {self.hidden_size}")


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh network for stacks of this depth at the backbone's image size."""
    from monai.networks.nets.unetr import UNETR

    axes = config.dimensions
    sides = tuple(-(-side // STEP) * STEP for side in (config.depth, *backbone.image_size)[-axes:])
    network = UNETR(
        config.channels,
        classes,
        sides,
        feature_size=config.feature_size,
        hidden_size=config.hidden_size,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        spatial_dims=axes,
    )
    for block in network.vit.blocks:
        block.norm_cross_attn = nn.Identity()  # MONAI builds it for a cross attention that UNETR has not
    return adaptation(Whole(network, config, [STEP] * axes, sides, fixed=True))
