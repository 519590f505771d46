"""Questions of a training step: which objects are asked about, with which prompts, and how masks are corrected.

A question is either prompt-free (every class at once) or about some objects of each stack. What is asked stands in
*rows*: one row is one object on one slice, with its prompts and its true mask. Slices without a prompt are no rows,
because prediction never asks there either. All rows of a question get prompts of one kind, so that their tokens line
up. Every choice is a function of the generator, so a run can be repeated; what is chosen for one stack depends on the
stack's number, and not on the stacks beside it, so that a batch can be divided between processes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from voxelsam.bundle import PromptsLearnt
from voxelsam.config import STRICT
from voxelsam.nn.decoder import Scores
from voxelsam.nn.drawing import SURE
from voxelsam.nn.prompt_encoder import BACKGROUND, OBJECT, PADDING, PromptBatch
from voxelsam.prompts import simulate
from voxelsam.prompts.place import shrunk
from voxelsam.stacks.cut import StackBatch

Kind = Literal["point", "box", "cuboid", "mask", "correction"]
"""Clicks on every slice that shows the object; a rectangle per slice; one rectangle on every slice of the object's
range; the mask of the neighbouring slice; the model's own prompt-free answer with a click on an error of it, now and
then on what is right."""

Masks = Bool[np.ndarray, "slices height width"]

SHIFT = 0.03
"""A lone picture has no neighbour: its own mask, moved by up to this share of the picture, stands in."""


CONFIRMING = 0.25
"""Share of the clicks on a prompt-free answer that confirm it: a first click often lands where the answer is right."""


@dataclass(frozen=True)
class PromptSection:
    """How training prompts; a section of the recipe."""

    __pydantic_config__ = STRICT

    free: float = 1.0
    """Share of the questions without any prompt; 1 trains a prompt-free model, 0 one that always needs a prompt."""
    kinds: tuple[Kind, ...] = ("point", "box")
    """Kinds of prompts, each as often as the others: point, box (of one slice), cuboid (3D box), mask (of the slice
    beside), correction (of the prompt-free answer)."""
    points: int = 3
    """At most so many first clicks on a slice."""
    jitter: float = 0.1
    """Each edge of a box is moved by noise whose deviation is this share of the box's side, at most 20 pixels (SAM)."""
    loose: float = 0.2
    """Boxes are first made looser, every edge outwards by a share of the side that is drawn from 0 up to this, 3D boxes
    by as many slices too; then comes the noise. Who draws boxes by hand seldom draws them tight."""
    questions: int = 2
    """Questions that a step asks about the same features, each drawn anew: asking is cheap, encoding is not. Without
    prompts there is only one."""
    corrections: int = 1
    """Rounds of clicks on errors after the first answer; each round is trained."""
    objects: int = 1
    """Objects asked about in each stack."""
    per: Literal["class", "instance"] = "class"
    """What an object is: all of a class, or one number of the data set's instance maps."""
    draw: bool = False
    """Points and boxes are also drawn into the mask prompt: small data sets learn from that sooner than from tokens."""
    quality: float = 0.0
    """Weight of the loss of the quality head, which then learns the IoU of each mask; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        if not 0 <= self.free <= 1:
            raise ValueError(f"free: a share from 0 to 1, not {self.free}")
        if self.free < 1 and not self.kinds:
            raise ValueError(f"kinds: at least one of {', '.join(get_args(Kind))} where not every step is prompt-free")
        if "correction" in self.kinds and self.free in (0, 1):
            raise ValueError(
                f"kinds: correction needs a prompt-free answer to correct, so free between 0 and 1, not {self.free}"
            )
        if not 0 <= self.jitter < 0.5:
            raise ValueError(f"jitter: a share from 0 to below 0.5, not {self.jitter}")
        if not 0 <= self.loose <= 1:
            raise ValueError(f"loose: a share from 0 to 1, not {self.loose}")
        for name, least in (("points", 1), ("questions", 1), ("corrections", 0), ("objects", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: at least {least}, not {getattr(self, name)}")
        if self.quality < 0:
            raise ValueError(f"quality: a weight of 0 or more, not {self.quality}")

    @property
    def used(self) -> bool:
        """Whether any step prompts."""
        return self.free < 1

    def choose(self, rng: np.random.Generator) -> tuple[Kind | None, ...]:
        """The questions of one step: kinds of prompts, None for prompt-free; the prompt-free one is asked only once."""
        every = self.kinds if self.used else ()
        drawn = [
            None if rng.random() < self.free else every[int(rng.integers(len(every)))] for _ in range(self.questions)
        ]
        free = [kind for kind in drawn if kind is None][:1]
        return (*free, *(kind for kind in drawn if kind is not None))

    def learnt(self) -> PromptsLearnt:
        """What a bundle records: which prompts its model has learnt to answer."""
        if not self.used:
            return PromptsLearnt()
        return PromptsLearnt(self.free > 0, self.kinds, self.quality > 0, self.draw)


@dataclass(frozen=True, eq=False)
class Rows:
    """What is asked; one row per object and slice."""

    frames: Int[Tensor, " rows"]
    """Which frame of the batch (stack · depth + slice)."""
    classes: Int[Tensor, " rows"]
    """Class of the object."""
    objects: Int[Tensor, " rows"]
    """Number of the object; rows of one object on several slices share it."""
    truth: Bool[Tensor, "rows height width"]
    """The object on that slice."""
    prompts: PromptBatch
    stacks: Int[np.ndarray, " rows"]
    """Number of the stack, which random choices are keyed by."""
    padding: bool = False
    """Whether the single row asks about nothing and counts nowhere (``nothing``)."""

    def logits(self, scores: Scores) -> Float[Tensor, "rows height width"]:
        """The answer of each row: its class against the background."""
        every = torch.arange(len(self.classes), device=scores.logits.device)
        return scores.logits[every, self.classes] - scores.logits[:, 0]

    def corrected(
        self, logits: Float[Tensor, "rows height width"], rng: np.random.Generator, masks: tuple[int, int]
    ) -> "Rows":
        """The next round: one more click on an error of each row, and the answer itself as mask prompt.

        Args:
            logits: the answer to this round.
            rng: draws the clicks, uniformly over what is wrong on a slice, as SAM's training does.
            masks: size (height, width) of mask prompts.
        """
        key = _key(rng)
        if self.padding:
            return self
        old = self.prompts
        points, signs = torch.zeros(len(self.classes), 1, 2), torch.full((len(self.classes), 1), PADDING)
        answer, truth = (logits > 0).numpy(force=True), self.truth.numpy(force=True)
        for number in np.unique(self.stacks):
            own = np.flatnonzero(self.stacks == number)
            for click in simulate.random_error_clicks(answer[own], truth[own], _stream(key, int(number))):
                points[own[click.slice], 0] = torch.tensor((click.x, click.y))
                signs[own[click.slice], 0] = OBJECT if click.inside else BACKGROUND
        prompts = PromptBatch(
            torch.cat((old.points, points.to(old.points)), dim=1),
            torch.cat((old.point_labels, signs.to(old.point_labels)), dim=1),
            old.boxes,
            shrunk(logits.detach().float(), masks)[:, None],
        )
        return replace(self, prompts=prompts)


def ask(
    kind: Kind,
    batch: StackBatch,
    settings: PromptSection,
    rng: np.random.Generator,
    masks: tuple[int, int],
    before: Float[Tensor, "frames classes height width"] | None = None,
) -> Rows | None:
    """What one question is about; None if the stacks show nothing to ask about.

    Args:
        kind: of the prompts.
        batch: with labels; with instances where objects are instances, and with extents where boxes are 3D.
        settings: what to ask.
        rng: every choice is drawn from it; how much is drawn does not depend on the batch.
        masks: size (height, width) of mask prompts.
        before: logits of the prompt-free answer, which a correction corrects.
    """
    count = int(rng.integers(1, settings.points + 1))
    key = _key(rng)
    numbers = np.arange(len(batch)) if batch.numbers is None else batch.numbers.numpy(force=True)
    streams = [_stream(key, int(number)) for number in numbers]
    rows = [
        replace(row, frame=stack * len(truth) + row.frame, class_=class_, number=number)
        for number, (stack, class_, truth) in enumerate(_objects(batch, settings, streams))
        for row in _rows(kind, truth, _Known(batch, stack, class_, before), count, settings, streams[stack])
    ]
    if not rows:
        return None
    device = batch.images.device
    drawn = [row.mask for row in rows if row.mask is not None]
    return Rows(
        frames=torch.tensor([row.frame for row in rows], device=device),
        classes=torch.tensor([row.class_ for row in rows], device=device),
        objects=torch.tensor([row.number for row in rows], device=device),
        truth=torch.from_numpy(np.stack([row.truth for row in rows])).to(device),
        prompts=PromptBatch(
            torch.tensor([row.points for row in rows], device=device, dtype=torch.float32).reshape(len(rows), -1, 2),
            torch.tensor([[row.sign] * len(row.points) for row in rows], device=device, dtype=torch.long),
            torch.tensor([[row.box] for row in rows], device=device) if kind in ("box", "cuboid") else None,
            shrunk(torch.from_numpy(np.stack(drawn)), masks)[:, None].to(device) if drawn else None,
        ),
        stacks=numbers[[row.frame // batch.images.shape[1] for row in rows]],
    )


def nothing(batch: StackBatch) -> Rows:
    """One row that counts nowhere: for a process whose stacks show nothing to ask about while others' do."""
    device = batch.images.device
    zero = torch.zeros(1, dtype=torch.long, device=device)
    points = torch.zeros(1, 1, 2, device=device)
    prompts = PromptBatch(points, torch.full((1, 1), PADDING, device=device), None, None)
    truth = torch.zeros(1, *batch.images.shape[-2:], dtype=torch.bool, device=device)
    return Rows(zero, zero, zero, truth, prompts, stacks=np.zeros(1, np.int64), padding=True)


