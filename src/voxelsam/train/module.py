"""Lightning wiring, and nothing else: losses, optimiser, learning rate, validation Dice, the state to go on from.

With several processes each has its share of a batch; losses, history and validation are those of all of them, so that
every process comes to the same numbers and decisions.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voxelsam.adapt import Regulated
from voxelsam.data.loader import mix
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.stacks.cut import StackBatch
from voxelsam.train import distributed, optim
from voxelsam.train.losses import dice_ce, object_dice_ce, quality_error
from voxelsam.train.prompting import Kind, PromptSection, Rows, ask, nothing
from voxelsam.train.recipe import TrainSection
from voxelsam.volumes.labels import Labels

Encode = Callable[[StackBatch], Float[Tensor, "frames channels h w"]]
"""Stacks to the features of all their slices, depth varying fastest."""


class TrainingModule(lightning.LightningModule):
    """A segmenter under training.

    Args:
        segmenter: frozen backbone and the adaptation that is trained.
        settings: the recipe's ``train`` section.
        labels: names of the classes, for the records.
        steps: optimiser steps of the whole run.
        prompts: the recipe's ``prompts`` section.
        encode: features of the slices of a batch; None: the segmenter's encoder every time.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        settings: TrainSection,
        labels: Labels,
        steps: int,
        prompts: PromptSection,
        encode: Encode | None = None,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.encode: Encode = encode or (lambda batch: segmenter.encode(batch.images))
        self.settings = settings
        self.prompts = prompts
        self.labels = labels
        self.steps = steps
        self.history: list[dict[str, float]] = []
        """One row per epoch: what ``metrics.csv`` holds."""
        self._losses: list[Tensor] = []
        self._validated: dict[str, float] = {}
        self._objects: defaultdict[str, list[float]] = defaultdict(list)
        self._random: tuple[Tensor, list[Tensor]] | None = None
        self._counts: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(3, labels.count, dtype=torch.long))

    def training_step(self, batch: StackBatch, index: int) -> Tensor:
        """Loss of one batch of stacks, asked with or without prompts."""
        rng = np.random.default_rng([self.settings.seed, self.current_epoch, index])
        features = self.encode(batch)
        asked = [(kind, kind and self._ask(kind, batch, features, rng)) for kind in self.prompts.choose(rng)]
        answers = [
            self._prompted(features, rows or nothing(batch), rng)
            for kind, rows in asked
            if kind is not None and distributed.anywhere(rows is not None)
        ]
        if not answers or any(kind is None for kind, _ in asked):
            answers.append(self._free(features, batch))
        parts = torch.stack(answers).mean(0)
        self._losses.append(parts.detach())
        loss, ce, dice = parts.unbind()
        if (regulated := self._regulated) is not None:
            loss = loss + regulated.penalty()
        self.log_dict({"train/loss": loss, "train/ce": ce, "train/dice_loss": dice}, batch_size=len(batch.images))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch.images))
        return loss

    def close_epoch(self) -> dict[str, float]:
        """Adds the row of the epoch that has just ended, training and validation, to the history."""
        mean = torch.stack([losses.to(self.device) for losses in self._losses]).mean(0).tolist()
        self._losses.clear()
        rate_now = optim.common_rate(self.trainer.optimizers[0])
        row = {"epoch": self.current_epoch, "step": self.global_step, "lr": rate_now}
        row |= dict(zip(("loss", "ce", "dice_loss"), mean, strict=True)) | self._validated
        self._validated = {}
        self.history.append(row)
        return row

    def validation_step(self, batch: StackBatch, index: int) -> None:
        """Adds a batch's overlaps to its cases' counts, and the Dice of prompted objects to theirs."""
        if batch.target is None:
            raise ValueError("validation needs labels")
        features = self.encode(batch)
        if self.prompts.free:
            predicted = self._stacks(self.segmenter.decode(features), batch).argmax(2)
            for stack, (case, one, target) in enumerate(zip(batch.cases, predicted, batch.target, strict=True)):
                if not case:
                    continue  # padding of an empty share
                counts = _overlaps(one, target, self.labels.count)
                if batch.unlabelled is not None:
                    counts = counts.masked_fill(batch.unlabelled[stack], 0)
                self._counts[case] += counts.cpu()
        for kind in self.prompts.kinds if self.prompts.used else ():
            rng = np.random.default_rng([self.settings.seed, index])
            rows = self._ask(kind, batch, features, rng, replace(self.prompts, points=1, jitter=0.0, loose=0.0))
            if rows is not None:
                answer = rows.logits(self.segmenter.decode(features[rows.frames], rows.prompts)) > 0
                self._objects[kind] += _object_dice(answer, rows).tolist()

    def on_validation_epoch_end(self) -> None:
        """Dice per structure, mean over cases; a structure that a case neither shows nor predicts is left out there.

        So is one that nobody looked for in the case.

        ``val_dice`` chooses the best epoch: the prompt-free Dice; with prompts the mean of it and of the Dice of
        prompted objects, each on the slices of a stack, per kind of prompt.
        """
        values: dict[str, float] = {}
        means: list[float] = []
        self._share_validation()
        if self._counts:
            both, predicted, true = torch.stack([self._counts[case] for case in sorted(self._counts)]).unbind(1)
            per_class = (2 * both / (predicted + true))[:, 1:].nanmean(0)
            values |= dict(zip((f"dice/{name}" for name in self.labels.names), per_class.tolist(), strict=True))
            means.append(per_class.nanmean().item())
        if self._objects:
            values |= {f"prompted/{kind}": math.fsum(dice) / len(dice) for kind, dice in self._objects.items()}
            means.append(float(np.mean([values[f"prompted/{kind}"] for kind in self._objects])))
        self._counts.clear()
        self._objects.clear()
        self._validated = {"val_dice": float(np.mean(means)) if means else math.nan} | values
        self.log("val_dice", self._validated["val_dice"], prog_bar=True, logger=False)
        self.log_dict({f"val/{key}": value for key, value in self._validated.items()})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Tells a method that wants to know that a step of the optimiser is done."""
        super().optimizer_step(*args, **kwargs)
        if (regulated := self._regulated) is not None:
            regulated.after_step(self.global_step + 1, self.steps)

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser on the adaptation, with the rate set for every step (``voxelsam.train.optim``)."""
        optimiser = optim.optimiser(self.segmenter.adaptation, self.settings)
        factor = partial(optim.factor, steps=self.steps, settings=self.settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the frozen backbone out of the file; adds the history, this epoch's part of it, and random states."""
        own = {name: tensor for name, tensor in checkpoint["state_dict"].items() if ".backbone." not in name}
        checkpoint["state_dict"] = own
        checkpoint["history"] = json.dumps(self.history)
        checkpoint["losses"] = [losses.cpu() for losses in self._losses]
        cuda = [torch.cuda.get_rng_state()] if self.device.type == "cuda" else []
        checkpoint["random"] = distributed.gathered((torch.get_rng_state(), cuda))
        if (regulated := self._regulated) is not None:
            checkpoint["regulated"] = regulated.memory()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the backbone's tensors from the loaded backbone, and the rest from the file."""
        frozen = {name: tensor for name, tensor in self.state_dict().items() if ".backbone." in name}
        checkpoint["state_dict"] |= frozen
        self.history = json.loads(checkpoint["history"])
        self._losses = list(checkpoint["losses"])
        rank = distributed.current().rank
        if rank < len(checkpoint["random"]):
            self._random = checkpoint["random"][rank]
        else:
            torch.manual_seed(mix(self.settings.seed, rank, len(self.history), len(self._losses)))
        if (regulated := self._regulated) is not None:
            regulated.remember(checkpoint["regulated"])

    def on_fit_start(self) -> None:
        """Gives the processes of a new run random streams of their own; the first has that of a lone process."""
        if not self.trainer.ckpt_path and (rank := distributed.current().rank):
            torch.manual_seed(mix(self.settings.seed, rank))

    def on_train_batch_start(self, batch: StackBatch, index: int) -> None:
        """Continues the random stream of an interrupted run where it stopped."""
        if self._random is not None:
            torch.set_rng_state(self._random[0])
            for state in self._random[1]:
                torch.cuda.set_rng_state(state)
            self._random = None

    @property
    def _regulated(self) -> Regulated | None:
        """The method, if it has a loss of its own or allocates something between the steps."""
        encoder = self.segmenter.adaptation.encoder
        return encoder if isinstance(encoder, Regulated) else None

    def _ask(
        self,
        kind: Kind,
        batch: StackBatch,
        features: Float[Tensor, "frames channels h w"],
        rng: np.random.Generator,
        settings: PromptSection | None = None,
    ) -> Rows | None:
        before = None
        if kind == "correction":
            with torch.no_grad():
                before = self.segmenter.decode(features).logits
        return ask(kind, batch, settings or self.prompts, rng, self.segmenter.mask_size, before)

    def _share_validation(self) -> None:
        """Counts and Dice of the whole validation, where each process has seen its share of the stacks."""
        if distributed.current().size == 1:
            return
        shares = distributed.gathered((dict(self._counts), dict(self._objects)))
        self._counts.clear()
        self._objects.clear()
        for counts, objects in shares:
            for case, own in counts.items():
                self._counts[case] += own
            for kind in self.prompts.kinds:
                self._objects[kind] += objects.get(kind, [])
        self._objects = defaultdict(list, {kind: dice for kind, dice in self._objects.items() if dice})

    def _stacks(self, scores: Scores, batch: StackBatch) -> Float[Tensor, "batch depth classes height width"]:
        return rearrange(scores.logits, "(batch depth) c h w -> batch depth c h w", depth=batch.images.shape[1])

    def _free(self, features: Float[Tensor, "frames channels h w"], batch: StackBatch) -> Float[Tensor, "3"]:
        """Loss and its two terms without prompts: every class at once."""
        if batch.target is None:
            raise ValueError("training needs labels")
        logits = self.segmenter.decode(features).logits
        depth = batch.images.shape[1]
        unlabelled = None if batch.unlabelled is None else batch.unlabelled.repeat_interleave(depth, dim=0)
        target = batch.target.flatten(0, 1)
        return torch.stack(dice_ce(logits, target, self.settings.dice_weight, unlabelled=unlabelled))

    def _prompted(
        self, features: Float[Tensor, "frames channels h w"], rows: Rows, rng: np.random.Generator
    ) -> Float[Tensor, "3"]:
        """Loss and its two terms with prompts: the mean over the first answer and the rounds of correction."""
        asked = features[rows.frames]
        rounds = []
        for number in range(1 + self.prompts.corrections):
            scores = self.segmenter.decode(asked, rows.prompts)
            logits = rows.logits(scores).float()
            counted = 0 if rows.padding else len(logits)
            shown, truth = logits[:counted], rows.truth[:counted]
            loss, ce, dice = object_dice_ce(shown, truth, self.settings.dice_weight)
            if self.prompts.quality and scores.quality is not None:
                said = scores.quality[torch.arange(len(rows.classes), device=asked.device), rows.classes]
                loss = loss + self.prompts.quality * quality_error(said[:counted].float(), shown, truth)
            rounds.append(torch.stack((loss, ce, dice)))
            if number < self.prompts.corrections:
                rows = rows.corrected(logits.detach(), rng, self.segmenter.mask_size)
        return torch.stack(rounds).mean(0)


def _object_dice(answer: Bool[Tensor, "rows height width"], rows: Rows) -> Float[Tensor, " objects"]:
    """Dice of each object over its slices."""
    rows_of = torch.bincount(rows.objects)

    def summed(masks: Bool[Tensor, "rows height width"]) -> Float[Tensor, " objects"]:
        sizes = masks.sum(dim=(1, 2)).double()
        return sizes.new_zeros(len(rows_of)).index_add_(0, rows.objects, sizes)[rows_of > 0]

    return (2 * summed(answer & rows.truth) / (summed(answer) + summed(rows.truth))).float()


def _overlaps(
    predicted: Int[Tensor, "depth height width"], target: Int[Tensor, "depth height width"], classes: int
) -> Int[Tensor, "3 classes"]:
    """Per class: voxels in both, in the prediction, in the reference; ignored voxels count nowhere."""
    known = target < classes
    predicted, target = predicted[known], target[known]
    both = torch.bincount(target[predicted == target], minlength=classes)
    return torch.stack([both, torch.bincount(predicted, minlength=classes), torch.bincount(target, minlength=classes)])
