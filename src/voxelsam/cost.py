"""What networks need: arithmetic, memory and time, known before anything is computed.

A step of the network is run on PyTorch's ``meta`` device, where tensors have shapes and no values. A meter sees every
operation: which storages live at the same time (memory), the multiplications (``torch.utils.flop_counter``), and the
bytes that all other operations read and write. So the count holds for every network, and formulas of single layers are
not needed. What it cannot see are buffers inside of single kernels, and memory that the system keeps once it was used.

Convention: memory in bytes, time in seconds, FLOPs with 2 per multiply-add. All of it is an estimate;
``benchmarks/estimates.py`` measures how wrong it is.
"""

import json
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from voxelsam import adapt, backbones
from voxelsam.model import Segmenter
from voxelsam.nn.prepared import Arithmetic
from voxelsam.nn.products import Plain, Quantised, fastest
from voxelsam.nn.vit import SamEncoder

PROGRAM = 750 * 10**6
"""Memory of training's program itself with its libraries, before any data or weights."""

PREDICTOR = 450 * 10**6
"""The same in prediction, which needs fewer libraries."""

COPIES = 2.4
"""What a processor's memory holds in prediction for each byte of weights after they were read, folded and made ready:
files that are mapped, trained tensors as they came, and what the system keeps of memory that was freed."""

