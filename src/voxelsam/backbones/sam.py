"""Segment Anything ViT-B, L and H (arXiv 2304.02643), MedSAM (arXiv 2304.12306) and a tiny random model of ours.

Pixel statistics: SAM's models want 0..255 pixels minus a mean, divided by a standard deviation. MedSAM was trained on
images stretched to 0..1 (minimum to 0, maximum to 1) and nothing else, so its mean is 0 and its deviation 255; the
stretch itself belongs to the intensity section of a recipe (kind ``minmax``). The tensors of MedSAM and ViT-B are of
the same shapes: which of the two a file holds must be said by name.
"""

import re

from voxelsam.backbones._tiny import tiny_tensors
from voxelsam.backbones._weights import Rename, assemble, digest
from voxelsam.nn.backbone import Backbone, Variant

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("sam-vit-b", dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
        Variant("sam-vit-l", dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
        Variant("sam-vit-h", dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
        Variant(
            "medsam",
            dim=768,
            depth=12,
            heads=12,
            global_blocks=(2, 5, 8, 11),
            pixel_mean=(0.0, 0.0, 0.0),
            pixel_std=(255.0, 255.0, 255.0),
        ),
        Variant(
            "sam-tiny",
            dim=128,
            depth=4,
            heads=4,
            global_blocks=(1, 3),
            window=8,
            patch=8,
            image_size=(128, 128),
            decoder_mlp=256,
            iou_hidden=64,
        ),
    )
}

HUGGING_FACE = (
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"neck\.conv1\.", "neck.0."),
    (r"neck\.layer_norm1\.", "neck.1."),
    (r"neck\.conv2\.", "neck.2."),
    (r"neck\.layer_norm2\.", "neck.3."),
    (r"prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (
        r"^(prompt_encoder\.shared_embedding|shared_image_embedding)\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.layers.1."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.proj_in\.", r"\1.layers.0."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.proj_out\.", r"\1.layers.2."),
    (r"\.layer_norm", ".norm"),
)
"""Hugging Face's names to Meta's, applied in this order."""


def from_meta(name: str) -> str | None:
    """Meta's own names; pixel statistics, which some files carry, are not tensors of ours."""
    return None if name in ("pixel_mean", "pixel_std") else name


def from_hugging_face(name: str) -> str | None:
    """Names of ``transformers.SamModel``; the position matrix exists twice there, and both become one."""
    for pattern, replacement in HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return name


DIALECTS: dict[str, Rename] = {
    "image_encoder.patch_embed.proj.weight": from_meta,
    "vision_encoder.patch_embed.projection.weight": from_hugging_face,
}
"""The tensor that betrays a dialect, and how its names become Meta's (None: dropped on purpose)."""


def build(variant: Variant, image_size: tuple[int, int] | None = None) -> Backbone:
    """A backbone with random weights; those of sam-tiny are always the same."""
    return tiny(image_size=image_size) if variant == VARIANTS["sam-tiny"] else Backbone(variant, image_size)


def tiny(seed: int = 0, image_size: tuple[int, int] | None = None) -> Backbone:
    """The small random model, the same on every machine whatever the state of the global random generator.

    Args:
        seed: Another model for every number; 0 is the one called sam-tiny.
        image_size: Pixels (height, width), multiples of 8; None for 128 × 128. Other sizes get resized position
            tables, as a checkpoint would.
    """
    variant = VARIANTS["sam-tiny"]
    tensors = tiny_tensors(variant, seed)
    backbone, _ = assemble(tensors, variant, image_size or variant.image_size, "sam-tiny")
    backbone.source_sha256 = digest(tensors)
    return backbone
