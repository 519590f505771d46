"""What a model says about one object on one slice, and how the answers about many objects become one label map.

A pass asks about one class c: logit ``z = logits[:, c] - logits[:, 0]``, probability ``sigmoid(z)``, on the object
above one half. A label map begins with a *ground*: the prompt-free answer, or background everywhere. A class that was
prompted on a slice is taken out of the slice's ground (the runner-up stands in), and the new masks are painted over it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Integer, UInt16
from torch import Tensor

from voxelsam.infer.prediction import Progress
from voxelsam.nn.decoder import Scores
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.prompts.place import FramePrompts, batch, groups, shrunk
from voxelsam.stacks.frame import FrameMap, scores_to_slice

Overlap = Literal["score", "order", "last"]
"""Which object gets a voxel that several masks claim: that of the highest probability (ties to the lower class, then to
the lower instance) · the one that comes first in the label table (then the lower instance) · the one prompted last."""

Features = Float[Tensor, "frames channels h w"]

Decode = Callable[[Features, PromptBatch], Scores]

PASS = 16
"""Frames that go through the decoder together."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Where an object lies on a slice: its probabilities within the smallest rectangle that holds it."""

    rows: slice
    columns: slice
    scores: Float32[np.ndarray, "height width"]

    @classmethod
    def of(cls, scores: Float32[np.ndarray, "height width"]) -> "Patch":
        """The patch of the probabilities on a whole slice; without any above one half it is empty."""
        inside = scores > 0.5
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if not len(rows):
            return cls(slice(0, 0), slice(0, 0), np.zeros((0, 0), np.float32))
        across, down = slice(columns[0], columns[-1] + 1), slice(rows[0], rows[-1] + 1)
        return cls(down, across, scores[down, across].copy())

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int((self.scores > 0.5).sum())

    def mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
        """The object on a slice of that size."""
        whole = np.zeros(size, bool)
        whole[self.rows, self.columns] = self.scores > 0.5
        return whole


@dataclass(frozen=True, eq=False)
class Answer:
    """One object on one slice."""

    logits: Float[Tensor, "h w"]
    """z at the size of mask prompts: what a correction starts from."""
    patch: Patch
    quality: float | None = None
    """The model's estimate of the IoU; None for a drawn mask and where the decoder gives none."""
    asked: bool = True
    """Whether the slice was prompted by the user; False: it was reached by propagation."""


@dataclass(frozen=True, eq=False)
class Prior:
    """What the model says about the object without prompts, and how much that counts."""

    logits: Float[Tensor, "height width"]
    """z as the decoder gives it."""
    share: float
    """From 0, not at all, to 1, alone."""


@dataclass(frozen=True, eq=False)
class Question:
    """One object on one slice, as it goes into the model."""

    slice: int
    class_: int
    prompts: FramePrompts
    earlier: Float[Tensor, "h w"] | None = None
    """Logits of an earlier answer, which go in as mask prompt in place of a drawn mask."""
    prior: Prior | None = None
    """What is mixed into the logits of the answer."""


@dataclass(frozen=True, eq=False)
class Claim:
    """A mask that wants its place in a label map."""

    class_: int
    instance: int
    turn: int
    """The higher, the later it was prompted."""
    patch: Patch


def answers(
    decode: Decode,
    features: Callable[[Sequence[int]], Features],
    questions: Sequence[Question],
    frame: FrameMap,
    masks: tuple[int, int],
    progress: Progress | None = None,
) -> list[Answer]:
    """The answers to some questions, in their order; questions of one shape share a decoder pass.

    Args:
        decode: features and prompts to scores.
        features: of slices by their numbers.
        questions: any objects on any slices.
        frame: the map between slices and model pictures.
        masks: size (height, width) of mask prompts.
        progress: told after every decoder pass: (questions answered, questions in all).
    """
    found: dict[int, Answer] = {}
    for group in groups([question.prompts for question in questions], [q.earlier is not None for q in questions]):
        for begin in range(0, len(group), PASS):
            some = group[begin : begin + PASS]
            asked = [questions[number] for number in some]
            found |= zip(some, _pass(decode, features([q.slice for q in asked]), asked, frame, masks), strict=True)
            if progress:
                progress(len(found), len(questions))
    return [found[number] for number in range(len(questions))]


def drawn(mask: Bool[np.ndarray, "height width"], logits: Float[Tensor, "h w"]) -> Answer:
    """A mask of the user as an answer: exactly as it was drawn.

    Args:
        mask: on the slice.
        logits: the same at the size of mask prompts.
    """
    return Answer(logits, Patch.of(mask.astype(np.float32)))


def ground(
    probabilities: Float[Tensor, "classes height width"], without: Sequence[int]
) -> Integer[np.ndarray, "height width"]:
    """The most probable class of each pixel among those that are left.

    Args:
        probabilities: the prompt-free answer on a slice.
        without: classes that are taken out; never the background.
    """
    left = probabilities.clone()
    left[list(without)] = -1
    classes: Integer[np.ndarray, "height width"] = left.argmax(0).to(torch.int32).numpy(force=True)
    return classes


def compose(
    below: Integer[np.ndarray, "height width"], claims: Sequence[Claim], overlap: Overlap
) -> tuple[Integer[np.ndarray, "height width"], UInt16[np.ndarray, "height width"]]:
    """One slice of the label map, and of the map of instances.

    Args:
        below: the ground; stays as it is.
        claims: the masks.
        overlap: which of them gets a voxel that several claim.

    Returns:
        Class of each pixel; number of the instance within its class, 0 where no prompted object lies.
    """
    classes, instances = below.copy(), np.zeros(below.shape, np.uint16)
    best = np.zeros(below.shape, np.float32)
    for claim in sorted(claims, key=lambda claim: _rank(claim, overlap)):
        place = claim.patch.rows, claim.patch.columns
        wins = claim.patch.scores > 0.5
        if overlap == "score":
            wins &= claim.patch.scores >= best[place]
        classes[place][wins] = claim.class_
        instances[place][wins] = claim.instance
        best[place][wins] = claim.patch.scores[wins]
    return classes, instances


def _rank(claim: Claim, overlap: Overlap) -> tuple[int, ...]:
    """Claims in the order in which they are painted: the strongest last."""
    if overlap == "last":
        return (claim.turn,)
    return -claim.class_, -claim.instance


def _pass(
    decode: Decode, features: Features, questions: Sequence[Question], frame: FrameMap, masks: tuple[int, int]
) -> Iterator[Answer]:
    prompts = batch([question.prompts for question in questions], [question.earlier for question in questions], masks)
    scores = decode(features, prompts)
    rows, classes = torch.arange(len(questions)), torch.tensor([question.class_ for question in questions])
    logits = (scores.logits[rows, classes] - scores.logits[:, 0]).cpu()
    for row, question in enumerate(questions):
        if question.prior is not None:
            logits[row] = logits[row].lerp(question.prior.logits.to(logits), question.prior.share)
    quality = None if scores.quality is None else scores.quality[rows, classes].tolist()
    small = shrunk(logits, masks)
    pixels = scores_to_slice(logits.sigmoid()[:, None], frame)[:, 0].numpy(force=True)
    for row, scored in enumerate(pixels):
        yield Answer(small[row].clone(), Patch.of(scored), None if quality is None else quality[row])
