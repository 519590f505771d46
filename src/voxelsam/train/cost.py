"""What training and prediction need: arithmetic, memory, time and disk, known before anything is computed.

One step of the network is run on PyTorch's ``meta`` device, where tensors have shapes and no values. A meter sees every
operation: which storages live at the same time (memory), the multiplications (``torch.utils.flop_counter``), and the
bytes that all other operations read and write. So the count holds for every network, and formulas of single layers are
not needed. What it cannot see are buffers inside of single kernels, and memory that the system keeps once it was used.

Convention: memory and disk in bytes, time in seconds, FLOPs with 2 per multiply-add. All of it is an estimate;
``benchmarks/estimates.py`` measures how wrong it is.
"""

import json
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from voxelsam import adapt, backbones
from voxelsam.data.fingerprint import CaseFacts
from voxelsam.model import Segmenter
from voxelsam.nn.prompt_encoder import OBJECT, PromptBatch
from voxelsam.stacks.plan import StackPlan
from voxelsam.train.losses import dice_ce
from voxelsam.train.recipe import Recipe

PROGRAM = 750 * 10**6
"""Memory of the program itself with its libraries, before any data or weights."""

KEPT, KEPT_AGAIN = 1.5, 2.5
"""What a processor's memory grows by for each byte of tensors that live at the same time (measured with glibc, see
``benchmarks/estimates.py``): usually, and where blocks are computed again, so that much comes and goes."""

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

