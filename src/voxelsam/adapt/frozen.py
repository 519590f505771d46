"""SAM as it is, asked with prompts: nothing is trained (the zero-shot baseline).

Every structure is answered by SAM's token of the single mask, which knows no classes: the prompt says what is meant,
and a model of any number of structures answers a prompt as SAM does. There is no answer without a prompt. Slices are
seen one by one. ``voxelsam train`` writes the bundle at once.
"""

from dataclasses import dataclass

from voxelsam.adapt import Adaptation
from voxelsam.adapt._decoders import single_mask_tokens
from voxelsam.config import STRICT
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import EncoderAdaptation

trains = False


@dataclass(frozen=True)
class Config:
    """There is nothing to choose."""

    __pydantic_config__ = STRICT


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """SAM's decoder, frozen, with its single-mask token once per structure."""
    decoder, origin = single_mask_tokens(backbone, classes)
    adaptation = Adaptation(EncoderAdaptation(), decoder, starts_as_backbone=True, origin=origin)
    adaptation.requires_grad_(False)
    return adaptation
