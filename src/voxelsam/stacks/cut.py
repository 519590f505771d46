"""Canonical volume → stacks of model pictures.

The canonical volume is ``channels i j k`` as :class:`voxelsam.space.Placement` brings it: i runs to the right on a
slice (width), j downwards (height), k counts slices. Only the slices of one stack are ever touched or copied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from voxelsam.stacks.frame import FrameMap, frame_to_model, labels_to_model
from voxelsam.stacks.intensity import Scale, to_three
from voxelsam.stacks.plan import StackPlan
from voxelsam.types import LabelArray, Pixels


@dataclass
class StackBatch:
    """Stacks that go through the model together; one entry of each field per stack."""

    images: Float[Tensor, "batch depth 3 height width"]
    """0…1, before the backbone's pixel statistics."""
    first: Int[Tensor, " batch"]
    """Index of the first slice, possibly below 0."""
    frames: tuple[FrameMap, ...]
    cases: tuple[str, ...]
    target: Int[Tensor, "batch depth height width"] | None = None
    """Class indices."""
    instances: Int[Tensor, "batch depth height width"] | None = None
    """Numbers of single objects, 0 where there is none."""
    extents: Float[Tensor, "batch classes 6"] | None = None
    """3D box of each class in the whole scan: x0 y0 x1 y1 in model pixels, then first and last slice counted from the
    stack's first; NaN where the scan does not show the class."""
    unlabelled: Bool[Tensor, "batch classes"] | None = None
    """Classes that nobody looked for in the case: their pixels are drawn as background. None: all were looked for."""
    numbers: Int[Tensor, " batch"] | None = None
    """Number of each stack in its data set, for choices that must not depend on what else is in the batch."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "StackBatch":
        """The batch with its tensors on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "StackBatch":
        """The batch in page-locked memory, from which copies to a GPU are faster."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "StackBatch":
        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return replace(
            self,
            images=change(self.images),
            first=change(self.first),
            target=maybe(self.target),
            instances=maybe(self.instances),
            extents=maybe(self.extents),
            unlabelled=maybe(self.unlabelled),
            numbers=maybe(self.numbers),
        )


def cut(data: Pixels, plan: StackPlan, start: int, scale: Scale) -> Float[Tensor, "depth 3 height width"]:
    """One stack of a canonical volume as the model sees it, float32, 0…1; padding is 0.

    Args:
        data: canonical volume; any numeric type, any strides, a memory map too.
        plan: how to cut.
        start: first slice, one of ``plan.starts``.
        scale: what ``Intensity.measure`` found for this volume.

    Raises:
        InputError: the number of channels does not fit the scale or the plan's rule, or there are NaN values.
    """
    return finished(pictures(data, plan, plan.slices(start, data.shape[-1]), scale), plan, scale, data.shape[1:3])


def pictures(
    data: Pixels, plan: StackPlan, numbers: Sequence[int], scale: Scale
) -> Float[Tensor, "slices channels height width"]:
    """Some slices of a canonical volume, scaled and resized each by itself, before :func:`finished`.

    Args:
        data: canonical volume.
        plan: how to cut.
        numbers: of the slices.
        scale: what ``Intensity.measure`` found for this volume.

    Raises:
        InputError: the number of channels does not fit the scale, or there are NaN values.
    """
    picked = data[..., list(numbers)]
    scaled = torch.from_numpy(np.ascontiguousarray(rearrange(scale.apply(picked), "c i j d -> d c j i")))
    return frame_to_model(scaled, plan.frame((data.shape[2], data.shape[1])))


def finished(
    pictures: Float[Tensor, "slices channels height width"], plan: StackPlan, scale: Scale, size: Sequence[int]
) -> Float[Tensor, "slices 3 height width"]:
    """Pictures as the model sees them: 0…1 in three channels.

    With the scope ``stack`` these must be the slices of one stack, because they are stretched together; otherwise every
    slice comes out as it would in any stack.

    Args:
        pictures: of :func:`pictures`; they are not changed.
        plan: how to cut.
        scale: of the volume.
        size: pixels along i and j of the volume's slices.

    Raises:
        InputError: the number of channels does not fit the plan's rule.
    """
    result = pictures.clone()
    rows, columns = plan.frame((size[1], size[0])).inside
    shown = result[..., rows, columns]
    shown.copy_(scale.finish(shown))
    return to_three(result, plan.channels).contiguous()


def cut_labels(classes: LabelArray, plan: StackPlan, start: int) -> Int[Tensor, "depth height width"]:
    """The class indices that belong to the stack of :func:`cut`, int64; padding is 0.

    Args:
        classes: class indices on the canonical grid.
        plan: how to cut.
        start: first slice, one of ``plan.starts``.
    """
    picked = rearrange(_stack(classes, plan, start), "i j d -> d j i").astype(np.int64, order="C")
    return labels_to_model(torch.from_numpy(picked), plan.frame((classes.shape[1], classes.shape[0])))


def _stack(data: Shaped[np.ndarray, "*lead k"], plan: StackPlan, start: int) -> Shaped[np.ndarray, "*lead depth"]:
    """A copy of the slices of one stack, and of nothing else."""
    return data[..., list(plan.slices(start, data.shape[-1]))]
