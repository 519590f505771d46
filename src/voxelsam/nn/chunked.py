"""Attention with relative positions in chunks, for prediction and for training.

The logits of some heads, or of some rows of queries, are computed at a time, so that they stay in the processor's
cache; soft-max sums in single precision whatever the numbers. For the backward pass nothing is kept but queries, keys
and values: it computes each chunk again.

Convention: heads are ``batch heads tokens dim``, in any order in memory; items are batch and heads along one axis.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from voxelsam.nn.positions import Beyond, Tables, filling_weight, terms, whole

Heads = Float[Tensor, "batch heads tokens dim"]
Items = Float[Tensor, "items tokens dim"]
Shared = Float[Tensor, "heads dim"]
Part = tuple[slice, slice]
Form = Callable[[Heads, Heads, Heads, Tables, Beyond | None, tuple[int, int]], Heads]

CHUNK = {"cpu": 1 << 18}
"""Logits that are held at a time: on a processor 1 MB in single precision, which fits its cache."""

CHUNK_ELSEWHERE = 1 << 25
"""The same on other devices, which want large pieces of work: 128 MB in single precision."""


def chunked(q: Heads, k: Heads, v: Heads, tables: Tables, beyond: Beyond | None, grid: tuple[int, int]) -> Heads:
    """The formula on some heads, or some rows of queries, at a time; see ``voxelsam.nn.attention.attend``."""
    out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
    for part in _parts(q):
        keys, values, extra = _items(k, part), _items(v, part), _extra(beyond, len(q), part)
        for first, queries in _row_parts(q, grid):
            some = q[part][:, :, queries]
            rows = _some_rows(_joined(some), keys, values, tables, extra, grid, first)
            out[part][:, :, queries] = rows.view(some.shape)
    return out


class Recomputed(torch.autograd.Function):
    """Attention in any form; the backward pass is that of the chunked one."""

    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        grid: tuple[int, int],
        window: tuple[int, int],
        q: Heads,
        k: Heads,
        v: Heads,
        tables: Tables,
        *shared: Shared,
    ) -> Heads:
        """Attention in the given form.

        Args:
            ctx: Keeps what ``backward`` needs.
            form: Computes it.
            grid: Tokens along height and width.
            window: Of which they are the valid part.
            q: Queries.
            k: Keys.
            v: Values.
            tables: Made for the window.
            shared: Key and value of what fills the window; nothing where nothing does.
        """
        ctx.grid, ctx.window = grid, window
        ctx.save_for_backward(q, k, v, tables, *shared)
        return form(q, k, v, tables, _beyond(shared, window), grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_out: Heads) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments of ``forward``, chunk by chunk."""
        q, k, v, tables, *shared = ctx.saved_tensors
        beyond = _beyond(shared, ctx.window)
        by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        by_tables, *by_shared = (torch.zeros_like(x) for x in (tables, *shared))
        places = tables.detach().requires_grad_(ctx.needs_input_grad[6])
        for part in _parts(q):
            keys, values = _items(k, part).requires_grad_(), _items(v, part).requires_grad_()
            extra = _extra(beyond, len(q), part)
            own = [] if extra is None else [extra.key.requires_grad_(), extra.value.requires_grad_()]
            size = k[part].shape[:2]
            for first, queries in _row_parts(q, ctx.grid):
                asked = _joined(q[part][:, :, queries].detach()).requires_grad_()
                with torch.enable_grad():
                    rows = _some_rows(asked, keys, values, places, extra, ctx.grid, first)
                leaves = [asked, keys, values, *own, *([places] if places.requires_grad else [])]
                found = iter(torch.autograd.grad(rows, leaves, _joined(by_out[part][:, :, queries])))
                by_q[part][:, :, queries] = next(found).view(*size, -1, q.shape[-1])
                for total in (by_k, by_v):
                    total[part] += next(found).view(*size, -1, q.shape[-1])
                for total in by_shared:
                    total[part[1]] += next(found).view(*size, q.shape[-1]).sum(0)
                if places.requires_grad:
                    by_tables += next(found)
        return None, None, None, by_q, by_k, by_v, by_tables if places.requires_grad else None, *by_shared


def _some_rows(
    q: Items,
    k: Float[Tensor, "items keys dim"],
    v: Float[Tensor, "items keys dim"],
    tables: Tables,
    beyond: Beyond | None,
    grid: tuple[int, int],
    first: int,
) -> Items:
    """The formula for queries of whole rows, from row ``first`` on; can be differentiated."""
    (height, width), scale = grid, q.shape[-1] ** -0.5
    down, across = terms(q, tables, whole(grid, beyond), width, first)
    bias = down[..., :height, None] + across[..., None, :width]
    logits = bias.flatten(3).flatten(1, 2).baddbmm_(q, k.transpose(1, 2), alpha=scale)
    if beyond is None:
        return torch.bmm(logits.softmax(dim=-1).to(q.dtype), v)
    filling = scale * (q * beyond.key).sum(-1) + filling_weight(down, across, grid).flatten(1, 2)
    weights = torch.cat((logits, filling[..., None]), dim=-1).softmax(dim=-1).to(q.dtype)
    return torch.bmm(weights[..., :-1], v) + weights[..., -1:] * beyond.value


def _parts(q: Heads) -> Iterator[Part]:
    """Some of the batch and some heads at a time, as many as a chunk has place for; at least one head."""
    batch, heads, tokens, _ = q.shape
    place = _chunk(q) // tokens**2
    together, some = max(1, min(batch, place // heads)), max(1, min(heads, place))
    for item in range(0, batch, together):
        for head in range(0, heads, some):
            yield slice(item, item + together), slice(head, head + some)


def _row_parts(q: Heads, grid: tuple[int, int]) -> Iterator[tuple[int, slice]]:
    """Some rows at a time: the first of them, and their queries; at least one row."""
    height, width = grid
    rows = max(1, min(height, _chunk(q) // (width * q.shape[2])))
    for first in range(0, height, rows):
        yield first, slice(first * width, (first + rows) * width)


def _chunk(q: Heads) -> int:
    return CHUNK.get(q.device.type, CHUNK_ELSEWHERE)


def _joined(x: Heads) -> Items:
    """Batch and heads along one axis, without gaps in memory."""
    return x.flatten(0, 1).contiguous()


def _items(x: Heads, part: Part) -> Items:
    return _joined(x[part].detach())


def _beyond(shared: Sequence[Shared], window: tuple[int, int]) -> Beyond | None:
    """The extra key, where there is one."""
    if not shared:
        return None
    key, value = shared
    return Beyond(key, value, window)


def _extra(beyond: Beyond | None, batch: int, part: Part) -> Beyond | None:
    """The extra key of each item, ``items one dim``."""
    if beyond is None:
        return None
    key, value = (_items(x[None, :, None].expand(batch, -1, -1, -1), part) for x in (beyond.key, beyond.value))
    return Beyond(key, value, beyond.window)
