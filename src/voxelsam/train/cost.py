"""What training takes: memory, time and disk, known before anything is computed.

The work of a step and of a prediction is counted on the networks themselves (``voxelsam.cost``).

Convention: memory and disk in bytes, time in seconds, FLOPs with 2 per multiply-add. All of it is an estimate;
``benchmarks/estimates.py`` measures how wrong it is.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from voxelsam.cost import COPIES, PREDICTOR, PROGRAM, Setup, Speed, Work, count, networks, passes, resident
from voxelsam.data.fingerprint import CaseFacts
from voxelsam.model import Segmenter
from voxelsam.nn.prompt_encoder import OBJECT, PromptBatch
from voxelsam.stacks.plan import StackPlan
from voxelsam.train.kept import ROOM, leaves_encoder
from voxelsam.train.losses import dice_ce
from voxelsam.train.recipe import Recipe


def setup_of(recipe: Recipe, variant: str, classes: int, device: str) -> Setup:
    """What the work of a step of a resolved recipe depends on.

    Args:
        recipe: with the model's size in it.
        variant: name of the backbone.
        classes: the background included.
        device: ``cpu`` or ``gpu``.
    """
    prompts, train = recipe.prompts, recipe.train
    return Setup(
        variant,
        json.dumps(recipe.adapt, sort_keys=True),
        classes,
        recipe.stack.size,
        recipe.stack.depth,
        train.precision,
        train.recomputed,
        prompts.questions * (1 + prompts.corrections) if prompts.used else 0,
        prompts.used and prompts.draw,
        prompts.used and prompts.quality > 0,
        device,
    )


@cache
def training_step(setup: Setup, batch: int) -> Work:
    """Loss and gradients of a batch of stacks, without the optimiser."""
    segmenter = setup.segmenter()
    images, target = _inputs(setup, batch)

    def run() -> None:
        features = segmenter.encode(images)
        losses = [_prompted(segmenter, features) for _ in range(setup.answers)]
        if not losses:
            losses = [dice_ce(segmenter.decode(features).logits, target)[0]]
        _backward(torch.stack(losses).mean())

    return count(run, setup.precision, setup.head)


@cache
def encoding(setup: Setup) -> Work:
    """The features of one slice, without gradients, as training computes them where they never change."""
    segmenter = setup.segmenter()
    image = torch.empty(1, 1, 3, *setup.size, device="meta")

    def run() -> None:
        with torch.no_grad():
            segmenter.encode(image)

    return count(run, setup.precision, setup.head)


@cache
def never_changes(setup: Setup) -> bool:
    """Whether features depend on the picture alone, so that training keeps those of pictures that stay the same."""
    return leaves_encoder(setup.segmenter())


def _prompted(segmenter: Segmenter, features: Float[Tensor, "frames channels h w"]) -> Tensor:
    frames = len(features)
    points = features.new_zeros(frames, 1, 2)
    prompts = PromptBatch(points, points.new_full((frames, 1), OBJECT, dtype=torch.long))
    logits = segmenter.decode(features, prompts).logits
    return F.softplus((logits[:, 1] - logits[:, 0]).float()).mean()


def _backward(loss: Tensor) -> None:
    """``loss.backward()``, which would switch ``Kernels`` off while blocks are computed again."""
    engine: Any = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _inputs(setup: Setup, batch: int) -> tuple[Tensor, Tensor]:
    images = torch.empty(batch, setup.depth, 3, *setup.size, device="meta")
    return images, torch.empty(batch * setup.depth, *setup.size, dtype=torch.long, device="meta")


def memory(recipe: Recipe, setup: Setup, device: str) -> int:
    """Bytes that training takes on its device; on the CPU with the program itself.

    Args:
        recipe: resolved.
        setup: of that recipe.
        device: ``cpu`` or ``gpu``.
    """
    train = recipe.train
    step, batch = training_step(setup, _own_batch(recipe)), _own_batch(recipe)
    needed = (
        networks(setup).weights
        + _optimiser(recipe, setup)
        + resident(step, device, again=setup.again)
        + _stack(setup) * batch
    )
    if device != "cpu":
        return needed
    return needed + PROGRAM * (1 + train.workers) + _stack(setup) * batch * (2 + 2 * train.workers)


def _own_batch(recipe: Recipe) -> int:
    """Stacks of a step on one device."""
    return -(-recipe.train.batch // (recipe.train.devices * recipe.train.nodes))


def _optimiser(recipe: Recipe, setup: Setup) -> int:
    """Bytes of AdamW's two moments, of the running average and its exchange, and of gradients that are added up."""
    own = 4 * networks(setup).trained
    return 2 * own + (0 if recipe.train.ema is None else 2 * own) + (own if recipe.train.accumulate > 1 else 0)


def _stack(setup: Setup) -> int:
    """Bytes of one stack of pictures."""
    return 4 * setup.depth * 3 * setup.size[0] * setup.size[1]


PASSES = 60
"""Times that cutting and augmenting a stack reads or writes all of its values (counted for the preset ``light``)."""

OPTIMISER = 10
"""Times that a step of AdamW reads or writes each trained number."""