KEPT, KEPT_AGAIN = 1.42, 2.3
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

    def then(self, other: "Work") -> "Work":
        """This, and something else after it, when what this made is gone."""
        return Work(
            max(self.peak, other.peak), self.flops + other.flops, self.moved + other.moved, self.calls + other.calls
        )

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
        head: channels of a head of the image encoder, where the device is a processor: there positions are not hidden
            in wider heads as they are for fused kernels (``voxelsam.nn.attention``). None where heads are as they come.
    """

    def __init__(self, meter: Meter, half: torch.dtype | None = None, head: int | None = None) -> None:
        super().__init__()
        self.meter = meter
        self.half = half
        self.head = head

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
            return _Fused.apply(q, k, v, self.meter, self.head)  # type: ignore[no-untyped-call]
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
    """Attention that never holds all logits.

    A fused kernel keeps its inputs, its result and one number per query; the form for processors keeps queries, keys
    and values, of as many channels as heads have.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, meter: Meter, head: int | None) -> Tensor:
        """An empty result of the right shape."""
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        widths = [x.shape[-1] if head is None else min(x.shape[-1], head) for x in (q, k, v)]
        if head is None:
            ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        else:
            kept = zip((q, k, v), widths, strict=True)
            ctx.save_for_backward(*(x.new_empty(*x.shape[:-1], width) for x, width in kept))
        ctx.shapes = q.shape, k.shape, v.shape
        ctx.meter, ctx.flops = meter, 2 * q.shape[:-1].numel() * k.shape[-2] * (widths[0] + widths[2])
        meter.flops += ctx.flops
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Empty gradients; logits are computed once more, so there are five products for the two of the way there."""
        kept = ctx.saved_tensors
        ctx.meter.flops += 5 * ctx.flops // 2
        q, k, v = (one.new_empty(shape) for one, shape in zip(kept, ctx.shapes, strict=False))
        return q, k, v, None, None


def count(run: Callable[[], object], precision: str = "fp32", head: int | None = None) -> Work:
    """The work of a function whose tensors are on the meta device.

    Args:
        run: what to count; what it returns is let go.
        precision: ``fp32``, or what autocast would compute in: ``bf16`` or ``fp16``.
        head: as for ``Kernels``.

    Raises:
        UncountableError: it does something whose result depends on values.
    """
    meter = Meter()
    try:
        with meter, Kernels(meter, HALF.get(precision), head):
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
    checkpointing: int | None = 0
    """Blocks that are computed again, from the first; None for all."""
    answers: int = 0
    """Prompted answers in a step, at most; 0 where training does not prompt."""
    draws: bool = False
    quality: bool = False
    device: str = "cpu"
    """``cpu`` or ``gpu``."""

    @property
    def head(self) -> int | None:
        """Channels of a head of the image encoder, as ``Kernels`` takes them."""
        variant = backbones.VARIANTS[self.variant]
        return variant.dim // variant.heads if self.device == "cpu" and variant.heads else None

    @property
    def again(self) -> float:
        """Share of the blocks that are computed again."""
        return (
            1.0 if self.checkpointing is None else self.checkpointing / max(backbones.VARIANTS[self.variant].depth, 1)
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
        if self.checkpointing != 0:
            segmenter.recompute(self.checkpointing)
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


@dataclass(frozen=True)
class Passes:
    """What prediction does with a stack."""

    embed: Work
    """What the encoder makes of a slice by itself."""
    encode: Work
    """All blocks on a stack of embedded slices."""
    decode: Work
    """The scores of a slice, and their soft-max."""
    embedded: int
    """Bytes of what ``embed`` makes of a slice."""
    features: int
    """Bytes of the features of a slice."""

    def stack(self, depth: int) -> Work:
        """All of it for a stack whose slices were not embedded before."""
        return self.embed.times(depth).then(self.encode).then(self.decode.times(depth))


@cache
def passes(setup: Setup) -> Passes:
    """The work of prediction by networks that are made ready for it (``voxelsam.nn.prepared``), without gradients.

    Raises:
        UncountableError: the network does something whose result depends on values.
    """
    segmenter, autocast = _ready(setup)
    height, width = setup.size
    kept: list[Tensor] = []

    def counted(run: Callable[[], Tensor]) -> Work:
        with torch.no_grad():
            return count(lambda: kept.append(run()), autocast, setup.head)

    embed = counted(lambda: segmenter.embed(torch.empty(1, 3, height, width, device="meta")))
    embedded = kept[-1]
    stack = torch.stack([embedded[0]] * setup.depth)[None]
    encode = counted(lambda: segmenter.encode_embedded(stack))
    features = kept[-1][:1]
    decode = counted(lambda: segmenter.decode(features).logits.float().softmax(1))
    return Passes(embed, encode, decode, _bytes([embedded]), _bytes([features]))


def _ready(setup: Setup) -> tuple[Segmenter, str]:
    """The networks of prediction, and the precision in which autocast computes beside what is in them already."""
    with torch.device("meta"):
        segmenter = setup.segmenter().eval().folded().eval()
    if not isinstance(segmenter.image_encoder, SamEncoder):
        return segmenter, setup.precision
    segmenter.ready(Arithmetic(HALF.get(setup.precision, torch.float32), Plain))
    return segmenter, "fp32"


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


IN_TRAINING, IN_PREDICTION = (5.0, 30.0), (3.5, 20.0)
"""On a processor, how many times slower than in the small test bytes are moved and operations begin in a real step:
there tensors do not fit into the cache, lie in other orders, and come through layers (fitted to
``benchmarks/estimates.py``; products of matrices needed no factor)."""


@cache
def speed(device: str, precision: str = "fp32", *, prepared: bool = False) -> Speed:
    """That of a device, measured once in a process; takes about a second.

    Args:
        device: ``cpu`` or ``cuda``, with a number or without.
        precision: of matrix products: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        prepared: whether products are those of networks that are made ready for prediction.
    """
    dtype = HALF.get(precision, torch.float32)
    rows = 128 if device == "cpu" else 16384  # a millisecond or two: some run undisturbed on a busy machine
    tokens, weights = (torch.ones(count, 768, device=device, dtype=dtype) for count in (rows, 768))
    kind = Quantised if precision == "int8" else fastest(dtype, 768, torch.device(device)) if prepared else Plain
    multiply = kind(weights, None)
    picture, single = torch.ones(2 * rows, 1024, device=device), torch.ones(1, device=device)
    place = torch.empty_like(picture)
    with torch.no_grad():
        product = _duration(lambda: multiply(tokens), device)
        simple = _duration(lambda: torch.ops.aten.gelu.out(picture, out=place).add_(picture), device)
        call = _duration(lambda: single + single, device)
    moved, calls = (IN_PREDICTION if prepared else IN_TRAINING) if device == "cpu" else (1.0, 1.0)
    return Speed(2 * rows * 768 * 768 / product, 5 * picture.numel() * picture.itemsize / simple / moved, calls * call)


def resident(work: Work, device: str, *, again: float = 0.0) -> int:
    """Bytes that a step takes from the system.

    The memory allocator of a processor keeps part of what was freed, in pieces too small for the next tensor.

    Args:
        work: of the step.
        device: ``cpu`` or ``gpu``.
        again: share of the blocks that are computed again.
    """
    return round(work.peak * (KEPT + again**2 * (KEPT_AGAIN - KEPT))) if device == "cpu" else work.peak


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