def _key(rng: np.random.Generator) -> int:
    """A number that tells this question, or this round, from all others."""
    return int(rng.integers(2**63))


def _stream(key: int, number: int) -> np.random.Generator:
    """The random choices about one stack."""
    return np.random.default_rng([key, number + 1])


@dataclass(frozen=True, eq=False)
class _Row:
    frame: int
    truth: Bool[np.ndarray, "height width"]
    points: tuple[tuple[float, float], ...] = ()
    sign: int = OBJECT
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    mask: Float32[np.ndarray, "height width"] | None = None
    """Logits."""
    class_: int = 0
    number: int = 0


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of an object beside its mask on the slices of its stack."""

    batch: StackBatch
    stack: int
    class_: int
    before: Float[Tensor, "frames classes height width"] | None

    def cuboid(self, truth: Masks) -> simulate.Cuboid | None:
        """The 3D box of the object: that of the whole scan where it is known, else that of the stack."""
        if self.batch.extents is None:
            return simulate.tight_cuboid(truth)
        x0, y0, x1, y1, first, last = self.batch.extents[self.stack, self.class_].tolist()
        return None if math.isnan(first) else simulate.Cuboid(round(first), round(last), (x0, y0, x1, y1))

    def answer(self, depth: int) -> Float32[np.ndarray, "slices height width"]:
        """Logits of the prompt-free answer about the class."""
        if self.before is None:
            raise ValueError("a correction needs the prompt-free answer")
        logits = self.before[self.stack * depth : (self.stack + 1) * depth]
        return (logits[:, self.class_] - logits[:, 0]).float().numpy(force=True)


def _objects(
    batch: StackBatch, settings: PromptSection, streams: Sequence[np.random.Generator]
) -> Iterator[tuple[int, int, Masks]]:
    """Stack, class and mask of each object that is asked about."""
    if batch.target is None:
        raise ValueError("prompts are simulated from labels, but the batch has none")
    if settings.per == "instance" and batch.instances is None:
        raise ValueError("prompts per instance need instance maps, but the batch has none")
    for stack, target in enumerate(batch.target.numpy(force=True)):
        if settings.per == "instance" and batch.instances is not None:
            numbers = batch.instances[stack].numpy(force=True)
            hidden = np.isin(target, _unlabelled(batch, stack))
            for number in _some(np.unique(numbers[(numbers > 0) & ~hidden]), settings.objects, streams[stack]):
                truth = numbers == number
                yield stack, int(np.bincount(target[truth]).argmax()), truth
            continue
        shown = np.setdiff1d(target, _unlabelled(batch, stack))
        for class_ in _some(shown[(shown > 0) & (shown < 255)], settings.objects, streams[stack]):
            yield stack, int(class_), target == class_


def _unlabelled(batch: StackBatch, stack: int) -> Int[np.ndarray, " classes"]:
    """Classes that nobody looked for in the case of a stack; nothing is asked about them."""
    if batch.unlabelled is None:
        return np.empty(0, np.int64)
    return np.flatnonzero(batch.unlabelled[stack].numpy(force=True))


def _some(numbers: Int[np.ndarray, " n"], count: int, rng: np.random.Generator) -> list[int]:
    chosen: list[int] = rng.permutation(numbers)[:count].tolist()
    return chosen


def _rows(
    kind: Kind, truth: Masks, known: _Known, count: int, settings: PromptSection, rng: np.random.Generator
) -> Iterator[_Row]:
    """The rows of one object, numbered by the slices of its stack."""
    shown = [slice_ for slice_ in range(len(truth)) if truth[slice_].any()]
    size = (truth.shape[1], truth.shape[2])
    match kind:
        case "point":
            for slice_ in shown:
                clicks = simulate.random_points(truth[slice_][None], count, rng)
                yield _Row(slice_, truth[slice_], tuple((click.x, click.y) for click in clicks))
        case "box":
            for slice_ in shown:
                if (tight := simulate.tight_box(truth[slice_])) is not None:
                    yield _Row(slice_, truth[slice_], box=_drawn(tight, settings, rng, size))
        case "cuboid":
            if (cuboid := known.cuboid(truth)) is not None:
                box = _drawn(cuboid.rectangle, settings, rng, size)
                more = round(rng.uniform(0, settings.loose) * (cuboid.last - cuboid.first + 1))
                for slice_ in range(max(0, cuboid.first - more), min(len(truth) - 1, cuboid.last + more) + 1):
                    yield _Row(slice_, truth[slice_], box=box)
        case "mask":
            for slice_ in shown:
                drawn = _neighbour(truth, slice_, shown, rng)
                if drawn is not None:
                    yield _Row(slice_, truth[slice_], mask=np.where(drawn, SURE, -SURE).astype(np.float32))
        case "correction":
            answer = known.answer(len(truth))
            for click in simulate.random_error_clicks(answer > 0, truth, rng):
                right = truth[click.slice] & (answer[click.slice] > 0)
                if right.any() and rng.random() < CONFIRMING:
                    click = replace(simulate.random_points(right[None], 1, rng)[0], slice=click.slice)
                sign = OBJECT if click.inside else BACKGROUND
                yield _Row(click.slice, truth[click.slice], ((click.x, click.y),), sign, mask=answer[click.slice])


def _drawn(
    tight: simulate.Rectangle, settings: PromptSection, rng: np.random.Generator, size: tuple[int, int]
) -> simulate.Rectangle:
    """A box as a hand might draw it: looser, and not quite straight."""
    loose = simulate.relaxed(tight, rng.uniform(0, settings.loose), size)
    return simulate.jittered(loose, settings.jitter, rng, size)


def _neighbour(
    truth: Masks, slice_: int, shown: Sequence[int], rng: np.random.Generator
) -> Bool[np.ndarray, "height width"] | None:
    """The object on the slice before or after, None if neither shows it; in a lone picture its own mask, moved."""
    if len(truth) > 1:
        others = [other for other in (slice_ - 1, slice_ + 1) if other in shown]
        if not others:
            return None
        neighbour: Bool[np.ndarray, "height width"] = truth[others[int(rng.integers(len(others)))]]
        return neighbour
    reach = np.maximum(1, np.round(SHIFT * np.array(truth.shape[1:]))).astype(int)
    rows, columns = (int(rng.integers(-r, r + 1)) for r in reach)
    height, width = truth.shape[1:]
    moved: Bool[np.ndarray, "height width"] = np.zeros((height, width), bool)
    moved[max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)] = truth[
        slice_, max(0, -rows) : height + min(0, -rows), max(0, -columns) : width + min(0, -columns)
    ]
    return moved
