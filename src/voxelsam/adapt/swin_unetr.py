"""SwinUNETR (arXiv 2201.01266): an encoder of shifted windows and a convolutional decoder, trained from scratch.

MONAI's network. The paper's has ``feature_size: 48`` (62.2 million numbers for one channel and 14 classes in three
dimensions), MONAI's default is 24 (15.7 million); 12 (4.1 million) is for trying out. It halves its input five times,
so sides are padded to multiples of 32, and height and width to at least 64.
"""

from dataclasses import dataclass

import torch

from voxelsam.adapt import Adaptation
from voxelsam.adapt._whole import Input, Whole, adaptation
from voxelsam.nn.backbone import Backbone

needs_backbone = False

STEP, LEAST = 32, 64


@dataclass(frozen=True)
class Config(Input):
    """What can be chosen about SwinUNETR."""

    feature_size: int = 48
    """Channels of the first stage, a multiple of 12; each further stage doubles them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_size < 12 or self.feature_size % 12:
            raise ValueError(f"feature_size: a multiple of 12, not {self.feature_size}")


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh network."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    place = torch.empty(0).device
    with torch.device("cpu"):  # MONAI reads numbers out of a tensor, which has none on the meta device
        network = SwinUNETR(config.channels, classes, feature_size=config.feature_size, spatial_dims=config.dimensions)
    network.to(place)
    return adaptation(Whole(network, config, [STEP] * config.dimensions, [STEP, LEAST, LEAST][-config.dimensions :]))
