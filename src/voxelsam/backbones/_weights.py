"""From the tensors of a file to a backbone: strict, resized for another image size, with a report.

Convention: loading never keeps a random tensor and never drops one unnoticed. Tables that depend on the image size
(positions, and relative positions of global blocks) are resized once, here, and nowhere else.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from voxelsam.errors import WeightsError
from voxelsam.nn.attention import resize_table
from voxelsam.nn.backbone import Backbone, Variant

Rename = Callable[[str], str | None]

POSITIONS = "image_encoder.pos_embed"
SHOWN = 12
"""Names that a message lists before it says how many more there are."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a checkpoint."""

    variant: str
    """Name of the model."""
    path: Path | None
    """The file that was read; None for weights made from a seed."""
    sha256: str
    """Of that file; of the tensors for weights made from a seed."""
    image_size: tuple[int, int]
    """Pixels (height, width) that the backbone was built for."""
    file_image_size: tuple[int, int]
    """Pixels (height, width) that the file was made for."""
    loaded: tuple[str, ...]
    """Tensors taken as they are (converted to single precision where they were not)."""
    resized: tuple[str, ...]
    """Tensors interpolated to another image size."""
    initialised: tuple[str, ...]
    """Tensors that no file gave: none of a loaded backbone, all of one made from a seed."""
    ignored: tuple[str, ...]
    """Names in the file that were dropped on purpose."""

    def lines(self) -> tuple[str, ...]:
        """A summary for people."""
        if self.path is None and not self.initialised:
            return ("no backbone: the whole network is trained from scratch",)
        if self.path is None:
            return (f"{self.variant}, random from a seed (SHA-256 {self.sha256[:12]}…)",)
        text = [
            f"{self.variant} from {self.path.name} (SHA-256 {self.sha256[:12]}…): {len(self.loaded)} tensors loaded"
        ]
        if self.resized:
            before, after = (f"{size[0]} × {size[1]}" for size in (self.file_image_size, self.image_size))
            text.append(f"resized from {before} to {after} pixels: {listing(self.resized)}")
        if self.initialised:
            text.append(f"initialised: {listing(self.initialised)}")
        if self.ignored:
            text.append(f"ignored: {listing(self.ignored)}")
        return tuple(text)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}


def translate(tensors: Mapping[str, Tensor], rename: Rename, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under Meta's names, and the names that were dropped.

    Raises:
        WeightsError: two tensors that must be the same one differ.
    """
    result: dict[str, Tensor] = {}
    ignored = []
    for name, tensor in tensors.items():
        meta = rename(name)
        if meta is not None and meta not in result:
            result[meta] = tensor
            continue
        ignored.append(name)
        if meta is not None and not torch.equal(result[meta], tensor):
            raise WeightsError(f"{where}: {name} must be a copy of the other tensor that becomes {meta}, but differs")
    return result, tuple(ignored)


def image_size_of(tensors: Mapping[str, Tensor], patch: int) -> tuple[int, int]:
    """Pixels (height, width) that the tensors were made for, (0, 0) if they have no position table."""
    table = tensors.get(POSITIONS)
    return (0, 0) if table is None or table.ndim != 4 else (table.shape[1] * patch, table.shape[2] * patch)


def problems(tensors: Mapping[str, Tensor], variant: Variant) -> dict[str, list[str]]:
    """Why these tensors are not this variant at the image size they were made for: kind of problem to names."""
    size = image_size_of(tensors, variant.patch)
    with torch.device("meta"):
        expected = Backbone(variant, size if min(size) else variant.image_size).state_dict()
    found = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": [
            f"{name} is {_size(tensors[name])} instead of {_size(tensor)}"
            for name, tensor in expected.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ],
    }
    return {kind: names for kind, names in found.items() if names}


def complaint(source: str, variant: Variant, found: Mapping[str, list[str]]) -> str:
    """The problems of a file as a message of a few lines."""
    lines = (f"  {len(names)} {kind}: {listing(names)}" for kind, names in found.items())
    return f"{source} does not fit {variant.name}; tensors\n" + "\n".join(lines)


def assemble(
    tensors: Mapping[str, Tensor], variant: Variant, image_size: tuple[int, int], source: str
) -> tuple[Backbone, tuple[str, ...]]:
    """A backbone that owns these tensors, without a second copy of them, and the names of those that were resized.

    Args:
        tensors: Under Meta's names.
        variant: The sizes.
        image_size: Pixels (height, width) that the backbone shall see.
        source: What the tensors are from, for messages.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape, or the image does not divide into patches.
    """
    found = problems(tensors, variant)
    if found:
        raise WeightsError(complaint(source, variant, found))
    with torch.device("meta"):
        backbone = Backbone(variant, image_size)
    expected = backbone.state_dict()
    fitted = {name: _resized(name, tensor, expected[name].shape) for name, tensor in tensors.items()}
    backbone.load_state_dict(fitted, strict=True, assign=True)
    return backbone, tuple(sorted(name for name, tensor in tensors.items() if tensor.shape != expected[name].shape))


def resize_positions(
    table: Float[Tensor, "1 height width channels"], grid: tuple[int, int]
) -> Float[Tensor, "1 rows columns channels"]:
    """A table of absolute positions for another number of tokens, bilinear (corners not aligned)."""
    stretched = F.interpolate(
        rearrange(table, "one h w channels -> one channels h w"), size=grid, mode="bilinear", align_corners=False
    )
    return rearrange(stretched, "one channels h w -> one h w channels").contiguous()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and single-precision values, whatever their order, device or precision."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False).tobytes())
    return total.hexdigest()


def listing(names: tuple[str, ...] | list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _resized(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    tensor = tensor.detach().float()
    if tensor.shape == shape:
        return tensor
    return resize_positions(tensor, (shape[1], shape[2])) if name == POSITIONS else resize_table(tensor, shape[0])


def _size(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "one number"
