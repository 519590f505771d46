"""Files of the official Med-SA: whole checkpoints of its training, and published adapters alone.

A whole checkpoint holds the frozen image and prompt encoders, the adapters and the trained decoder, under the key
``state_dict`` beside the state of the training. A published file holds three kinds of adapters and nothing else. The
names are Meta's with ``Space_Adapter``, ``MLP_Adapter`` and ``Depth_Adapter`` in every block, always all three. Since
2024 two more names differ: ``rel_h`` and ``rel_w``, and the MLPs of the decoder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from voxelsam.adapt import Adaptation
from voxelsam.adapt._content import read_content
from voxelsam.errors import WeightsError
from voxelsam.nn.backbone import Backbone

ADAPTER = re.compile(r"(?:image_encoder\.)?blocks\.(\d+)\.(Space|MLP|Depth)_Adapter\.D_fc([12])\.(weight|bias)")
DEPTH = "encoder.depth_adapters."
LATER_MLP = {"mlp.layers.0.0.": "mlp.lin1.", "mlp.fc.": "mlp.lin2."}
"""MLPs of the decoder since 2024, and in SAM."""

POSITIONS = "image_encoder.pos_embed"
TABLE = re.compile(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_[hw]")


@dataclass(frozen=True)
class Contents:
    """The tensors of a file under our names.

    Attributes:
        path: the file.
        trained: tensors of the adaptation.
        frozen: tensors of SAM, by Meta's names.
        given: our name or Meta's name → name in the file.
        later: whether the decoder was trained in the two-way transformer of EfficientSAM.
    """

    path: Path
    trained: dict[str, Tensor]
    frozen: dict[str, Tensor]
    given: dict[str, str]
    later: bool

    @property
    def width(self) -> int:
        """Channels inside the adapters."""
        return self.trained["encoder.space_adapters.0.down.weight"].shape[0]

    @property
    def masks(self) -> int:
        """Mask tokens of the decoder; 0 without one."""
        tokens = self.trained.get("decoder.mask_tokens.weight")
        return 0 if tokens is None else tokens.shape[0]

    @property
    def relative_positions(self) -> bool:
        """False where the file holds tables of relative positions and all of them are zero."""
        tables = [tensor for name, tensor in self.frozen.items() if TABLE.fullmatch(name)]
        return not tables or any(bool(table.any()) for table in tables)


@dataclass(frozen=True)
class Frozen:
    """The frozen tensors of a file beside those of the backbone, by their names in the file."""

    same: tuple[str, ...]
    """Equal to the backbone's."""
    resized: tuple[str, ...]
    """Tables of positions for another image size, which are not compared."""


def read(path: Path) -> Contents:
    """The tensors in a file of Med-SA.

    Raises:
        WeightsError: the file cannot be read, or is no Med-SA.
    """
    tensors = _tensors(read_content(path), path)
    trained: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    given = {}
    for name, tensor in tensors.items():
        ours = our_name(name)
        (trained if ours.startswith(("encoder.", "decoder.")) else frozen)[ours] = tensor
        given[ours] = name
    first = trained.get("encoder.space_adapters.0.down.weight")
    if first is None or first.ndim != 2:
        raise WeightsError(
            f"{path} should be a Med-SA checkpoint with tensors such as "
            f"'image_encoder.blocks.0.Space_Adapter.D_fc1.weight', but {_kind(tensors)}"
        )
    later = any(f".{part}" in name for name in tensors for part in LATER_MLP if name.startswith("mask_decoder."))
    return Contents(path, trained, frozen, given, later)


def our_name(name: str) -> str:
    """The name in the adaptation, or Meta's for what is frozen."""
    if match := ADAPTER.fullmatch(name):
        block, kind, layer, part = match.groups()
        return f"encoder.{kind.lower()}_adapters.{block}.{'down' if layer == '1' else 'up'}.{part}"
    if name.startswith("mask_decoder."):
        for later, meta in LATER_MLP.items():
            name = re.sub(rf"(?<=\.){re.escape(later)}", meta, name)
        return name.removeprefix("mask_")
    return re.sub(r"\.attn\.rel_([hw])$", r".attn.rel_pos_\1", name)


