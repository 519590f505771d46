"""Volume in, label map in the source's geometry out: the only door to a trained model."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from voxelsam import bundle
from voxelsam.bundle import Bundle
from voxelsam.device import find
from voxelsam.errors import ConfigError, InputError
from voxelsam.infer.average import average
from voxelsam.infer.clean import EVERYTHING, Clean
from voxelsam.infer.engine import SliceAnswer, Way, answers
from voxelsam.infer.prediction import Prediction, Progress, Work
from voxelsam.infer.prepare import Precision, prepare, products
from voxelsam.infer.session import Image, Session
from voxelsam.infer.views import PLAIN, views
from voxelsam.nn.decoder import Scores
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.nn.seam import Meeting
from voxelsam.space.placement import Placement
from voxelsam.stacks.plan import StackPlan
from voxelsam.types import Pixels
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Kind, Volume

__all__ = ["Precision", "Prediction", "Predictor", "Progress", "load"]

PATCH = 16 * 16
"""Pixels that count as one token."""

TOKENS = {"cpu": 2048, "cuda": 65536, "mps": 8192}
"""Tokens that keep a device busy: fewer leave parts of it idle, more cost memory and save nothing."""

SCORES = {"cpu": 2**23, "cuda": 2**28, "mps": 2**25}
"""Scores (slices × classes × pixels) that keep a device busy; buffers for more cost memory and save nothing."""

TOKEN_BYTES = 2**18
"""Memory of a graphics card that a token may take in a pass."""


class Predictor:
    """A trained model, ready for volumes.

    Args:
        trained: the bundle.
        weights: the backbone's checkpoint, where it no longer lies where it lay in training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        precision: arithmetic of the networks (``voxelsam.infer.prepare``); scores are averaged in fp32.
        compiled: whether the image encoder is compiled, which takes about a minute when it is first called.
        stride: slices between stacks; None takes the plan's. 1 is MA-SAM's overlap of all but one slice; the plan's
            depth encodes every slice once. It makes no difference to a method whose slices never meet.
        batch: stacks per pass; ``auto`` fills the device.
        single_pass: takes a volume as one stack of all its slices. Memory then grows with the volume.
        clean: which parts of a structure stay in an answer without prompts.
        tta: test-time augmentation: an answer without prompts is the mean over the views that are safe for the model
            (``voxelsam.infer.views``), which takes as many times longer.

    Raises:
        WeightsError: the backbone's checkpoint is missing or is not the one of the training.
        ConfigError: the device is not there or cannot compute so, or the model cannot take a volume in a single pass.
    """

    def __init__(
        self,
        trained: Bundle,
        *,
        weights: Path | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        compiled: bool = False,
        stride: int | None = None,
        batch: int | Literal["auto"] = "auto",
        single_pass: bool = False,
        clean: Clean = EVERYTHING,
        tta: bool = False,
    ) -> None:
        self.bundle = trained
        self.clean = clean
        self.device = find(device)
        self.precision: Precision = precision
        self.views = views(trained.description.training_augment) if tta else (PLAIN,)
        self.segmenter = prepare(trained.segmenter(weights).to(self.device), precision, compiled=compiled)
        self.arithmetic = " ".join([precision, *products(self.segmenter), *["compiled"] * compiled])
        """Names all that rounding depends on."""
        self.plan = cut_by(trained, self.segmenter.meeting, stride)
        self.single_pass = single_pass
        if single_pass:
            _check_single_pass(trained, self.segmenter.meeting)
        self.batch = filling(self.device, self.plan) if batch == "auto" else batch

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
        return self.segmenter.encode(stacks.to(self.device))

    @torch.inference_mode()
    def embed(self, images: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames ..."]:
        """What the image encoder makes of every slice by itself, on the model's device."""
        return self.segmenter.embed(images.to(self.device))

    @torch.inference_mode()
    def encode_embedded(self, embedded: Float[Tensor, "batch depth ..."]) -> Float[Tensor, "frames channels h w"]:
        """Image features of every slice of some stacks, from what ``embed`` gave for their slices."""
        return self.segmenter.encode_embedded(embedded)

    @torch.inference_mode()
    def decode(self, features: Float[Tensor, "frames channels h w"], prompts: PromptBatch | None = None) -> Scores:
        """Scores of frames for their prompts, in single precision, on the model's device."""
        scores = self.segmenter.decode(features.to(self.device), None if prompts is None else self._moved(prompts))
        return Scores(scores.logits.float(), None if scores.quality is None else scores.quality.float())

    def _moved(self, prompts: PromptBatch) -> PromptBatch:
        boxes, masks = (None if part is None else part.to(self.device) for part in (prompts.boxes, prompts.masks))
        return PromptBatch(prompts.points.to(self.device), prompts.point_labels.to(self.device), boxes, masks)

    @torch.inference_mode()
    def slices(self, data: Pixels, work: Work | None = None) -> Iterator[SliceAnswer]:
        """Averaged probabilities of each canonical slice, in order; memory grows with the stack, not the volume.

        Args:
            data: the canonical volume.
            work: counts what is computed.
        """
        scale = self.bundle.description.intensity.measure(data)
        plan = self.plan
        if self.single_pass and plan.depth > 1:
            plan = replace(plan, depth=data.shape[3], stride=data.shape[3])
        quality = self.bundle.description.prompts.quality
        frames = min(self.batch * self.plan.depth, decoded(self.device, plan, self.labels.count))
        way = Way(plan, self.views, self.batch, frames, quality)
        yield from answers(self, data, scale, way, work or Work())


