"""When a run must stop: a number that is none, a lost worker, no memory left. What was good before is kept.

A loss that is not finite stops the run before it can reach the weights, and so does a gradient, but for fp16: there the
scaler of the gradients skips such steps, as it should. Errors name epoch, step, cases and slices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from voxelsam.errors import TrainingError
from voxelsam.stacks.cut import StackBatch
from voxelsam.train import distributed
from voxelsam.train.job import STATE, Job

LOST_WORKER = ("DataLoader worker", "shared memory limit")
"""What PyTorch's messages about lost loader processes say."""

NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "not enough memory")
"""What PyTorch's messages say where there is no memory left."""


@dataclass
class Guard(Callback):
    """Looks at the loss of every batch and at the gradients of every step.

    Raises:
        TrainingError: one of them is not finite.
    """

    job: Job
    epoch: int = 0
    """In which training is, from 0."""
    batch: int = 0
    """In which it is, from 0."""
    step: int = 0
    """Optimiser steps that are done."""
    stacks: list[tuple[str, int]] = field(default_factory=list)
    """Case and first slice of every stack since the last step of the optimiser."""

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: StackBatch, index: int
    ) -> None:
        """Notes what is being computed."""
        if trainer.global_step != self.step or index == 0:
            self.stacks.clear()
        self.epoch, self.batch, self.step = trainer.current_epoch, index, trainer.global_step
        self.stacks += [one for one in zip(batch.cases, batch.first.tolist(), strict=True) if one[0]]

    def on_before_backward(self, trainer: lightning.Trainer, module: lightning.LightningModule, loss: Tensor) -> None:
        """Stops at a loss that is not finite."""
        if not torch.isfinite(loss):
            raise self.stop("the loss is not a finite number")

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, optimizer: Optimizer
    ) -> None:
        """Stops at a gradient that is not finite, but for fp16, where the scaler skips the step."""
        if self.job.recipe.train.precision == "fp16":
            return
        gradients = [tensor.grad for group in optimizer.param_groups for tensor in group["params"]]
        if not torch.isfinite(get_total_norm([gradient for gradient in gradients if gradient is not None])):
            raise self.stop("the loss is finite, but its gradient is not")

    def stop(self, what: str) -> TrainingError:
        """The error that says what was no number, where, and what to do; all processes come here together."""
        self.stacks = [stack for share in distributed.gathered(self.stacks) for stack in share]
        depth = self.job.recipe.stack.depth
        shown = "; ".join(
            f"{case} slices {max(first, 0)} to {first + depth - 1} (from 0)"
            for case, first in dict.fromkeys(self.stacks)
        )
        half = self.job.recipe.train.precision != "fp32"
        precision = "train.precision=fp32, or bf16 in place of fp16" if half else "a smaller train.clip, such as 1"
        return TrainingError(
            f"{what} at epoch {self.epoch + 1}, batch {self.batch + 1} (step {self.step + 1}), on {shown}. "
            f"Look at these cases with voxelsam doctor; if they are sound, start a new run with a smaller train.lr "
            f"(now {self.job.recipe.train.lr:g}), or {precision}. best/, last/ and the state are those of the last "
            "whole epoch",
            facts=self.facts(what),
        )

    def facts(self, what: str) -> dict[str, Any]:
        """What the record of the run says about the end."""
        stacks = [{"case": case, "first_slice": first} for case, first in dict.fromkeys(self.stacks)]
        return {"why": what, "epoch": self.epoch, "batch": self.batch, "step": self.step, "stacks": stacks}

    def explained(self, error: BaseException) -> TrainingError | None:
        """An error of ours for a lost worker and for memory that ran out; None for anything else."""
        text = str(error)
        if any(mark in text for mark in LOST_WORKER) and "Caught" not in text:
            return self._lost(text)
        if isinstance(error, MemoryError) or any(mark in text for mark in NO_MEMORY):
            return self._full(text)
        return None

    def _lost(self, text: str) -> TrainingError:
        workers = self.job.recipe.train.workers
        what = "a process that cuts stacks was lost"
        return TrainingError(
            f"{what} in epoch {self.epoch + 1} ({text.splitlines()[0].strip()}). The system may have ended it for want "
            f"of memory, or shared memory is full (/dev/shm; in a container: --shm-size). {kept(self.job)} If it "
            f"happens again, use fewer than the {workers} processes of train.workers (0 needs none)",
            facts=self.facts(what),
        )

    def _full(self, text: str) -> TrainingError:
        recipe, what = self.job.recipe, "there is no memory left"
        train, (height, width) = recipe.train, recipe.stack.size
        tried = (
            f"{train.batch} stacks of {recipe.stack.depth} slices of {height} × {width} pixels at once, "
            f"{train.precision}"
        )
        said = text.splitlines()[0].strip() if text else "MemoryError"
        return TrainingError(
            f"{what} in epoch {self.epoch + 1} with {tried} ({said}). "
            f"What helps, in this order: {'; '.join(ladder(self.job))}. {kept(self.job)}",
            facts=self.facts(what),
        )


@contextmanager
def explaining(guard: Guard) -> Iterator[None]:
    """Turns errors of PyTorch about lost workers and memory into ours.

    Raises:
        TrainingError: one of them came.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = guard.explained(error)
        if reason is None:
            raise
        raise reason from None


def ladder(job: Job) -> list[str]:
    """What makes a run need less memory, the change that costs least first; settings of a recipe."""
    train, (height, width) = job.recipe.train, job.recipe.stack.size
    steps = []
    if train.batch > 1:
        smaller = train.batch // 2
        more = -(-train.batch * train.accumulate // smaller)
        steps.append(f"train.batch={smaller} with train.accumulate={more}")
    if train.checkpointing is not True:
        steps.append("train.checkpointing=true")
    if train.precision == "fp32":
        steps.append("train.precision=bf16")
    patch = job.segmenter.backbone.variant.patch
    smaller_sides = [max(side // 2 // patch, 1) * patch for side in (height, width)]
    steps.append(f"stack.size={smaller_sides}")
    if job.recipe.stack.depth > 1:
        steps.append("a smaller stack.depth")
    return steps


def kept(job: Job) -> str:
    """What an earlier epoch left, and how to go on from there."""
    if not (job.folder / STATE).is_file():
        return "No epoch was finished, so nothing is lost."
    return f"The last state is kept; voxelsam train -o {job.folder} --continue goes on from it."
