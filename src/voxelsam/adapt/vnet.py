"""V-Net (arXiv 1606.04797): a residual U-Net with large kernels, trained from scratch.

MONAI's network, whose widths are fixed: 45.6 million numbers in three dimensions for one channel and two classes. It
halves its input four times, so sides are padded to multiples of 16. It repeats its input to 16 channels, which colour
does not divide: the mean of red, green and blue goes in as a fourth channel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt._whole import Input, Whole, adaptation
from voxelsam.nn.backbone import Backbone

needs_backbone = False

STEP = 16


@dataclass(frozen=True)
class Config(Input):
    """What can be chosen about V-Net."""

    dropout: float = 0.5
    """Share of channels that are dropped, as in MONAI; the paper has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: from 0 to below 1, not {self.dropout}")


class WithMean(nn.Module):
    """Adds the mean of the channels as one more."""

    def forward(self, images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch more *sides"]:
        """All channels, and their mean."""
        return torch.cat((images, images.mean(1, keepdim=True)), 1)


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh network."""
    from monai.networks.nets.vnet import VNet

    axes, colour = config.dimensions, config.channels == 3
    network: nn.Module = VNet(
        spatial_dims=axes,
        in_channels=4 if colour else 1,
        out_channels=classes,
    )
    dropout = nn.Dropout2d if axes == 2 else nn.Dropout3d
    for part in list(network.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.Dropout3d):  # MONAI's also in two dimensions, where it drops whole slices
                setattr(part, name, dropout(config.dropout))
    if colour:
        network = nn.Sequential(WithMean(), network)
    return adaptation(Whole(network, config, [STEP] * axes, [STEP] * axes))