def load(
    folder: str | Path, *, weights: Path | None = None, device: str = "auto", precision: Precision = "fp32"
) -> Predictor:
    """A trained model from its bundle folder.

    Raises:
        WeightsError: the folder is not a bundle, or its backbone is missing or another one.
    """
    return Predictor(bundle.load(Path(folder)), weights=weights, device=device, precision=precision)


def filling(device: torch.device, plan: StackPlan) -> int:
    """Stacks per pass that keep a device busy.

    Args:
        device: where the network is; on a graphics card the memory that is free now is a bound.
        plan: how volumes are cut.
    """
    tokens = TOKENS[device.type]
    if device.type == "cuda":
        tokens = min(tokens, torch.cuda.mem_get_info(device)[0] // TOKEN_BYTES)
    return max(1, tokens // (plan.depth * math.ceil(plan.size[0] * plan.size[1] / PATCH)))


def decoded(device: torch.device, plan: StackPlan, classes: int) -> int:
    """Slices whose scores are worth computing at once.

    Args:
        device: where the network is.
        plan: how volumes are cut.
        classes: with the background.
    """
    return max(1, SCORES[device.type] // (classes * math.prod(plan.size)))


def cut_by(trained: Bundle, meeting: Meeting, stride: int | None) -> StackPlan:
    """How volumes are cut: slices that never meet are shown one by one, which gives what every stack would give.

    Args:
        trained: the bundle.
        meeting: how slices of a stack meet in its networks.
        stride: slices between stacks; None takes the plan's.
    """
    stack = trained.description.stack
    plan = stack if stride is None else replace(stack, stride=stride)
    alone = meeting == "never" and trained.description.intensity.scope == "volume"
    return replace(plan, depth=1, stride=1) if alone else plan


def _check_single_pass(trained: Bundle, meeting: Meeting) -> None:
    if meeting == "stack" and trained.description.stack.depth > 1:
        raise ConfigError(
            f"this model cannot take a volume in a single pass: in {trained.description.adapt['name']} slices meet by "
            f"a rule that was made for stacks of {trained.description.stack.depth}; leave --single-pass out"
        )
    if trained.description.intensity.scope == "stack":
        raise ConfigError(
            "this model cannot take a volume in a single pass: its grey values are stretched stack by stack "
            "(intensity.scope), and one stack of all slices would look different; leave --single-pass out"
        )
