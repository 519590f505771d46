"""Volume in, label map in the source's geometry out: the only door to a trained model."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from voxelsam import bundle
from voxelsam.adapt import Foldable, merged
from voxelsam.bundle import Bundle
from voxelsam.device import find
from voxelsam.errors import ConfigError, InputError
from voxelsam.infer.average import SliceAnswer, average
from voxelsam.infer.clean import EVERYTHING, Clean
from voxelsam.infer.prediction import Prediction, Progress
from voxelsam.infer.session import Image, Session
from voxelsam.infer.views import PLAIN, View, views
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.space.placement import Placement
from voxelsam.stacks.cut import cut
from voxelsam.stacks.frame import scores_to_slice
from voxelsam.stacks.merge import Merger
from voxelsam.types import Pixels
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Kind, Volume

__all__ = ["Precision", "Prediction", "Predictor", "Progress", "load"]

Precision = Literal["fp32", "bf16", "fp16"]


class Predictor:
    """A trained model, ready for volumes.

    Args:
        trained: the bundle.
        weights: the backbone's checkpoint, where it no longer lies where it lay in training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        precision: arithmetic of the networks; scores are averaged in fp32.
        stride: slices between stacks; None takes the plan's. 1 is MA-SAM's overlap of all but one slice; the plan's
            depth encodes every slice once, which is as many times faster and less accurate.
        batch: stacks per pass.
        clean: which parts of a structure stay in an answer without prompts.
        tta: test-time augmentation: an answer without prompts is the mean over the views that are safe for the model
            (``voxelsam.infer.views``), which takes as many times longer.

    Raises:
        WeightsError: the backbone's checkpoint is missing or is not the one of the training.
    """

    def __init__(
        self,
        trained: Bundle,
        *,
        weights: Path | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        stride: int | None = None,
        batch: int = 1,
        clean: Clean = EVERYTHING,
        tta: bool = False,
    ) -> None:
        self.bundle = trained
        self.clean = clean
        self.device = find(device)
        self.precision: Precision = precision
        self.batch = batch
        self.views = views(trained.description.training_augment) if tta else (PLAIN,)
        stack = trained.description.stack
        self.plan = stack if stride is None else replace(stack, stride=stride)
        self.segmenter = _folded(trained.segmenter(weights)).to(self.device)

    @property
    def labels(self) -> Labels:
        """Names and values of the structures."""
        return self.bundle.labels

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that a volume must have, in order."""
        return self.bundle.description.channels

    @property
    def kind(self) -> Kind:
        """Modality of the training scans."""
        return self.bundle.description.kind

    @property
    def depth(self) -> int:
        """Slices of a stack."""
        return self.plan.depth

    @property
    def prompt_free(self) -> bool:
        """Whether the model was trained to answer without prompts."""
        return self.bundle.description.prompts.free

    @property
    def promptable(self) -> bool:
        """Whether the model was trained to answer prompts."""
        return bool(self.bundle.description.prompts.kinds)

    def __call__(self, volume: Volume, progress: Progress | None = None, *, probabilities: bool = False) -> Prediction:
        """Segments a volume without prompts.

        Args:
            volume: with the channels that the model was trained on, in the same order.
            progress: told after every finished slice.
            probabilities: keep those of each structure too, one byte per voxel; ``clean`` does not touch them.

        Raises:
            ConfigError: the model was trained with prompts only.
            InputError: the volume has another number of channels.
        """
        self.check_prompt_free()
        self.check(volume)
        return average([self], volume, self.bundle.author, self.clean, progress, probabilities=probabilities)

    def placement(self, volume: Volume) -> Placement:
        """The way from a volume's grid to the slices that the model is shown.

        Raises:
            GeometryError: the grid cannot be seen in the model's plane.
        """
        return self.plan.placement(volume.grid)

    def open(self, image: Image | None = None, **settings: Any) -> Session:
        """A session that segments by prompts.

        Args:
            image: the volume to begin with, or its file or files; None leaves it to ``Session.set_image``.
            **settings: the keyword arguments of :class:`voxelsam.infer.session.Session`.

        Raises:
            ConfigError: the model was trained without prompts, or a setting is wrong.
            InputError: as for ``Session.set_image``.
        """
        session = Session(self, **settings)
        if image is not None:
            session.set_image(image)
        return session

    def check_prompt_free(self) -> None:
        """Refuses a model that always needs a prompt.

        Raises:
            ConfigError: the model was trained with prompts only.
        """
        if not self.prompt_free:
            raise ConfigError(
                "this model was trained with prompts only, so it has no answer without one: give it prompts with "
                "`voxelsam prompt` (in Python Predictor.open), or train with prompts.free above 0"
            )

    def check(self, volume: Volume) -> None:
        """Refuses a volume that the model cannot take.

        Raises:
            InputError: VAL-06, the volume has another number of channels.
        """
        channels = self.bundle.description.channels
        if volume.channels != len(channels):
            raise InputError(
                f"this model takes {len(channels)} channel(s) ({', '.join(channels)}), "
                f"but {volume.source or 'the volume'} has {volume.channels}",
                code="VAL-06",
            )

    @torch.inference_mode()
    def encode(self, stacks: Float[Tensor, "batch depth 3 height width"]) -> Float[Tensor, "frames channels h w"]:
        """Image features of every slice of some stacks, on the model's device."""
        with self._arithmetic():
            return self.segmenter.encode(stacks.to(self.device))

    @torch.inference_mode()
    def decode(self, features: Float[Tensor, "frames channels h w"], prompts: PromptBatch | None = None) -> Scores:
        """Scores of frames for their prompts, in single precision, on the model's device."""
        with self._arithmetic():
            scores = self.segmenter.decode(features.to(self.device), None if prompts is None else self._moved(prompts))
        return Scores(scores.logits.float(), None if scores.quality is None else scores.quality.float())

    def _moved(self, prompts: PromptBatch) -> PromptBatch:
        boxes, masks = (None if part is None else part.to(self.device) for part in (prompts.boxes, prompts.masks))
        return PromptBatch(prompts.points.to(self.device), prompts.point_labels.to(self.device), boxes, masks)

    @torch.inference_mode()
    def slices(self, data: Pixels) -> Iterator[SliceAnswer]:
        """Averaged probabilities of each canonical slice, in order; memory grows with the stack, not the volume.

        Args:
            data: the canonical volume.
        """
        scale = self.bundle.description.intensity.measure(data)
        frame = self.plan.frame((data.shape[2], data.shape[1]))
        mergers = [Merger(data.shape[3], self.plan) for _ in self.views]
        heads = [Merger(data.shape[3], self.plan) for _ in self.views]
        starts = self.plan.starts(data.shape[3])
        for begin in range(0, len(starts), self.batch):
            some = starts[begin : begin + self.batch]
            stacks = torch.stack([cut(data, self.plan, start, scale) for start in some]).to(self.device)
            answers = [self._scores(stacks, view) for view in self.views]
            for place, first in enumerate(some):
                for merger, head, (probabilities, estimates) in zip(mergers, heads, answers, strict=True):
                    merger.add(first, probabilities[place])
                    if estimates is not None:
                        head.add(first, estimates[place])
                for slices in zip(*(merger.done() for merger in mergers), strict=True):
                    maps = scores_to_slice(torch.stack([mean for _, mean in slices]), frame)
                    said = [ready[1][:, 0, 0] for head in heads if (ready := next(head.done(), None))]
                    yield SliceAnswer(maps, torch.stack(said).mean(0) if said else None)

    def _scores(
        self, stacks: Float[Tensor, "batch depth 3 height width"], view: View
    ) -> tuple[Float[Tensor, "batch depth classes height width"], Float[Tensor, "batch depth classes 1 1"] | None]:
        """Probabilities, and the decoder's estimates of the IoU where it was trained to give them."""
        shown, estimates = view.there(stacks), None
        with self._arithmetic():
            if self.bundle.description.prompts.quality:
                scores = self.segmenter.decode(self.segmenter.encode(shown))
                logits = rearrange(scores.logits, "(b d) c h w -> b d c h w", d=self.plan.depth)
                if scores.quality is not None:
                    estimates = rearrange(scores.quality.float(), "(b d) c -> b d c 1 1", d=self.plan.depth)
            else:
                logits = self.segmenter(shown)
        return view.back(logits.float().softmax(2)), estimates

    def _arithmetic(self) -> AbstractContextManager[object]:
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype=half) if half else nullcontext()


def load(
    folder: str | Path, *, weights: Path | None = None, device: str = "auto", precision: Precision = "fp32"
) -> Predictor:
    """A trained model from its bundle folder.

    Raises:
        WeightsError: the folder is not a bundle, or its backbone is missing or another one.
    """
    return Predictor(bundle.load(Path(folder)), weights=weights, device=device, precision=precision)


def _folded(segmenter: Segmenter) -> Segmenter:
    """The same function with low-rank increments added into the encoder's weights, where the method has any."""
    if not isinstance(segmenter.adaptation.encoder, Foldable):
        return segmenter
    folded = merged(segmenter.adaptation, segmenter.backbone)
    return Segmenter(segmenter.backbone, folded, draws=segmenter.draws).eval()
