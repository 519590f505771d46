"""Lightning wiring, and nothing else: loss, optimiser, learning rate, validation Dice."""

import json
from collections import defaultdict
from typing import Any

import lightning
import torch
from jaxtyping import Float, Int
from torch import Tensor

from voxelsam.model import Segmenter
from voxelsam.stacks.cut import StackBatch
from voxelsam.train.losses import dice_ce
from voxelsam.train.recipe import TrainSection
from voxelsam.train.schedule import rate
from voxelsam.volumes.labels import Labels


class TrainingModule(lightning.LightningModule):
    """A segmenter under training.

    Args:
        segmenter: frozen backbone and the adaptation that is trained.
        settings: the recipe's ``train`` section.
        labels: names of the classes, for the records.
        steps: optimiser steps of the whole run.
    """

    def __init__(self, segmenter: Segmenter, settings: TrainSection, labels: Labels, steps: int) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.settings = settings
        self.labels = labels
        self.steps = steps
        self.history: list[dict[str, float]] = []
        """One row per epoch: what ``metrics.csv`` holds."""
        self._losses: list[Tensor] = []
        self._validated: dict[str, float] = {}
        self._random: tuple[Tensor, list[Tensor] | None] | None = None
        self._counts: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(3, labels.count))

    def training_step(self, batch: StackBatch, index: int) -> Tensor:
        """Loss of one batch of stacks."""
        loss, ce, dice = self._loss(batch, self.segmenter(batch.images))
        self._losses.append(torch.stack([loss, ce, dice]).detach())
        self.log_dict({"train/loss": loss, "train/ce": ce, "train/dice_loss": dice}, batch_size=len(batch.images))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch.images))
        return loss

    def close_epoch(self) -> dict[str, float]:
        """Adds the row of the epoch that has just ended, training and validation, to the history."""
        mean = torch.stack(self._losses).mean(0).tolist()
        self._losses.clear()
        rate_now = self.trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": self.current_epoch, "step": self.global_step, "lr": rate_now}
        row |= dict(zip(("loss", "ce", "dice_loss"), mean, strict=True)) | self._validated
        self._validated = {}
        self.history.append(row)
        return row

    def validation_step(self, batch: StackBatch, index: int) -> None:
        """Adds a batch's overlaps to its cases' counts."""
        if batch.target is None:
            raise ValueError("validation needs labels")
        predicted = self.segmenter(batch.images).argmax(2)
        for case, one, target in zip(batch.cases, predicted, batch.target, strict=True):
            self._counts[case] += _overlaps(one, target, self.labels.count).cpu()

    def on_validation_epoch_end(self) -> None:
        """Dice per structure, mean over cases; a structure that a case neither shows nor predicts is left out there."""
        counts = torch.stack(list(self._counts.values()))
        self._counts.clear()
        both, predicted, true = counts.unbind(1)
        dice = (2 * both / (predicted + true))[:, 1:]
        per_class = dice.nanmean(0)
        names = [f"dice/{name}" for name in self.labels.names]
        self._validated = {"val_dice": per_class.nanmean().item()} | dict(zip(names, per_class.tolist(), strict=True))
        self.log("val_dice", self._validated["val_dice"], prog_bar=True, logger=False)
        self.log_dict({f"val/{key}": value for key, value in self._validated.items()})

    def configure_optimizers(self) -> Any:
        """AdamW on the adaptation, with the rate set for every step (spec of MA-SAM, section 4)."""
        own = [parameter for parameter in self.segmenter.adaptation.parameters() if parameter.requires_grad]
        settings = self.settings
        optimiser = torch.optim.AdamW(own, lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay)
        warmup = min(settings.warmup, self.steps // 4)
        total = round(self.steps * settings.horizon)

        def factor(step: int) -> float:
            return rate(step, 1.0, warmup, total, settings.power)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the frozen backbone out of the file; adds the history and the state of the random generators."""
        own = {name: tensor for name, tensor in checkpoint["state_dict"].items() if ".backbone." not in name}
        checkpoint["state_dict"] = own
        checkpoint["history"] = json.dumps(self.history)
        checkpoint["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            checkpoint["random_cuda"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the backbone's tensors from the loaded backbone, and the rest from the file."""
        frozen = {name: tensor for name, tensor in self.state_dict().items() if ".backbone." in name}
        checkpoint["state_dict"] |= frozen
        self.history = json.loads(checkpoint["history"])
        self._random = checkpoint["random"], checkpoint.get("random_cuda")

    def on_train_epoch_start(self) -> None:
        """Continues the random stream of an interrupted run where it stopped."""
        if self._random is not None:
            torch.set_rng_state(self._random[0])
            if self._random[1] is not None:
                torch.cuda.set_rng_state_all(self._random[1])
            self._random = None

    def _loss(
        self, batch: StackBatch, logits: Float[Tensor, "batch depth classes height width"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        if batch.target is None:
            raise ValueError("training needs labels")
        return dice_ce(logits.flatten(0, 1).float(), batch.target.flatten(0, 1), self.settings.dice_weight)


def _overlaps(
    predicted: Int[Tensor, "depth height width"], target: Int[Tensor, "depth height width"], classes: int
) -> Int[Tensor, "3 classes"]:
    """Per class: voxels in both, in the prediction, in the reference; ignored voxels count nowhere."""
    known = target < classes
    predicted, target = predicted[known], target[known]
    both = torch.bincount(target[predicted == target], minlength=classes)
    return torch.stack([both, torch.bincount(predicted, minlength=classes), torch.bincount(target, minlength=classes)])
