"""Only the decoder is trained: the cheapest method, and the yardstick for the others.

The image encoder and the prompt encoder stay SAM's. The decoder is SAM's with one mask token per class, its logits
stretched from a quarter of the size to the model input.
"""

from dataclasses import dataclass

from voxelsam.adapt import Adaptation
from voxelsam.adapt._decoders import full_size
from voxelsam.config import STRICT
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import EncoderAdaptation


@dataclass(frozen=True)
class Config:
    """There is nothing to choose."""

    __pydantic_config__ = STRICT


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh decoder."""
    decoder, origin = full_size(backbone, classes)
    return Adaptation(EncoderAdaptation(), decoder, starts_as_backbone=True, origin=origin)
