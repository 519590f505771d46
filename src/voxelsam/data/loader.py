"""Prepared cases → batches of stacks, the same for the same seed whatever the number of workers.

Every random choice is a function of (seed, epoch, case, stack): the order of an epoch, and the augmentation of each
stack. So a run that was interrupted and goes on sees exactly what an uninterrupted one would have seen.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from voxelsam.data.augment import Augment
from voxelsam.data.cache import Prepared
from voxelsam.prompts.simulate import tight_box
from voxelsam.stacks.cut import StackBatch, cut, cut_labels
from voxelsam.stacks.frame import labels_to_model
from voxelsam.stacks.plan import StackPlan

Item = tuple[int, int]
"""Epoch and position: what a sampler asks a data set for."""


class Stacks(Dataset[StackBatch]):
    """Every stack of a list of cases.

    Args:
        cases: prepared cases.
        plan: how stacks are cut; ``plan.stride`` is the distance between the stacks of one case.
        augment: applied to each stack, or None.
        seed: of the augmentation.
        classes: where 3D boxes are wanted: how many classes there are, background included; else None.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        plan: StackPlan,
        augment: Augment | None = None,
        seed: int = 0,
        classes: int | None = None,
    ) -> None:
        self.cases = tuple(cases)
        self.plan = plan
        self.augment = augment
        self.seed = seed
        self.shadows = None if classes is None else tuple(Shadow.of(case, classes) for case in self.cases)
        self.stacks = [(case, start) for case, one in enumerate(self.cases) for start in plan.starts(one.slices)]

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, item: Item) -> StackBatch:
        """One stack as a batch of one."""
        epoch, position = item
        number, start = self.stacks[position]
        case = self.cases[number]
        frame = self.plan.frame((case.label.shape[1], case.label.shape[0]))
        shadow = None if self.shadows is None else self.shadows[number]
        images = cut(case.image, self.plan, start, case.scale)
        planes = [cut_labels(case.label, self.plan, start)]
        if case.instances is not None:
            planes.append(cut_labels(case.instances, self.plan, start))
        if shadow is not None:
            planes.append(labels_to_model(shadow.planes, frame))
        together = torch.cat(planes)
        if self.augment is not None:
            images, together = self.augment(images, together, seed=mix(self.seed, epoch, position))
        target, *others = torch.split(together, [len(plane) for plane in planes])
        return StackBatch(
            images[None],
            torch.tensor([start]),
            (frame,),
            (case.id,),
            target[None],
            instances=None if case.instances is None else others[0][None],
            extents=None if shadow is None else shadow.extents(others[-1], start)[None],
            unlabelled=None if case.unlabelled is None else torch.from_numpy(case.unlabelled)[None],
        )


@dataclass(frozen=True, eq=False)
class Shadow:
    """Where each class of a scan lies when one looks along the slices, and between which slices."""

    planes: Int[Tensor, "classes height width"]
    """1 where any slice shows the class; one plane for each class, background included."""
    spans: Int[Tensor, "classes 2"]
    """First and last slice of each class; -1 where no slice shows it."""

    @classmethod
    def of(cls, case: Prepared, classes: int) -> "Shadow":
        """The shadow of a case, made slice by slice."""
        planes = torch.zeros((classes, case.label.shape[1], case.label.shape[0]), dtype=torch.long)
        spans = torch.full((classes, 2), -1)
        for number in range(case.slices):
            drawn = np.ascontiguousarray(case.label[:, :, number].T)
            for class_ in np.unique(drawn[drawn < classes]):
                planes[class_] |= torch.from_numpy(drawn == class_)
                spans[class_, 1] = number
                if spans[class_, 0] < 0:
                    spans[class_, 0] = number
        return cls(planes, spans)

    def extents(
        self, planes: Int[Tensor, "classes model_height model_width"], start: int
    ) -> Float[Tensor, "classes 6"]:
        """The 3D boxes, as ``StackBatch.extents``.

        Args:
            planes: what became of the planes in the model's picture.
            start: first slice of the stack.
        """
        boxes = torch.full((len(planes), 6), math.nan)
        for class_, plane in enumerate(planes):
            if (box := tight_box(plane.numpy() > 0)) is not None:
                boxes[class_] = torch.tensor((*box, *(self.spans[class_] - start).tolist()))
        return boxes


class Order(Sampler[Item]):
    """The order of one epoch.

    Args:
        length: how many stacks there are.
        seed: of the shuffle; None keeps the order as it is.
        limit: at most so many stacks in an epoch, chosen anew in every epoch.
    """

    def __init__(self, length: int, seed: int | None = None, limit: int | None = None) -> None:
        self.length = length
        self.seed = seed
        self.limit = length if limit is None else min(limit, length)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.limit

    def __iter__(self) -> Iterator[Item]:
        order = np.arange(self.length)
        if self.seed is not None:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        for position in order[: self.limit]:
            yield self.epoch, int(position)


def loader(stacks: Stacks, order: Order, batch: int, workers: int = 0) -> "DataLoader[StackBatch]":
    """Batches of stacks in the given order; the last one may be smaller."""
    return DataLoader(
        stacks,
        batch_size=batch,
        sampler=order,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or every iteration would draw from the stream that drop-out uses
    )


def collate(items: Sequence[StackBatch]) -> StackBatch:
    """Several batches of one as one batch; what one of them lacks, all lack, but for marks of unlabelled classes."""
    return StackBatch(
        images=torch.cat([item.images for item in items]),
        first=torch.cat([item.first for item in items]),
        frames=tuple(frame for item in items for frame in item.frames),
        cases=tuple(case for item in items for case in item.cases),
        target=_together([item.target for item in items]),
        instances=_together([item.instances for item in items]),
        extents=_together([item.extents for item in items]),
        unlabelled=_marks(items),
    )


def _marks(items: Sequence[StackBatch]) -> Bool[Tensor, "batch classes"] | None:
    """Classes that nobody looked for; none in the items that say nothing, unless no item says anything."""
    said = next((item.unlabelled for item in items if item.unlabelled is not None), None)
    if said is None:
        return None
    none = said.new_zeros(said.shape[1])
    return torch.cat([none.expand(len(item), -1) if item.unlabelled is None else item.unlabelled for item in items])


def _together(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(there) if len(there) == len(tensors) else None


def mix(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