PRODUCTS = ("linear", "matmul", "bmm", "einsum", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d")
"""Functions that autocast computes in half precision."""


class UncountableError(Exception):
    """A network whose work cannot be counted without values."""


@dataclass(frozen=True)
class Work:
    """What some operations need."""

    peak: int = 0
    """Bytes of the tensors that were made and lived at the same time, at most."""
    flops: int = 0
    """Multiplications and additions of matrix products, convolutions and attention."""
    moved: int = 0
    """Bytes that all other operations read and wrote."""
    calls: int = 0
    """Operations."""

    def times(self, factor: float) -> "Work":
        """The same, so many times after one another."""
        return Work(self.peak, round(self.flops * factor), round(self.moved * factor), round(self.calls * factor))


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the work of all operations inside the ``with`` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = self.moved = self.calls = 0
        self._held: dict[int, int] = {}

    @property
    def work(self) -> Work:
        """What was counted so far."""
        return Work(self.peak, self.flops, self.moved, self.calls)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One operation."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        known = {leaf.untyped_storage()._cdata for leaf in given}
        fresh = [leaf for leaf in made if leaf.untyped_storage()._cdata not in known]
        for leaf in fresh:
            self._hold(leaf)
        if not fresh and not func._schema.is_mutable:
            return out  # a view: nothing is computed
        self.calls += 1
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        else:
            self.moved += sum(leaf.numel() * leaf.itemsize for leaf in (*given, *made))
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._held:
            self._held[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key: int) -> None:
        self.live -= self._held.pop(key)


class Kernels(TorchFunctionMode):
    """On the meta device, what the kernels of real devices do: fused attention, and half precision.

    Args:
        meter: counts the arithmetic of fused attention.
        half: precision of matrix products under autocast; None leaves them in single precision.
    """

    def __init__(self, meter: Meter, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.meter = meter
        self.half = half

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One function."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if self.half is not None and name in (*PRODUCTS, "scaled_dot_product_attention"):
            args = tuple(self._halved(value) for value in args)
            kwargs = {key: self._halved(value) for key, value in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            q, k, v = (kwargs.get(key, args[place] if place < len(args) else None) for place, key in enumerate(_QKV))
            return _Fused.apply(q, k, v, self.meter)  # type: ignore[no-untyped-call]
        if self.half is not None and name in ("softmax", "log_softmax", "layer_norm", "cross_entropy"):
            args = tuple(value.float() if _is_half(value) else value for value in args)
        return func(*args, **kwargs)

    def _halved(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            return value.to(self.half)
        return [self._halved(one) for one in value] if isinstance(value, list) else value


_QKV = ("query", "key", "value")


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in HALF.values()


class _Fused(torch.autograd.Function):
    """Attention that never holds all logits: keeps its inputs, its result and one number per query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, meter: Meter) -> Tensor:
        """An empty result of the right shape."""
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        ctx.meter, ctx.flops = meter, 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        meter.flops += ctx.flops
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Empty gradients; logits are computed once more, so there are five products for the two of the way there."""
        q, k, v, *_ = ctx.saved_tensors
        ctx.meter.flops += 5 * ctx.flops // 2
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


def count(run: Callable[[], object], precision: str = "fp32") -> Work:
    """The work of a function whose tensors are on the meta device.

    Args:
        run: what to count; what it returns is let go.
        precision: ``fp32``, or what autocast would compute in: ``bf16`` or ``fp16``.

    Raises:
        UncountableError: it does something whose result depends on values.
    """
    meter = Meter()
    try:
        with meter, Kernels(meter, HALF.get(precision)):
            run()
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UncountableError(f"the network computes something that has no shape without values ({reason})") from error
    return meter.work


@dataclass(frozen=True)
class Setup:
    """Everything that the work of one step depends on, but for the number of stacks."""

    variant: str
    """Backbone."""
    method: str
    """Name and options of the method, as JSON."""
    classes: int
    """The background included."""
    size: tuple[int, int]
    """Pixels (height, width)."""
    depth: int
    """Slices per stack."""
    precision: str = "fp32"
    checkpointing: bool = False
    answers: int = 0
    """Prompted answers in a step, at most; 0 where training does not prompt."""
    draws: bool = False
    quality: bool = False

    @classmethod
    def of(cls, recipe: Recipe, variant: str, classes: int) -> "Setup":
        """That of a resolved recipe.

        Args:
            recipe: with the model's size in it.
            variant: name of the backbone.
            classes: the background included.
        """
        prompts, train = recipe.prompts, recipe.train
        return cls(
            variant,
            json.dumps(recipe.adapt, sort_keys=True),
            classes,
            recipe.stack.size,
            recipe.stack.depth,
            train.precision,
            train.checkpointing,
            prompts.questions * (1 + prompts.corrections) if prompts.used else 0,
            prompts.used and prompts.draw,
            prompts.used and prompts.quality > 0,
        )

    def segmenter(self) -> Segmenter:
        """The networks on the meta device, ready to be trained.

        Raises:
            ConfigError, WeightsError: the method, its options or the size do not fit the backbone.
        """
        options = json.loads(self.method)
        name = options.pop("name", "ma_sam")
        with torch.device("meta"):
            backbone = backbones.build(self.variant, self.size).to("meta")
            adaptation = adapt.build(name, options, backbone, self.classes)
            if self.quality:
                adaptation.train_quality()
            segmenter = Segmenter(backbone, adaptation, draws=self.draws)
        if self.checkpointing:
            segmenter.recompute()
        return segmenter.train()


@dataclass(frozen=True)
class Networks:
    """Numbers of a model."""

    parameters: int
    """Of backbone and adaptation."""
    trained: int
    weights: int
    """Bytes of all of them."""
    saved: int
    """Bytes of the adaptation, which is what a bundle holds."""


@cache
def networks(setup: Setup) -> Networks:
    """Sizes of the model itself."""
    segmenter = setup.segmenter()
    trained = sum(parameter.numel() for parameter in segmenter.adaptation.parameters() if parameter.requires_grad)
    every = [*segmenter.parameters(), *segmenter.buffers()]
    own = [*segmenter.adaptation.parameters(), *segmenter.adaptation.buffers()]
    return Networks(sum(map(Tensor.numel, segmenter.parameters())), trained, _bytes(every), _bytes(own))


@cache
def training_step(setup: Setup, batch: int) -> Work:
    """Loss and gradients of a batch of stacks, without the optimiser."""
    segmenter = setup.segmenter()
    images, target = _inputs(setup, batch)

    def run() -> None:
        features = segmenter.encode(images)
        losses = [_prompted(segmenter, features) for _ in range(setup.answers)]
        if not losses:
            losses = [dice_ce(segmenter.decode(features).logits.float(), target)[0]]
        _backward(torch.stack(losses).mean())

    return count(run, setup.precision)


def prediction(setup: Setup, batch: int = 1) -> Work:
    """Scores of a batch of stacks, without gradients."""
    return _pass(setup).times(batch)


@cache
def _pass(setup: Setup) -> Work:
    segmenter = setup.segmenter().eval()
    images, _ = _inputs(setup, 1)

    def run() -> None:
        with torch.no_grad():
            segmenter.decode(segmenter.encode(images)).logits.float().softmax(1)

    return count(run, setup.precision)


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


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


@dataclass(frozen=True)
class Speed:
    """How fast a device computes, measured on a few small operations."""

    flops: float
    """Multiplications and additions of matrix products, per second."""
    moved: float
    """Bytes that simple operations read and write, per second."""
    call: float
    """Seconds that an operation takes at least."""

    def seconds(self, work: Work) -> float:
        """Time of some work."""
        return work.flops / self.flops + work.moved / self.moved + work.calls * self.call


IN_NETWORKS = (7.5, 30.0)
"""On a processor, how many times slower than in the small test bytes are moved and operations begin in a real step:
there tensors do not fit into the cache, lie in other orders, and come through layers (fitted to
``benchmarks/estimates.py``; products of matrices needed no factor)."""


@cache
def speed(device: str, precision: str = "fp32") -> Speed:
    """That of a device, measured once in a process; takes less than a second.

    Args:
        device: ``cpu`` or ``cuda``, with a number or without.
        precision: of matrix products: ``fp32``, ``bf16`` or ``fp16``.
    """
    dtype = HALF.get(precision, torch.float32)
    rows = 128 if device == "cpu" else 16384  # a millisecond or two: some run undisturbed on a busy machine
    tokens, weights = (torch.ones(count, 768, device=device, dtype=dtype) for count in (rows, 768))
    picture, single = torch.ones(2 * rows, 1024, device=device), torch.ones(1, device=device)
    with torch.no_grad():
        product = _duration(lambda: tokens @ weights, device)
        simple = _duration(lambda: F.gelu(picture) + picture, device)
        call = _duration(lambda: single + single, device)
    moved, calls = IN_NETWORKS if device == "cpu" else (1.0, 1.0)
    return Speed(2 * rows * 768 * 768 / product, 5 * picture.numel() * picture.itemsize / simple / moved, calls * call)


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
        + resident(step, device, again=setup.checkpointing)
        + _stack(setup) * batch
    )
    if device != "cpu":
        return needed
    return needed + PROGRAM * (1 + train.workers) + _stack(setup) * batch * (2 + 2 * train.workers)


def resident(work: Work, device: str, *, again: bool = False) -> int:
    """Bytes that a step takes from the system.

    The memory allocator of a processor keeps part of what was freed, in pieces too small for the next tensor.

    Args:
        work: of the step.
        device: ``cpu`` or ``gpu``.
        again: whether blocks are computed again.
    """
    return round(work.peak * (KEPT_AGAIN if again else KEPT)) if device == "cpu" else work.peak


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


def _duration(run: Callable[[], object], device: str, budget: float = 0.2) -> float:
    """Seconds of one call: the shortest of as many as fit into the budget, which other programs disturbed least."""
    run()
    taken: list[float] = []
    while sum(taken) < budget:
        begin = time.perf_counter()
        run()
        if device != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - begin)
    return min(taken)


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
    """Disk of the prepared cases."""
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
    step, passed = training_step(setup, batch), prediction(setup)
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
        held = (
            sum(-(-slices // setup.depth) for slices in data.validation) * fast.seconds(passed) / train.validate_every
        )
        every = (*data.training, *data.validation)
        asked = sum(every) / len(every) / recipe.stack.stride * fast.seconds(passed)
        seconds = {
            "seconds_per_step": each,
            "seconds_per_epoch": steps * each + held,
            "seconds": train.epochs * (steps * each + held),
            "seconds_per_case": asked,
        }
    scores = 4 * setup.classes * setup.size[0] * setup.size[1] * (setup.depth + 2)
    answering = model.weights + resident(passed, device) + stack + scores
    volume = data.largest * (4 * data.channels + 2)
    return Estimate(
        parameters=model.parameters,
        trained=model.trained,
        weights=model.weights,
        optimiser=_optimiser(recipe, setup),
        activations=resident(step, device, again=setup.checkpointing),
        memory=needed,
        ram=here
        if device == "cpu"
        else here - resident(step, "cpu", again=setup.checkpointing) - _optimiser(recipe, setup),
        prediction=answering + (PROGRAM + volume if device == "cpu" else 0),
        cache=data.prepared,
        run=2 * model.saved + model.saved + 2 * own + (0 if train.ema is None else own),
        flops=step.flops,
        steps=train.epochs * steps,
        **seconds,
    )


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
