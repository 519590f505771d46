"""Ways to multiply tokens by a matrix that stays as it is, and which of them is taken.

``Packed`` and ``Quantised`` call oneDNN operators that PyTorch's own compiler uses on processors, and that are not part
of its documented interface. Nothing else in the package calls them, and none is used before it has been tried: one
that is missing or wrong is never taken.

Convention: a product is made on the device where it will be used, and never moved or stored.
"""

from dataclasses import dataclass
from functools import cache
from time import get_clock_info, perf_counter, process_time
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Matrix = Float[Tensor, "rows columns"]
Bias = Float[Tensor, " rows"]

ROWS = 512
"""Tokens that a product is tried with."""

ROUNDS = 5
"""How often it is timed; the quickest time counts."""

CLEARLY = 1.25
"""How many times faster than the plain product another one must be to be taken: so much that every trial on the same
computer, busy or not, comes to the same choice."""

CLOCK = process_time if get_clock_info("process_time").resolution < 1e-5 else perf_counter
"""Processor time, which other programs hardly change, where the system counts it finely enough."""

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.int8: 3e-2}
"""Largest relative error of a sound product with such numbers, against double precision."""


class Product(nn.Module):
    """``x Wᵀ + b``, and exact GELU of it where wanted, in the numbers of W; x may come in others."""

    called: ClassVar[str]
    """In records."""
    gives: torch.dtype
    """What the results are numbers of."""

    def forward(self, x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens rows"]:
        """One row of numbers per token."""
        raise NotImplementedError

    def room(self, tokens: int) -> Float[Tensor, "tokens rows"] | None:
        """A place for results, which ``at`` writes to; None where this product makes a new one each time."""
        return None

    def at(self, x: Float[Tensor, "n columns"], place: Float[Tensor, "n rows"] | None) -> Float[Tensor, "n rows"]:
        """One row of numbers per token, in a part of the ``room`` if this product has one."""
        y: Tensor = self(x)
        return y


class Plain(Product):
    """PyTorch's own."""

    called = "plain"

    def __init__(self, weight: Matrix, bias: Bias | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.gelu = weight, bias, gelu
        self.gives = weight.dtype

    def forward(self, x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens rows"]:
        """One row of numbers per token."""
        y = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return F.gelu(y) if self.gelu else y

    def room(self, tokens: int) -> Float[Tensor, "tokens rows"] | None:
        """A place for results."""
        return self.weight.new_empty(tokens, len(self.weight))

    def at(self, x: Float[Tensor, "n columns"], place: Float[Tensor, "n rows"] | None) -> Float[Tensor, "n rows"]:
        """One row of numbers per token, in its place."""
        if place is None:
            return self(x)  # type: ignore[no-any-return]
        x = x.to(self.weight.dtype)
        if self.bias is None:
            torch.mm(x, self.weight.T, out=place)
        else:
            torch.addmm(self.bias, x, self.weight.T, out=place)
        return torch.ops.aten.gelu_(place) if self.gelu else place


class Packed(Product):
    """oneDNN's: the matrix is laid out for the processor once, and GELU follows while the numbers are at hand."""

    called = "packed"

    def __init__(self, weight: Matrix, bias: Bias | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.gives = weight.dtype
        self.bias, self.after = bias, "gelu" if gelu else "none"
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)

    def forward(self, x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens rows"]:
        """One row of numbers per token."""
        given: tuple[Any, ...] = (x.to(self.gives), self.packed, self.bias, self.after, [], "none")
        y: Tensor = torch.ops.mkldnn._linear_pointwise(*given)
        return y


class Quantised(Product):
    """Whole numbers from -127 to 127: one scale per row of the matrix, and one per token, found as it comes."""

    called = "int8"

    def __init__(self, weight: Matrix, bias: Bias | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.scale, whole = quantised(weight.float())
        self.scale = self.scale.squeeze(-1)
        self.zero = torch.zeros(len(weight), dtype=torch.int64)
        self.packed = torch.ops.onednn.qlinear_prepack(whole, [ROWS, weight.shape[1]])
        self.bias = self.scale.new_zeros(len(weight)) if bias is None else bias.float()
        self.gelu = gelu
        self.gives = torch.float32

    def forward(self, x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens rows"]:
        """One row of numbers per token, in single precision."""
        parts = torch.split(x.flatten(0, -2).float(), ROWS)
        return torch.cat([self._some(part) for part in parts]).view(*x.shape[:-1], -1)

    def _some(self, x: Float[Tensor, "n columns"]) -> Float[Tensor, "n rows"]:
        scale, whole = quantised(x)
        given: tuple[Any, ...]
        given = (whole, 1.0, 0, self.packed, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], "")
        y = torch.addcmul(self.bias, torch.ops.onednn.qlinear_pointwise(*given), scale)
        return F.gelu(y) if self.gelu else y


def quantised(x: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n 1"], Tensor]:
    """One scale per row, and whole numbers from -127 to 127 that give x when multiplied by it."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) / 127
    return scale, (x / scale).round_().to(torch.int8)


@dataclass(frozen=True)
class Trial:
    """How a product did beside the plain one."""

    times: float
    """How many times faster it was; 0 where it does not work here."""
    error: float
    """Its relative error against double precision; infinite where it does not work here."""


@cache
def tried(product: type[Product], dtype: torch.dtype, columns: int) -> Trial:
    """Tries a product on this processor, once in a process: a fraction of a second.

    Args:
        product: made from a matrix of ``dtype``.
        dtype: also of the plain product.
        columns: of the matrix, which has four times as many rows, like the first of a block's MLP; GELU follows.
    """
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(4 * columns, columns, generator=draw) / columns**0.5
    x, bias = torch.randn(ROWS, columns, generator=draw), torch.randn(4 * columns, generator=draw)
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
    given = (weight.to(dtype), bias.to(dtype))
    plain = Plain(*given, gelu=True)
    with torch.inference_mode():
        try:
            other = product(*given, gelu=True)
            off = other(x.to(dtype)).double() - exact
        except (RuntimeError, NotImplementedError, AttributeError):
            return Trial(0.0, float("inf"))
        x = x.to(dtype)
        times = [(_seconds(plain, x), _seconds(other, x)) for _ in range(ROUNDS)]
    quickest, quickest_other = (min(some) for some in zip(*times, strict=True))
    return Trial(quickest / quickest_other, float(off.norm() / exact.norm()))


def fastest(dtype: torch.dtype, columns: int, device: torch.device) -> type[Product]:
    """The packed product where a trial finds it right and clearly faster, else the plain one.

    Args:
        dtype: of the matrices.
        columns: of a typical one.
        device: where they are.
    """
    if device.type != "cpu" or dtype not in TOLERANCE:
        return Plain
    trial = tried(Packed, dtype, columns)
    return Packed if trial.times >= CLEARLY and trial.error <= TOLERANCE[dtype] else Plain


def _seconds(product: Product, x: Tensor) -> float:
    start = CLOCK()
    product(x)
    return CLOCK() - start
