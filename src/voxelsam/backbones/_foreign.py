"""Checkpoints of other models, known by a tensor name, and what to say about each."""

from collections.abc import Collection

FOREIGN = (
    (
        ("q_FacTs", "FacTu", "adapter_linear_down"),
        "weights that MA-SAM trained, without or around the SAM they were trained on",
        "give the SAM checkpoint as the backbone and this file to the method",
    ),
    (
        ("Space_Adapter", "MLP_Adapter", "Depth_Adapter"),
        "a model that Med-SA trained",
        "give the SAM checkpoint as the backbone and this file to the method",
    ),
    (
        ("image_encoder.trunk.", "memory_attention.", "memory_encoder.", "vision_encoder.backbone."),
        "a SAM 2 checkpoint",
        "give one of the first Segment Anything model",
    ),
    (
        ("mask_decoder.hf_token", "mask_decoder.hq_token", "mask_decoder.embedding_encoder", "mask_decoder.hf_mlp"),
        "a SAM-HQ checkpoint, which has a decoder of its own",
        "give one of the first Segment Anything model",
    ),
    (
        ("image_encoder.layers.0.conv1.", "image_encoder.layers.0.blocks.0.conv1.", "image_encoder.patch_embed.seq."),
        "a MobileSAM checkpoint",
        "give one of the first Segment Anything model",
    ),
    (
        ("mask_decoder.final_output_upscaling_layers.",),
        "an EfficientSAM checkpoint",
        "give one of the first Segment Anything model",
    ),
)
"""Parts of tensor names, what the file is, what to do."""


def explain(names: Collection[str]) -> str:
    """What a file with these tensors is and what to do; empty when it is none of the known others."""
    for parts, kind, advice in FOREIGN:
        if any(part in name for part in parts for name in names):
            return f"{kind}; {advice}"
    return ""
