"""The official checkpoint file of an adapted MA-SAM: a plain dictionary of tensors, by the names of its code.

The file holds what was trained and nothing else: no weights of SAM, no class names, no rank, scale or image size. Rank,
width and classes show in the shapes; the scale of FacT must be known (the official training uses 1). Loading it needs
the SAM checkpoint that it was trained on.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from voxelsam.adapt import Adaptation
from voxelsam.adapt._content import read_content
from voxelsam.errors import WeightsError
from voxelsam.nn.backbone import Backbone

BLOCK = "image_encoder.ImageEncoderViT.blocks.{}.Block."
ADAPTERS = {"before_attention_adapters": "", "before_mlp_adapters": "_2"}
"""Our two lists of adapters, and the end of the official names of their parts."""

SIGMAS = {"q_FacTs": "query", "v_FacTs": "value"}
FACTORS = {"FacTu": "down", "FacTv": "up"}
PARTS = {
    "down.weight": "adapter_linear_down{}.weight",
    "up.weight": "adapter_linear_up{}.weight",
    "conv.weight": "adapter_conv{}.weight",
    "conv.bias": "adapter_conv{}.bias",
    "norm.weight": "adapter_norm{}.weight",
    "norm.bias": "adapter_norm{}.bias",
}


@dataclass(frozen=True)
class Sizes:
    """What the shapes in a file tell about the model that was trained."""

    channels: int
    blocks: int
    decoder_channels: int
    classes: int
    rank: int
    width: int


def official_names(adaptation: Adaptation) -> dict[str, str]:
    """Official name of every tensor → its name in the state dict of the adaptation, in the official order."""
    own = adaptation.state_dict()
    blocks = range(len([name for name in own if re.fullmatch(r"encoder\.fact\.query\.\d+\.weight", name)]))
    names = {f"{sigma}_{i:03}": f"encoder.fact.{ours}.{i}.weight" for sigma, ours in SIGMAS.items() for i in blocks}
    names |= {f"image_encoder.{factor}.weight": f"encoder.fact.{ours}.weight" for factor, ours in FACTORS.items()}
    names |= {name: name for name in own if name.startswith("prompt_encoder.")}
    names |= {f"mask_{name}": name for name in own if name.startswith("decoder.")}
    for block in blocks:
        for adapters, end in ADAPTERS.items():
            for part, official in PARTS.items():
                names[BLOCK.format(block) + official.format(end)] = f"encoder.{adapters}.{block}.{part}"
    return names


def sizes(tensors: Mapping[str, Tensor], path: Path) -> Sizes:
    """Sizes of the model in a file.

    Raises:
        WeightsError: the tensors are not those of an adapted MA-SAM.
    """
    down, first = "image_encoder.FacTu.weight", BLOCK.format(0) + "adapter_linear_down.weight"
    tokens = "mask_decoder.mask_tokens.weight"
    if any(name not in tensors or tensors[name].ndim != 2 for name in (down, first, tokens)):
        raise WeightsError(
            f"{path} should be an adapted MA-SAM checkpoint with tensors such as {down!r}, but {_kind(tensors)}"
        )
    rank, channels = tensors[down].shape
    classes, decoder_channels = tensors[tokens].shape
    blocks = sum(re.fullmatch(r"q_FacTs_\d+", name) is not None for name in tensors)
    return Sizes(channels, blocks, decoder_channels, classes, rank, tensors[first].shape[0])


def check_sizes(found: Sizes, path: Path, backbone: Backbone, wanted: Mapping[str, int | None]) -> None:
    """Compares what a file holds with the backbone and with what the caller wants.

    Args:
        found: sizes in the file.
        path: the file, for the message.
        backbone: what it is to be used with.
        wanted: further sizes by name; None where any will do.

    Raises:
        WeightsError: one line for each size that does not fit.
    """
    variant = backbone.variant
    of_backbone = {"channels": variant.dim, "blocks": variant.depth, "decoder_channels": variant.decoder_dim}
    lines = [
        f"  {name.replace('_', ' ')}: expected {size}, the file has {getattr(found, name)}"
        for name, size in {**of_backbone, **wanted}.items()
        if size is not None and size != getattr(found, name)
    ]
    if lines:
        hint = f"use the backbone it was trained on ({variant.name} came) and the sizes it was trained with"
        raise WeightsError("\n".join([f"{path} does not fit; {hint}:", *lines]))


def load_into(adaptation: Adaptation, tensors: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    """Copies a file's tensors into an adaptation of its sizes; returns the names that have no place in it.

    Raises:
        WeightsError: tensors are missing or have another shape; nothing has been copied then.
    """
    names, own = official_names(adaptation), adaptation.state_dict()
    missing = [name for name in names if name not in tensors]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[ours].shape)}"
        for name, ours in names.items()
        if name in tensors and tensors[name].shape != own[ours].shape
    ]
    if missing or shapes:
        lines = [f"  missing: {name}" for name in missing] + [f"  shape: {line}" for line in shapes]
        more = [f"  … and {len(lines) - 10} more"] if len(lines) > 10 else []
        raise WeightsError("\n".join([f"{path} is not a whole adapted checkpoint:", *lines[:10], *more]))
    adaptation.load_state_dict({ours: tensors[name] for name, ours in names.items()})
    return tuple(name for name in tensors if name not in names)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors in a ``.pth`` or ``.safetensors`` file.

    Raises:
        WeightsError: the file cannot be read, is of another kind, or holds something else.
    """
    content = read_content(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} should hold a plain dictionary of tensors, but holds other things")
    return content


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a ``.pth`` file beside its place and moves it there."""
    beside = path.with_name(f".{path.name}.part")
    try:
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _kind(tensors: Mapping[str, Tensor]) -> str:
    if "image_encoder.patch_embed.proj.weight" in tensors:
        return "it is a checkpoint of SAM itself: load it as the backbone"
    if any(name.startswith("sam.") for name in tensors):
        return "it is the state of a whole model: only the file of adapted weights can be read"
    return f"it has {', '.join(list(tensors)[:5]) or 'no tensors'}"
