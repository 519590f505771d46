"""Models with random weights at real sizes, and the scans that they are shown, for the benchmarks.

What starts at zero (positions, up-projections, some biases) is filled with random numbers, because a path that gives
zero could be left out without anyone noticing. Models for prediction go through a bundle and a checkpoint in a
temporary folder, as those of a user do.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from voxelsam import adapt, backbones, bundle
from voxelsam.model import Segmenter
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.space import Grid
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.volumes import Volume

LOW, HIGH = -200.0, 250.0
"""Hounsfield units that become 0 and 1."""

MA_SAM = {"name": "ma_sam", "init": "official", "dropout": 0.0}
MED_SA = {"name": "med_sa", "variant": "released"}
SAM = {"name": "frozen"}


@dataclass(frozen=True)
class Wanted:
    """A model.

    Attributes:
        variant: of the backbone.
        size: pixels (height, width) of its pictures.
        method: name and options, as in a recipe.
        classes: with the background.
        depth: slices of a stack.
        stride: slices between stacks.
    """

    variant: str
    size: tuple[int, int]
    method: dict[str, object]
    classes: int = 13
    depth: int = 5
    stride: int = 1


def fill(module: nn.Module, spread: float = 0.02) -> None:
    """Random numbers for parameters that are zero throughout."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        if not parameter.detach().any():
            noise = spread * torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise)


def built(variant: Variant, size: tuple[int, int], method: dict[str, object], classes: int, spread: float) -> Segmenter:
    """A segmenter for training, or for comparing, with random weights."""
    torch.manual_seed(3)
    backbone = Backbone(variant, size)
    fill(backbone, spread)
    return Segmenter(backbone, adapted(backbone, method, classes, spread))


def adapted(backbone: Backbone, method: dict[str, object], classes: int, spread: float = 0.02) -> adapt.Adaptation:
    options = dict(method)
    adaptation = adapt.build(str(options.pop("name")), options, backbone, classes)
    fill(adaptation, spread)
    return adaptation


class Shelf:
    """Segmenters and bundles on demand, their checkpoints kept in a folder.

    Args:
        folder: for the checkpoints, one per backbone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint(self, variant: str) -> Path | None:
        """A checkpoint at the backbone's own image size; none for a backbone that is made from a seed."""
        if variant in backbones.SEEDED:
            return None
        path = self.folder / f"{variant}.safetensors"
        if not path.exists():
            torch.manual_seed(3)
            backbone = backbones.build(variant)
            fill(backbone)
            save_file(backbone.state_dict(), path)
        return path

    def segmenter(self, wanted: Wanted) -> Segmenter:
        return self._made(wanted)[0]

    def bundle(self, wanted: Wanted) -> bundle.Bundle:
        """What ``voxelsam.infer.predictor.Predictor`` takes."""
        segmenter, report = self._made(wanted)
        path = self.checkpoint(wanted.variant)
        names = [f"structure_{number}" for number in range(1, wanted.classes)]
        prompted = wanted.method["name"] == "frozen"
        return bundle.describe(
            segmenter,
            labels={"background": 0} | {name: number for number, name in enumerate(names, 1)},
            channels=("CT",),
            kind="CT",
            stack=StackPlan(depth=wanted.depth, stride=wanted.stride, size=wanted.size, plane="axial"),
            intensity=Intensity("window", low=LOW, high=HIGH),
            adapt=wanted.method,
            prompts=bundle.PromptsLearnt(not prompted, ("point", "box") if prompted else (), False),
            backbone=bundle.BackboneIdentity(wanted.variant, report.sha256, None if path is None else str(path)),
        )

    def _made(self, wanted: Wanted) -> tuple[Segmenter, backbones.LoadReport]:
        path = self.checkpoint(wanted.variant)
        backbone, report = backbones.obtain(wanted.variant, path, wanted.size)
        torch.manual_seed(5)
        read(backbone)
        return Segmenter(backbone, adapted(backbone, wanted.method, wanted.classes)).eval(), report


def predictor(shelf: Shelf, wanted: Wanted, precision: str = "fp32", **settings: Any) -> Any:
    """A ``Predictor`` on the processor, whose weights have been read: until then they may lie in a file only."""
    from voxelsam.infer.predictor import Predictor

    made = Predictor(shelf.bundle(wanted), device="cpu", precision=precision, **settings)
    read(made.segmenter)
    return made


def read(module: nn.Module) -> None:
    """Reads all tensors once, products' too, which are no parameters."""
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False), *vars(part).values()):
            if isinstance(tensor, torch.Tensor) and not tensor.is_mkldnn:
                tensor.sum()


def scan(size: tuple[int, int], slices: int) -> Volume:
    """A body with organs and noise, air around it and bone on every slice, so that each slice has both limits."""
    height, width = size
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    data = np.empty((1, width, height, slices), np.int16)
    centres = rng.uniform(-0.4, 0.4, (6, 2))
    for k in range(slices):
        plane = np.where((x / 0.85) ** 2 + (y / 0.6) ** 2 < 1, 40.0, -1000.0)
        for number, (right, down) in enumerate(centres):
            reach = 0.05 + 0.12 * np.sin(np.pi * (k / slices + number / 6)) ** 2
            plane[(x - right) ** 2 + (y - down) ** 2 < reach**2] = 70 + 15 * number
        plane[(x / 0.08) ** 2 + ((y - 0.4) / 0.08) ** 2 < 1] = 700
        data[0, :, :, k] = (plane + rng.normal(0, 12, plane.shape)).T
    return Volume(data, Grid((width, height, slices), np.diag([-0.8, -0.8, 3.0, 1.0])), "CT")


def planes(volume: Volume) -> np.ndarray:
    """The values of a scan as "slices height width"."""
    return np.ascontiguousarray(volume.data[0].transpose(2, 1, 0))


def stacks(size: tuple[int, int], depth: int, batch: int = 1) -> torch.Tensor:
    """Stacks "batch depth 3 height width", grey, 0…1."""
    generator = torch.Generator().manual_seed(11)
    grey = torch.rand(batch, depth, 1, *size, generator=generator)
    return grey.expand(-1, -1, 3, -1, -1).contiguous()


def encoder_flops(variant: Variant, size: tuple[int, int]) -> float:
    """Operations of SAM's image encoder on one picture, two per multiplication, nothing spent on filled-up windows."""
    height, width = (pixels // variant.patch for pixels in size)
    tokens, dim, window = height * width, variant.dim, variant.window
    inside = sum(
        (min(window, height - row) * min(window, width - column)) ** 2
        for row in range(0, height, window)
        for column in range(0, width, window)
    )
    linear = tokens * dim**2 * (8 + 4 * variant.mlp_ratio)
    pairs = len(variant.global_blocks) * tokens**2 + (variant.depth - len(variant.global_blocks)) * inside
    out = variant.decoder_dim
    ends = tokens * (6 * variant.patch**2 * dim + 2 * dim * out + 18 * out**2)
    return float(variant.depth * linear + 4 * pairs * dim + ends)
