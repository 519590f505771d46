"""Prepared cases → batches of stacks, the same for the same seed whatever the number of workers.

Every random choice is a function of (seed, epoch, case, stack): which stacks an epoch shows and in which order, and the
augmentation of each. So a run that was interrupted and goes on sees exactly what an uninterrupted one would have seen.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from voxelsam.data.augment import Augment
from voxelsam.data.cache import Prepared
from voxelsam.data.sampling import Draw, Sampling, Shown
from voxelsam.errors import InputError, VoxelSamError
from voxelsam.prompts.simulate import tight_box
from voxelsam.stacks.cut import StackBatch, cut, cut_labels
from voxelsam.stacks.frame import labels_to_model
from voxelsam.stacks.plan import StackPlan

Item = tuple[int, int]
"""Epoch and position: what a sampler asks a data set for. Positions beyond the last stack begin with the first again:
the same stack, with another change."""

PADDING = -1
"""A position at which there is a stack that counts nowhere: for a process whose share of a batch is empty."""

IGNORED = 255
"""Class index of pixels that do not count."""


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
        """One stack as a batch of one.

        Raises:
            StackError: it cannot be cut; the message names its case.
        """
        epoch, position = item
        if position == PADDING:
            return self._padding(self[epoch, 0])
        number, start = self.stacks[position % len(self.stacks)]
        try:
            return self._cut(number, start, epoch, position)
        except VoxelSamError as error:
            where = f"case {self.cases[number].id}, stack from slice {start} (from 0)"
            raise StackError(f"{where}: {error}", code=error.code) from None
        except Exception as error:
            error.add_note(f"while cutting case {self.cases[number].id}, stack from slice {start} (from 0)")
            raise

    def shown(self) -> Shown:
        """What every stack shows."""
        rows, numbers = [], []
        for number, start in self.stacks:
            case = self.cases[number]
            rows.append(case.shown[list(self.plan.slices(start, case.slices))].any(axis=0))
            numbers.append(number)
        return Shown(np.stack(rows), np.array(numbers))

    def _cut(self, number: int, start: int, epoch: int, position: int) -> StackBatch:
        case = self.cases[number]
        frame = self.plan.frame((case.label.shape[1], case.label.shape[0]))
        shadow = None if self.shadows is None else self.shadows[number]
        images = cut(case.image, self.plan, start, case.scale)
        planes = [cut_labels(case.label, self.plan, start)]
        if case.instances is not None:
            planes.append(cut_labels(case.instances, self.plan, start))
        if shadow is not None:
            planes.append(labels_to_model(shadow.planes, frame))
        together, seed = torch.cat(planes), mix(self.seed, epoch, position)
        if self.augment is not None:
            images, together = self.augment(images, together, seed)
        target, *others = torch.split(together, [len(plane) for plane in planes])
        instances = None if case.instances is None else others[0]
        extents = None if shadow is None else shadow.extents(others[-1], start)
        if self.augment is not None and self.augment.reverses(seed):
            images, target = images.flip(0), target.flip(0)
            instances = None if instances is None else instances.flip(0)
            extents = None if extents is None else reversed_extents(extents, self.plan.depth)
        return StackBatch(
            images[None],
            torch.tensor([start]),
            (frame,),
            (case.id,),
            target[None],
            instances=None if instances is None else instances[None],
            extents=None if extents is None else extents[None],
            unlabelled=None if case.unlabelled is None else torch.from_numpy(case.unlabelled)[None],
            numbers=torch.tensor([position]),
        )

    def _padding(self, stack: StackBatch) -> StackBatch:
        """A stack of the same shape that belongs to no case, with no pixel that counts and no class looked for."""
        marks = next((case.unlabelled for case in self.cases if case.unlabelled is not None), None)
        nothing = None if marks is None else torch.ones(1, len(marks), dtype=torch.bool)
        if nothing is not None:
            nothing[:, 0] = False
        return replace(
            stack,
            cases=("",),
            target=torch.full_like(stack.images[:, :, 0], IGNORED, dtype=torch.long),
            instances=None if stack.instances is None else torch.zeros_like(stack.instances),
            unlabelled=nothing,
            numbers=torch.tensor([PADDING]),
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


def reversed_extents(extents: Float[Tensor, "classes 6"], depth: int) -> Float[Tensor, "classes 6"]:
    """3D boxes of a stack whose slices come in reverse order.

    Args:
        extents: as ``StackBatch.extents``.
        depth: slices of the stack.
    """
    first, last = extents[:, 4], extents[:, 5]
    return torch.cat([extents[:, :4], (depth - 1 - last)[:, None], (depth - 1 - first)[:, None]], dim=1)


class StackError(InputError):
    """A stack cannot be cut; the message begins with its case."""

    def __init__(self, message: str, *, code: str = "") -> None:
        # a loader process hands its error over as one text that ends with class and message; the message alone is kept
        super().__init__(message.rsplit(f"{StackError.__name__}: ")[-1].strip(), code=code)


class Order(Sampler[Item]):
    """The order of one epoch.

    Args:
        length: how many stacks there are.
        seed: of the shuffle; None keeps the order as it is.
        limit: at most so many stacks in an epoch, chosen anew in every epoch.
        draw: chooses the stacks of an epoch in place of ``length`` and ``limit``; needs a seed.
    """

    def __init__(
        self, length: int, seed: int | None = None, limit: int | None = None, draw: Draw | None = None
    ) -> None:
        self.length = length
        self.seed = seed
        self.limit = length if limit is None else min(limit, length)
        self.draw = draw
        self.epoch = 0

    @classmethod
    def of(cls, stacks: Stacks, sampling: Sampling, seed: int, limit: int | None = None) -> "Order":
        """The order in which training sees stacks.

        Args:
            stacks: of the training cases.
            sampling: which of them, and how often.
            seed: of everything that is drawn.
            limit: at most so many in an epoch.

        Raises:
            InputError: the data cannot be sampled like that.
        """
        if sampling == Sampling():
            return cls(len(stacks), seed, limit)
        return cls(len(stacks), seed, draw=Draw(sampling, stacks.shown(), limit))

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.limit if self.draw is None else self.draw.length

    def __iter__(self) -> Iterator[Item]:
        for position in self._positions():
            yield self.epoch, int(position)

    def _positions(self) -> Int[np.ndarray, " positions"]:
        if self.seed is None:
            return np.arange(self.limit)
        random = np.random.default_rng([self.seed, self.epoch])
        if self.draw is not None:
            return self.draw.positions(random)
        return random.permutation(self.length)[: self.limit]


class Shares(Sampler[list[Item]]):
    """The batches of an order, and of each the share of one process.

    Every stack of the order goes to exactly one process. A batch that does not divide gives some processes one stack
    more than others; one that has fewer stacks than there are processes gives some of them padding, which counts
    nowhere, so that all take the same number of steps.

    Args:
        sampler: the order; the same in every process.
        batch: stacks in a batch, over all processes.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, sampler: Order, batch: int, rank: int = 0, size: int = 1) -> None:
        self.sampler = sampler
        self.batch = batch
        self.rank = rank
        self.size = size
        self.done = 0
        """Batches that the next iteration leaves out, because an interrupted run has already had them."""

    def go_on(self, epoch: int, done: int) -> None:
        """Begins in the middle.

        Args:
            epoch: of the next iteration, from 0.
            done: batches of it that are left out.
        """
        self.sampler.set_epoch(epoch)
        self.done = done

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch)

    def __iter__(self) -> Iterator[list[Item]]:
        done, self.done = self.done, 0
        items = list(self.sampler)
        for start in range(done * self.batch, len(items), self.batch):
            whole = items[start : start + self.batch]
            share = whole[self.rank * len(whole) // self.size : (self.rank + 1) * len(whole) // self.size]
            yield share or [(whole[0][0], PADDING)]


def loader(
    stacks: Stacks, order: Order, batch: int, workers: int = 0, rank: int = 0, size: int = 1
) -> "DataLoader[StackBatch]":
    """Batches of stacks in the given order; the last one may be smaller.

    Args:
        stacks: what is cut.
        order: of the stacks, the same in every process.
        batch: stacks in a batch, over all processes that train together.
        workers: processes that cut stacks for this one.
        rank: number of this process among those that train together; each gets its share of every batch.
        size: number of processes that train together.
    """
    return DataLoader(
        stacks,
        batch_sampler=Shares(order, batch, rank, size),
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
        numbers=_together([item.numbers for item in items]),
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
