"""What a user would run instead: transformers' SAM with the same weights, and MONAI's networks over sliding windows."""

from typing import Any

import torch
from torch import Tensor

from voxelsam.backbones.sam import from_hugging_face
from voxelsam.nn.backbone import Backbone

PATCHES = {"DynUNet": (48, 192, 192), "SwinUNETR": (96, 96, 96)}
"""Slices, rows and columns of a patch: what nnU-Net plans for abdominal CT, and what SwinUNETR was published with."""

SPACING = (3.0, 0.8, 0.8)
OVERLAP = 0.5


def missing(package: str, how: str) -> str:
    """Why a package's rows are left out; empty if it is there."""
    from importlib.util import find_spec

    return "" if find_spec(package) else f"skipped: {package} is not installed (pip install {how})"


def no_transformers() -> str:
    return missing("transformers", "'voxelsam[parity]'")


def sam(backbone: Backbone, attention: str) -> Any:
    """``transformers.SamModel`` with the weights of a backbone of ours.

    Args:
        backbone: for square pictures.
        attention: ``eager`` or ``sdpa``.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    known, size, tensors = backbone.variant, backbone.image_size[0], backbone.state_dict()
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": known.dim,
            "output_channels": known.decoder_dim,
            "num_hidden_layers": known.depth,
            "num_attention_heads": known.heads,
            "image_size": size,
            "patch_size": known.patch,
            "window_size": known.window,
            "global_attn_indexes": list(known.global_blocks),
            "num_pos_feats": known.decoder_dim // 2,
            "mlp_dim": int(known.mlp_ratio * known.dim),
        },
        prompt_encoder_config={
            "hidden_size": known.decoder_dim,
            "image_size": size,
            "patch_size": known.patch,
            "mask_input_channels": known.mask_channels,
        },
        mask_decoder_config={
            "hidden_size": known.decoder_dim,
            "mlp_dim": known.decoder_mlp,
            "num_attention_heads": known.decoder_heads,
            "iou_head_hidden_dim": known.iou_hidden,
        },
    )
    model = transformers.SamModel._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(tensors[str(from_hugging_face(name))])
    return model.eval().requires_grad_(False)


def network(name: str, patch: tuple[int, int, int], classes: int) -> torch.nn.Module:
    """One of ``PATCHES`` with random weights, as ``voxelsam train`` would build it for that patch."""
    from voxelsam import adapt, backbones

    depth, *sides = patch
    method = {"DynUNet": "dynunet", "SwinUNETR": "swin_unetr"}[name]
    options: dict[str, Any] = {"depth": depth, "channels": 1}
    options |= {"spacing": SPACING} if name == "DynUNet" else {}
    made = adapt.build(method, options, backbones.build("none", (sides[0], sides[1])), classes)
    return made.image_encoder.get_submodule("network").eval().requires_grad_(False)


def windows(shape: tuple[int, int, int], patch: tuple[int, int, int]) -> int:
    """Patches that MONAI's sliding window looks at, counted by letting it run over a network that does nothing."""
    from monai.inferers import sliding_window_inference

    seen = []

    def counted(patches: Tensor) -> Tensor:
        seen.append(len(patches))
        return patches

    sliding_window_inference(torch.zeros(1, 1, *shape), patch, 1, counted, overlap=OVERLAP)
    return sum(seen)
