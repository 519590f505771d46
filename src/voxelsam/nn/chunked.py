"""Attention with relative positions in chunks, for prediction and for training.

The logits of some heads, or of some rows of queries, are computed at a time, so that they stay in the processor's
cache; soft-max sums in single precision whatever the numbers. For the backward pass nothing is kept but queries, keys
and values: it computes each chunk again.

Convention: heads are ``batch heads tokens dim``, in any order in memory; items are batch and heads along one axis.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
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
    scratch = Scratch(q)
    for part in _parts(q):
        shown = Shown(_items(k, part), _items(v, part), tables, _extra(beyond, len(q), part), grid, scratch)
        for first, queries in _row_parts(q, grid):
            some = q[part][:, :, queries]
            out[part][:, :, queries] = shown.to(_joined(some), first).view(some.shape)
    return out


class Scratch:
    """Memory for what chunks need in passing, used again by every chunk: to ask for it anew costs more than to fill it.

    Args:
        like: tells the kind of numbers and where they are.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._taken: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialised numbers; those that were taken by this name before are lost."""
        size = prod(shape)
        if name not in self._taken or len(self._taken[name]) < size:
            self._taken[name] = self._like.new_empty(size)
        return self._taken[name][:size].view(shape)


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown to the queries of some heads."""

    keys: Items
    values: Items
    tables: Tables
    beyond: Beyond | None
    """The extra key, for each item, where there is one."""
    grid: tuple[int, int]
    scratch: Scratch

    def to(self, q: Items, first: int) -> Items:
        """The formula for queries of whole rows, from row ``first`` on."""
        weights = self._weights(q, self._biases(q, first))
        if self.beyond is None:
            return torch.bmm(weights, self.values)
        return torch.bmm(weights[..., :-1], self.values).add_(weights[..., -1:] * self.beyond.value)

    def backward(
        self, q: Items, first: int, by_rows: Items, by_keys: Items, by_values: Items
    ) -> tuple[Items, list[Tensor]]:
        """Gradients of ``to``: those of keys and values are added up, the rest is returned.

        With weights p of the logits, those of the logits are p · (by p - Σ p · by p). Only the biases, which are small,
        are differentiated by PyTorch.

        Args:
            q: See ``to``.
            first: See ``to``.
            by_rows: The gradient of its result.
            by_keys: To which that of the keys is added.
            by_values: To which that of the values is added.

        Returns:
            That of the queries; then those of the extra key, of its value, and of the tables, as far as there are any.
        """
        scale, keys = q.shape[-1] ** -0.5, self.keys.shape[1]
        asked = q.detach().requires_grad_()
        leaves = [asked, *([] if self.beyond is None else [self.beyond.key.requires_grad_()])]
        leaves += [self.tables] if self.tables.requires_grad else []
        with torch.enable_grad():
            biases = self._biases(asked, first)
        weights = self._weights(q, [bias.detach() for bias in biases])
        by_values.baddbmm_(weights[..., :keys].mT, by_rows)
        by_weights = self.scratch.take("by weights", *weights.shape)
        torch.bmm(by_rows, self.values.mT, out=by_weights[..., :keys])
        if self.beyond is not None:
            torch.sum(by_rows * self.beyond.value, -1, out=by_weights[..., -1])
        by_logits = self.scratch.take("logits", *weights.shape)
        torch._softmax_backward_data(by_weights, weights, -1, weights.dtype, grad_input=by_logits)
        by_products = by_logits[..., :keys]
        by_keys.baddbmm_(by_products.mT, q, alpha=scale)
        by_pairs = by_products.view(*biases[0].shape[:3], *self.grid)
        by_biases = [by_pairs.sum(-1), by_pairs.sum(-2), by_logits[..., keys:]][: len(biases)]
        by_asked, *others = torch.autograd.grad(biases, leaves, by_biases)
        if self.beyond is not None:
            others.insert(1, (weights[..., -1:] * by_rows).sum(1))
        return by_asked.baddbmm_(by_products, self.keys, alpha=scale), others

    def _biases(self, q: Items, first: int) -> Sequence[Tensor]:
        """What is added to logits, towards each row and towards each column; then the logit of the extra key."""
        (height, width), scale = self.grid, q.shape[-1] ** -0.5
        down, across = terms(q, self.tables, whole(self.grid, self.beyond), width, first)
        if self.beyond is None:
            return down, across
        filling = scale * (q * self.beyond.key).sum(-1) + filling_weight(down, across, self.grid).flatten(1, 2)
        return down[..., :height], across[..., :width], filling[..., None]

    def _weights(self, q: Items, biases: Sequence[Tensor]) -> Float[Tensor, "items queries keys"]:
        """Soft-max of the logits of all keys, the extra one last."""
        down, across, *filling = biases
        keys = self.keys.shape[1]
        logits = self.scratch.take("logits", *q.shape[:2], keys + len(filling))
        products = logits[..., :keys]
        torch.add(down[..., None], across[..., None, :], out=products.view(*down.shape, across.shape[-1]))
        products.baddbmm_(q, self.keys.mT, alpha=q.shape[-1] ** -0.5)
        for number in filling:
            logits[..., keys:] = number
        return torch.softmax(logits, -1, out=self.scratch.take("weights", *logits.shape))


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
        by_q, by_k, by_v = (torch.empty_like(x) for x in (q, k, v))
        by_tables, *by_shared = (torch.zeros_like(x) for x in (tables, *shared))
        places, scratch = tables.detach().requires_grad_(ctx.needs_input_grad[6]), Scratch(q)
        for part in _parts(q):
            extra = _extra(beyond, len(q), part)
            shown = Shown(_items(k, part), _items(v, part), places, extra, ctx.grid, scratch)
            by_keys, by_values = torch.zeros_like(shown.keys), torch.zeros_like(shown.values)
            size = k[part].shape[:2]
            for first, queries in _row_parts(q, ctx.grid):
                some, by_rows = _items(q, part, queries), _items(by_out, part, queries)
                by_some, by_others = shown.backward(some, first, by_rows, by_keys, by_values)
                by_q[part][:, :, queries] = by_some.view(*size, -1, q.shape[-1])
                for total, by_other in zip(by_shared, by_others, strict=False):
                    total[part[1]] += by_other.view(*size, q.shape[-1]).sum(0)
                if places.requires_grad:
                    by_tables += by_others[-1]
            by_k[part], by_v[part] = by_keys.view(*size, *k.shape[2:]), by_values.view(*size, *k.shape[2:])
        return None, None, None, by_q, by_k, by_v, by_tables if places.requires_grad else None, *by_shared


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


def _items(x: Heads, part: Part, tokens: slice = slice(None)) -> Items:
    return _joined(x[part][:, :, tokens].detach())


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
