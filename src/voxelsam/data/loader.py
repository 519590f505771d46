"""Prepared cases → batches of stacks, the same for the same seed whatever the number of workers.

Every random choice is a function of (seed, epoch, case, stack): the order of an epoch, and the augmentation of each
stack. So a run that was interrupted and goes on sees exactly what an uninterrupted one would have seen.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from voxelsam.data.augment import Augment
from voxelsam.data.cache import Prepared
from voxelsam.stacks.cut import StackBatch, cut, cut_labels
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
    """

    def __init__(
        self, cases: Sequence[Prepared], plan: StackPlan, augment: Augment | None = None, seed: int = 0
    ) -> None:
        self.cases = tuple(cases)
        self.plan = plan
        self.augment = augment
        self.seed = seed
        self.stacks = [(case, start) for case, one in enumerate(self.cases) for start in plan.starts(one.slices)]

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, item: Item) -> StackBatch:
        """One stack as a batch of one."""
        epoch, position = item
        number, start = self.stacks[position]
        case = self.cases[number]
        images = cut(case.image, self.plan, start, case.scale)
        target = cut_labels(case.label, self.plan, start)
        if self.augment is not None:
            images, target = self.augment(images, target, seed=mix(self.seed, epoch, position))
        frame = self.plan.frame((case.label.shape[1], case.label.shape[0]))
        return StackBatch(images[None], torch.tensor([start]), (frame,), (case.id,), target[None])


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
    """Several batches of one as one batch."""
    targets = [item.target for item in items if item.target is not None]
    return StackBatch(
        images=torch.cat([item.images for item in items]),
        first=torch.cat([item.first for item in items]),
        frames=tuple(frame for item in items for frame in item.frames),
        cases=tuple(case for item in items for case in item.cases),
        target=torch.cat(targets) if len(targets) == len(items) else None,
    )


def mix(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
