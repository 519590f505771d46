"""nnU-Net's U-Net (Isensee et al., Nature Methods 18, 2021), trained from scratch: MONAI's DynUNet.

Kernel sizes, strides and filters follow from the stack's shape and spacing by the rules of nnU-Net's planner
(``topology`` below). The full width is nnU-Net's: 32 filters in the first stage, doubled in each further one up to 320
(512 in two dimensions); ``filters: 8`` is a network of a sixteenth of the size. There is no deep supervision: the loss
of the training loop is on the last logits, for all methods alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from voxelsam.adapt import Adaptation
from voxelsam.adapt._whole import Input, Whole, adaptation
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone

needs_backbone = False

EDGE = 4
"""Voxels that an axis keeps at the bottom of the U."""

WIDEST = {2: 512, 3: 320}
"""Filters that a stage has at most, by the dimensions."""


@dataclass(frozen=True)
class Config(Input):
    """What can be chosen about nnU-Net's U-Net."""

    filters: int = 32
    """Of the first stage; each further stage doubles them, up to 320 (512 in two dimensions) for 32."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Millimetres between voxels of the stack: slices, rows, columns."""
    residual: bool = False
    """Residual blocks in place of plain ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filters < 1:
            raise ValueError(f"filters: at least 1, not {self.filters}")
        if not all(0 < step < math.inf for step in self.spacing):
            raise ValueError(f"spacing: positive distances, not {self.spacing}")


@dataclass(frozen=True)
class Topology:
    """Stages of a U-Net, from the top down; axes in the order of its input."""

    kernels: tuple[tuple[int, ...], ...]
    """Of the convolutions of a stage."""
    strides: tuple[tuple[int, ...], ...]
    """With which a stage begins; those of the first are 1."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Sides must be multiples of these."""
        return tuple(math.prod(strides) for strides in zip(*self.strides, strict=True))


def topology(sides: Sequence[int], spacing: Sequence[float]) -> Topology:
    """The stages that nnU-Net plans for a patch.

    Each stage halves the axes that still have 2 × 4 voxels or more and whose voxels are less than twice as long as the
    shortest among those axes; a single such axis is halved only from 3 × 4 voxels on. Convolutions do not reach along
    an axis (kernel 1) until its voxels are less than twice as long as the shortest; from then on they do (kernel 3).
    The bottom always reaches along all axes.

    Args:
        sides: voxels along each axis.
        spacing: lengths of a voxel along each axis.

    Raises:
        ConfigError: the patch can not be halved twice.
    """
    sizes, lengths = list(sides), list(spacing)
    axes = range(len(sizes))
    kernel = [1] * len(sizes)
    kernels, strides = [], [(1,) * len(sizes)]
    while True:
        large = [axis for axis in axes if sizes[axis] >= 2 * EDGE]
        shortest = min((lengths[axis] for axis in large), default=0.0)
        halved = [axis for axis in large if lengths[axis] < 2 * shortest]
        if not halved or (len(halved) == 1 and sizes[halved[0]] < 3 * EDGE):
            break
        kernel = [3 if lengths[axis] < 2 * min(lengths) else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            sizes[axis], lengths[axis] = -(-sizes[axis] // 2), 2 * lengths[axis]
    if len(strides) < 3:
        raise ConfigError(
            f"a U-Net for stacks of {' × '.join(map(str, sides))} voxels has fewer than three stages: "
            "set stack.size to at least 16 × 16"
        )
    return Topology((*kernels, (3,) * len(sizes)), tuple(strides))


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh network for stacks of this depth at the backbone's image size.

    Raises:
        ConfigError: the images are too small.
    """
    from monai.networks.nets.dynunet import DynUNet

    axes = config.dimensions
    sides = (config.depth, *backbone.image_size)[-axes:]
    planned = topology(sides, config.spacing[-axes:])
    widest = WIDEST[axes] * config.filters // 32
    network = DynUNet(
        axes,
        config.channels,
        classes,
        kernel_size=planned.kernels,
        strides=planned.strides,
        upsample_kernel_size=planned.strides[1:],
        filters=[min(widest, config.filters * 2**stage) for stage in range(len(planned.strides))],
        res_block=config.residual,
    )
    for again in ("input_block", "downsamples", "bottleneck", "upsamples"):  # all of them lie in skip_layers too
        delattr(network, again)
    return adaptation(Whole(network, config, planned.steps, planned.steps))