def check_sizes(contents: Contents, backbone: Backbone, wanted: Mapping[str, tuple[int, int]]) -> None:
    """Compares what a file holds with the backbone and with what the caller wants.

    Args:
        contents: of the file.
        backbone: what it is to be used with.
        wanted: further sizes by name: expected, found.

    Raises:
        WeightsError: one line for each size that does not fit.
    """
    variant = backbone.variant
    blocks = {name.split(".")[2] for name in contents.trained if name.startswith("encoder.space_adapters.")}
    channels = contents.trained["encoder.space_adapters.0.down.weight"].shape[1]
    sizes = {"channels": (variant.dim, channels), "blocks": (variant.depth, len(blocks)), **wanted}
    lines = [
        f"  {name}: expected {size}, the file has {found}" for name, (size, found) in sizes.items() if size != found
    ]
    if lines:
        hint = f"use the backbone it was trained on ({variant.name} came) and the sizes it was trained with"
        raise WeightsError("\n".join([f"{contents.path} does not fit; {hint}:", *lines]))


def compare_frozen(contents: Contents, backbone: Backbone) -> Frozen:
    """The frozen tensors of a whole checkpoint must be the backbone's, or its adapters adapt something else.

    Raises:
        WeightsError: some differ.
    """
    own = backbone.state_dict()
    same, resized, other = [], [], []
    for name, tensor in contents.frozen.items():
        table = TABLE.fullmatch(name) is not None
        if name not in own or (table and not contents.relative_positions):
            continue
        if own[name].shape == tensor.shape and bool((own[name].cpu().float() == tensor.float()).all()):
            same.append(contents.given[name])
        elif own[name].shape != tensor.shape and (table or name == POSITIONS):
            resized.append(contents.given[name])
        else:
            other.append(contents.given[name])
    if other:
        raise WeightsError(
            f"{contents.path} was trained on another SAM than this {backbone.variant.name}: {len(other)} frozen "
            f"tensors differ, such as {', '.join(other[:3])}; load the SAM checkpoint that it was trained on"
        )
    return Frozen(tuple(same), tuple(resized))


def load_into(adaptation: Adaptation, contents: Contents, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Copies the tensors of some parts into an adaptation; returns the names in the file of those used.

    Args:
        adaptation: Of the file's sizes.
        contents: Of the file.
        parts: Starts of our names that the file must fill.

    Raises:
        WeightsError: tensors are missing or have another shape; nothing has been copied then.
    """
    own = {name: tensor for name, tensor in adaptation.state_dict().items() if name.startswith(parts)}
    found = contents.trained
    missing = [name for name in own if name not in found]
    shapes = [
        f"{contents.given[name]} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if missing or shapes:
        no_depth = bool(missing) and all(name.startswith(DEPTH) for name in missing)
        hint = "it has no depth adapters, read it with the layout none" if no_depth else "it is not whole"
        lines = [f"  missing: {name}" for name in missing] + [f"  shape: {line}" for line in shapes]
        more = [f"  … and {len(lines) - 10} more"] if len(lines) > 10 else []
        raise WeightsError("\n".join([f"{contents.path} does not fit; {hint}:", *lines[:10], *more]))
    adaptation.load_state_dict({name: found[name] for name in own}, strict=False)
    return tuple(contents.given[name] for name in own)


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors, taken out of the record of a training, without the prefix of several devices."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} should hold a dictionary of tensors, but holds other things")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _kind(tensors: Mapping[str, Tensor]) -> str:
    if "image_encoder.patch_embed.proj.weight" in tensors:
        return "it is a checkpoint of SAM itself: load it as the backbone"
    return f"it has {', '.join(list(tensors)[:5]) or 'no tensors'}"
