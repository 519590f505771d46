"""Decoders for classes: SAM's, with one mask token per class, started from the backbone's decoder.

The rule of what is taken over: the two-way transformer, the quality token, and the up-sampling steps that fit. Mask
tokens, hyper-networks and the quality head are fresh, for SAM's mask tokens mean part, whole and object, not classes.
"""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from voxelsam.adapt._origin import Origin, copy_fitting
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.decoder import MaskDecoder, Scores
from voxelsam.nn.prompt_encoder import PromptEncoder

TAKEN_OVER = ("transformer.", "iou_token.", "output_upscaling.")


class FullSizeDecoder(MaskDecoder):
    """SAM's decoder, whose logits at a quarter of the size are stretched bilinearly to the model input."""

    def __init__(self, variant: Variant, masks: int, size: tuple[int, int]) -> None:
        super().__init__(
            dim=variant.decoder_dim,
            masks=masks,
            upscale=(variant.decoder_dim // 4, variant.decoder_dim // 8),
            depth=variant.decoder_depth,
            heads=variant.decoder_heads,
            mlp_dim=variant.decoder_mlp,
            iou_hidden=variant.iou_hidden,
        )
        self.size = size

    def forward(
        self,
        features: Float[Tensor, "frames channels h w"],
        dense_pe: Float[Tensor, "1 channels h w"],
        sparse: Float[Tensor, "frames n channels"],
        dense: Float[Tensor, "frames channels h w"],
    ) -> Scores:
        """Logits of every mask token at the size of the model input."""
        scores = super().forward(features, dense_pe, sparse, dense)
        return Scores(F.interpolate(scores.logits, self.size, mode="bilinear", align_corners=False), scores.quality)


def full_size(backbone: Backbone, classes: int) -> tuple[FullSizeDecoder, Origin]:
    """A trained decoder with SAM's two doublings, started by the rule above; its quality head stays frozen."""
    with torch.device(backbone.image_encoder.pos_embed.device):
        decoder = FullSizeDecoder(backbone.variant, classes, backbone.image_size)
    decoder.iou_prediction_head.requires_grad_(False)
    return decoder, copy_fitting(decoder, backbone.mask_decoder, taken_over)


def progressive(backbone: Backbone, classes: int) -> MaskDecoder:
    """MA-SAM's decoder: as many doublings as bring the features to the size of the model input; all of it fresh.

    Raises:
        ConfigError: the patch of the backbone is no power of two.
    """
    variant = backbone.variant
    steps = variant.patch.bit_length() - 1
    if 2**steps != variant.patch:
        raise ConfigError(f"the progressive decoder needs a patch of 2, 4, 8, 16, … pixels, not {variant.patch}")
    with torch.device(backbone.image_encoder.pos_embed.device):
        return MaskDecoder(
            dim=variant.decoder_dim,
            masks=classes,
            upscale=tuple(variant.decoder_dim // 2 ** (step + 2) for step in range(steps)),
            depth=variant.decoder_depth,
            heads=variant.decoder_heads,
            mlp_dim=variant.decoder_mlp,
            iou_hidden=variant.iou_hidden,
        )


def taken_over(name: str) -> bool:
    """Whether a tensor of SAM's decoder may start a decoder for classes."""
    return name.startswith(TAKEN_OVER)


def prompt_free(backbone: Backbone) -> PromptEncoder:
    """A copy of the prompt encoder of which only the embedding of "no mask" is trained: all that no prompt leaves."""
    return with_trained(backbone.prompt_encoder, ("no_mask_embed.",))


def with_trained(prompt_encoder: PromptEncoder, starts: tuple[str, ...]) -> PromptEncoder:
    """A copy that trains the parameters whose names begin so, and no others."""
    result = copy.deepcopy(prompt_encoder)
    for name, parameter in result.named_parameters():
        parameter.requires_grad_(name.startswith(starts))
    return result