@dataclass(frozen=True)
class Data:
    """Sizes of the prepared cases of a run."""

    training: tuple[int, ...]
    """Slices of each case."""
    validation: tuple[int, ...]
    voxels: int
    """Of all cases together."""
    largest: int
    """Voxels of the largest case."""
    channels: int
    itemsize: int
    """Bytes of a value in the files, the most of all cases."""

    @classmethod
    def of(
        cls, plan: StackPlan, training: Sequence[CaseFacts], validation: Sequence[CaseFacts], channels: int
    ) -> "Data":
        """Those of measured cases under a plan."""
        cases = [*training, *validation]
        voxels = [math.prod(_sides(plan, case)) for case in cases]
        size = 4 if plan.spacing is not None else max(case.itemsize for case in cases)
        slices = [_sides(plan, case)[2] for case in cases]
        learnt = len(training)
        return cls(tuple(slices[:learnt]), tuple(slices[learnt:]), sum(voxels), max(voxels), channels, size)

    @property
    def stacks(self) -> int:
        """Stacks to train on: one around each slice."""
        return sum(self.training)

    @property
    def prepared(self) -> int:
        """Bytes of the prepared cases on disk: every channel, and one byte of label."""
        return self.voxels * (self.channels * self.itemsize + 1)


@dataclass(frozen=True)
class Estimate:
    """What a run needs. Memory and disk in bytes, time in seconds; None where nothing was measured to tell it."""

    parameters: int
    trained: int
    weights: int
    """Memory of all weights."""
    optimiser: int
    """Memory of the optimiser, the running average and gradients that are added up."""
    activations: int
    """Most memory of a training step beyond weights and optimiser."""
    memory: int
    """On the device that trains: weights, optimiser, activations; on the CPU the program too."""
    ram: int
    """Of the process on the computer's side; on the CPU the same as ``memory``."""
    prediction: int
    """On the device that predicts, one stack per pass."""
    cache: int
    """Disk of the prepared cases, and of features that are kept while the run goes on."""
    run: int
    """Disk of the bundles and of the state to go on from."""
    flops: int
    """Of a training step."""
    steps: int
    """Batches of the whole run."""
    seconds_per_step: float | None
    seconds_per_epoch: float | None
    """Training and its share of the validations."""
    seconds: float | None
    """Of the whole run."""
    seconds_per_case: float | None
    """Prediction of a case of mean size."""

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return asdict(self)


def estimate(recipe: Recipe, setup: Setup, data: Data, device: str, fast: Speed | None = None) -> Estimate:
    """What a run of a recipe needs.

    Args:
        recipe: resolved.
        setup: of that recipe.
        data: sizes of its cases.
        device: ``cpu`` or ``gpu``.
        fast: of that device; None leaves the times out.
    """
    train, model = recipe.train, networks(setup)
    batch = _own_batch(recipe)
    step, passed = training_step(setup, batch), passes(setup).stack(setup.depth)
    own, stack = 4 * model.trained, _stack(setup)
    needed, here = memory(recipe, setup, device), memory(recipe, setup, "cpu")
    stacks = min(data.stacks, train.stacks_per_epoch or data.stacks)
    steps = -(-stacks // train.batch)
    seconds: dict[str, float | None] = dict.fromkeys(
        ("seconds_per_step", "seconds_per_epoch", "seconds", "seconds_per_case")
    )
    if fast is not None:
        beside = Work(moved=PASSES * stack * batch if not train.workers else 0)
        each = fast.seconds(step) + fast.seconds(beside) + OPTIMISER * own / fast.moved / train.accumulate
        validated = sum(-(-slices // setup.depth) for slices in data.validation) / train.validate_every
        held, once = validated * fast.seconds(passed), 0.0
        if never_changes(setup) and not train.shard:
            slice_ = fast.seconds(encoding(setup))
            held = validated * max(fast.seconds(passed) - setup.depth * slice_, 0)
            once = sum(data.validation) * slice_
            if recipe.augment.preset == "none":
                each = max(each - batch * setup.depth * slice_, 0.1 * each)
                once += sum(data.training) * slice_
        every = (*data.training, *data.validation)
        asked = sum(every) / len(every) / recipe.stack.stride * fast.seconds(passed)
        seconds = {
            "seconds_per_step": each,
            "seconds_per_epoch": steps * each + held,
            "seconds": train.epochs * (steps * each + held) + once,
            "seconds_per_case": asked,
        }
    scores = 4 * setup.classes * setup.size[0] * setup.size[1] * (setup.depth + 2)
    answering = model.weights + passed.peak + stack + scores
    volume = data.largest * (4 * data.channels + 2)
    here_too = PREDICTOR + round((COPIES - 1) * model.weights) + volume if device == "cpu" else 0
    return Estimate(
        parameters=model.parameters,
        trained=model.trained,
        weights=model.weights,
        optimiser=_optimiser(recipe, setup),
        activations=resident(step, device, again=setup.again),
        memory=needed,
        ram=here if device == "cpu" else here - resident(step, "cpu", again=setup.again) - _optimiser(recipe, setup),
        prediction=answering + here_too,
        cache=data.prepared + _features(recipe, setup, data),
        run=2 * model.saved + model.saved + 2 * own + (0 if train.ema is None else own),
        flops=step.flops,
        steps=train.epochs * steps,
        **seconds,
    )


def _features(recipe: Recipe, setup: Setup, data: Data) -> int:
    """Bytes of features that training keeps (``voxelsam.train.kept``)."""
    if not never_changes(setup) or recipe.train.shard:
        return 0
    slices = sum(data.validation) + (sum(data.training) if recipe.augment.preset == "none" else 0)
    return min(ROOM, slices * passes(setup).features)


def _sides(plan: StackPlan, case: CaseFacts) -> tuple[int, int, int]:
    """Voxels along canonical i, j and k."""
    plane = case.plane if plan.plane == "auto" else plan.plane
    if plane not in case.sizes:
        plane = case.plane
    wanted = plan.spacing or (None, None, None)
    columns, rows, slices = (
        size if step is None else max(1, round(size * own / step))
        for size, own, step in zip(case.sizes[plane], case.spacings[plane], wanted, strict=True)
    )
    return columns, rows, slices
