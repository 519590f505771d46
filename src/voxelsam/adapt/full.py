"""Full fine-tuning: every weight of a copy of the image encoder is trained, together with the decoder.

The ceiling that the small methods are measured against, at the price of a whole encoder per trained model. There are
no prompts: the embedding of "no mask" is trained. The decoder is SAM's with one mask token per class, its logits
stretched from a quarter of the size to the model input. Slices are seen one by one.
"""

import copy
from dataclasses import dataclass

from voxelsam.adapt import Adaptation
from voxelsam.adapt._decoders import full_size, prompt_free
from voxelsam.config import STRICT
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import EncoderAdaptation


@dataclass(frozen=True)
class Config:
    """There is nothing to choose."""

    __pydantic_config__ = STRICT


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A copy of the backbone's encoders, ready to be trained."""
    image_encoder = copy.deepcopy(backbone.image_encoder).requires_grad_(True)
    decoder, origin = full_size(backbone, classes)
    return Adaptation(
        EncoderAdaptation(), decoder, prompt_free(backbone), image_encoder, starts_as_backbone=True, origin=origin
    )
