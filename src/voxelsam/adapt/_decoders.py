"""Decoders for classes: SAM's, started from the backbone's decoder.

There are two families. In the first every class, the background too, has a mask token of its own. The rule of what is
taken over: the two-way transformer, the quality token, and the up-sampling steps that fit. Mask tokens, hyper-networks
and the quality head are fresh, for SAM's mask tokens mean part, whole and object, not classes.

In the second (``ForegroundDecoder``) only the structures have mask tokens, and they are SAM's own; the background is
the constant logit 0. A fresh one with a single structure answers a prompt exactly as SAM does.
"""

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt._origin import Origin, copy_fitting
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.decoder import MaskDecoder, Scores
from voxelsam.nn.prompt_encoder import EncodedPrompts, PromptEncoder
from voxelsam.nn.seam import DecoderAdaptation

TAKEN_OVER = ("transformer.", "iou_token.", "output_upscaling.")
TOKENS, HYPER, HEAD = "mask_tokens.", "output_hypernetworks_mlps.", "iou_prediction_head."
HEAD_ROWS = f"{HEAD}layers.2."
"""The quality head's last layer, which has a row per mask token."""


class FullSizeDecoder(MaskDecoder):
    """SAM's decoder, whose logits at a quarter of the size are stretched bilinearly to the model input."""

    def __init__(
        self, variant: Variant, masks: int, size: tuple[int, int], adaptation: DecoderAdaptation | None = None
    ) -> None:
        super().__init__(
            dim=variant.decoder_dim,
            masks=masks,
            upscale=(variant.decoder_dim // 4, variant.decoder_dim // 8),
            depth=variant.decoder_depth,
            heads=variant.decoder_heads,
            mlp_dim=variant.decoder_mlp,
            iou_hidden=variant.iou_hidden,
            adaptation=adaptation,
        )
        self.size = size

    def forward(
        self,
        features: Float[Tensor, "frames channels h w"],
        dense_pe: Float[Tensor, "1 channels h w"],
        prompts: EncodedPrompts,
    ) -> Scores:
        """Logits at the size of the model input."""
        scores = self.small(features, dense_pe, prompts)
        return Scores(F.interpolate(scores.logits, self.size, mode="bilinear", align_corners=False), scores.quality)

    def small(
        self,
        features: Float[Tensor, "frames channels h w"],
        dense_pe: Float[Tensor, "1 channels h w"],
        prompts: EncodedPrompts,
    ) -> Scores:
        """The same at a quarter of the size, before it is stretched."""
        return super().forward(features, dense_pe, prompts)


class ForegroundDecoder(FullSizeDecoder):
    """SAM's decoder whose first mask tokens are the structures; the background is the constant logit 0.

    Soft-max over z and 0 is the sigmoid of z, so that one structure is answered as SAM answers. Quality of the
    background is 0.

    Args:
        variant: Sizes of the decoder.
        classes: Channels of the result, the background included.
        masks: Mask tokens that have a hyper-network, as many as structures or more.
        companions: Further mask tokens that only take part in attention.
        size: Pixels (height, width) of the model input.
        adaptation: What a method does inside the two-way transformer.
    """

    def __init__(
        self,
        variant: Variant,
        classes: int,
        masks: int,
        companions: int,
        size: tuple[int, int],
        adaptation: DecoderAdaptation | None = None,
    ) -> None:
        super().__init__(variant, masks, size, adaptation)
        self.classes = classes
        self.companions = nn.Embedding(companions, variant.decoder_dim) if companions else None

    def small(
        self,
        features: Float[Tensor, "frames channels h w"],
        dense_pe: Float[Tensor, "1 channels h w"],
        prompts: EncodedPrompts,
    ) -> Scores:
        """Logits and qualities of all classes at a quarter of the size."""
        scores = super().small(features, dense_pe, prompts)
        logits = F.pad(scores.logits[:, : self.classes - 1], (0, 0, 0, 0, 1, 0))
        if scores.quality is None:
            return Scores(logits)
        return Scores(logits, F.pad(scores.quality[:, : self.classes - 1], (1, 0)))

    def own_tokens(self) -> Float[Tensor, "tokens channels"]:
        """Quality, masks, then the companions."""
        own = super().own_tokens()
        return own if self.companions is None else torch.cat((own, self.companions.weight))


def sams_tokens(backbone: Backbone, classes: int) -> tuple[ForegroundDecoder, Origin]:
    """A copy of SAM's decoder, all of it trained; its mask tokens, in their order, stand for the structures.

    With more structures than SAM has mask tokens, the tensors that have a row per token are fresh.
    """
    variant = backbone.variant
    with torch.device(backbone.image_encoder.pos_embed.device):
        decoder = ForegroundDecoder(variant, classes, max(variant.masks, classes - 1), 0, backbone.image_size)
    return decoder, copy_fitting(decoder, backbone.mask_decoder)


def single_mask_tokens(
    backbone: Backbone, classes: int, adaptation: Callable[[], DecoderAdaptation | None] = lambda: None
) -> tuple[ForegroundDecoder, Origin]:
    """SAM's decoder with one mask token per structure, each started from SAM's token of the single mask.

    Trained are these tokens, their hyper-networks, and the adaptation; SAM's other mask tokens stay as companions, so
    that the first structure alone gives SAM's answer.

    Args:
        backbone: Stays as it is.
        classes: Channels of the result, the background included.
        adaptation: Makes what acts inside the two-way transformer, on the backbone's device.
    """
    variant, structures = backbone.variant, classes - 1
    with torch.device(backbone.image_encoder.pos_embed.device):
        decoder = ForegroundDecoder(variant, classes, structures, variant.masks - 1, backbone.image_size, adaptation())
    given = backbone.mask_decoder.state_dict()
    state = _single_mask_state(given, structures)
    decoder.load_state_dict(state, strict=False)
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(name.startswith(("adaptation.", TOKENS, HYPER)))
    own = decoder.state_dict()
    origin = Origin(
        copied=tuple(name for name in own if name in state),
        fresh=tuple(name for name in own if name not in state),
        unused=tuple(name for name in given if name.startswith(HYPER) and not name.startswith(f"{HYPER}0.")),
    )
    return decoder, origin


def _single_mask_state(given: Mapping[str, Tensor], structures: int) -> dict[str, Tensor]:
    """SAM's tensors for a decoder of so many single-mask tokens: what belongs to that token, once per structure."""
    state = {}
    for name, tensor in given.items():
        if name.startswith(TAKEN_OVER) or (name.startswith(HEAD) and not name.startswith(HEAD_ROWS)):
            state[name] = tensor
        elif name.startswith(f"{HYPER}0."):
            inner = name.removeprefix(f"{HYPER}0.")
            state |= {f"{HYPER}{structure}.{inner}": tensor for structure in range(structures)}
        elif name.startswith((TOKENS, HEAD_ROWS)):
            state[name] = tensor[:1].expand(structures, *tensor.shape[1:])
    if len(given[f"{TOKENS}weight"]) > 1:
        state["companions.weight"] = given[f"{TOKENS}weight"][1:]
    return state


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
