"""Attention with SAM's decomposed relative positions, in forms that agree to float precision.

A query at token (row, column) sees a key at (row', column') with the logit::

    scale · q·k + q·rel_h[row - row' + height - 1] + q·rel_w[column - column' + width - 1]

Convention: tokens run row by row; a table for n positions has 2n - 1 rows. The query is scaled in the first term only
(Meta's ``add_decomposed_rel_pos``). No form but the plain one makes a tensor of tokens × tokens.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from voxelsam.errors import WeightsError
from voxelsam.nn.chunked import Heads, Recomputed, Shared, chunked
from voxelsam.nn.layers import computed_in
from voxelsam.nn.positions import Beyond, Tables, filling_weight, terms, whole

Table = Float[Tensor, "rows dim"]
DownTable = Float[Tensor, "twice_height dim"]
AcrossTable = Float[Tensor, "twice_width dim"]

ALIGNMENT = 8
"""Fused kernels want head sizes that are multiples of this; others fall back to the full matrix of logits."""

WIDEST = 256
"""Channels of a head beyond which fused kernels fall back to the full matrix of logits."""

TOGETHER = 1 << 21
"""Numbers of queries that a processor's fused kernel gets at a time: 4 MB in half precision."""


def attend(
    q: Heads,
    k: Heads,
    v: Heads,
    rel_h: DownTable,
    rel_w: AcrossTable,
    grid: tuple[int, int],
    *,
    beyond: Beyond | None = None,
    fused: bool = True,
) -> Heads:
    """Softmax attention over height × width tokens.

    Args:
        q: Queries, not scaled: the scale costs nothing here.
        k: Keys.
        v: Values.
        rel_h: Relative positions along the height, 2 × height - 1 rows.
        rel_w: Relative positions along the width, 2 × width - 1 rows.
        grid: Tokens along height and width.
        beyond: What fills a window of which ``grid`` is the valid part; the tables are then made for that window.
        fused: False computes the formula word by word, with all logits in memory: the reference for tests.

    Raises:
        WeightsError: a table is not made for this grid, or this window.
    """
    for name, table, size in zip(("rel_h", "rel_w"), (rel_h, rel_w), whole(grid, beyond), strict=True):
        if table.shape[0] != 2 * size - 1:
            raise WeightsError(
                f"{name} has {table.shape[0]} rows, but {size} tokens need {2 * size - 1}; "
                "build or load the backbone with the image_size that is used"
            )
    dtype = computed_in(q)
    q, k, v, rel_h, rel_w = (x.to(dtype) for x in (q, k, v, rel_h, rel_w))
    if beyond is not None:
        beyond = Beyond(beyond.key.to(dtype), beyond.value.to(dtype), beyond.window)
    if not fused:
        return _plain(q, k, v, rel_h, rel_w, beyond, grid)
    tables = torch.cat((rel_h.flip(0), rel_w.flip(0)))
    tensors = (q, k, v, tables, *(() if beyond is None else (beyond.key, beyond.value)))
    if _recomputes(*tensors, grid=grid):
        recomputed: Tensor = Recomputed.apply(_fast, grid, whole(grid, beyond), *tensors)  # type: ignore[no-untyped-call]
        return recomputed
    return _fast(q, k, v, tables, beyond, grid)


def resize_table(table: Table, rows: int) -> Float[Tensor, "resized dim"]:
    """A relative-position table for another number of positions, linear along its rows (ends not aligned)."""
    if table.shape[0] == rows:
        return table
    stretched = F.interpolate(table.T[None], size=rows, mode="linear", align_corners=False)
    return stretched[0].T.contiguous()


def by_pair(table: Table, size: int) -> Float[Tensor, "query key dim"]:
    """The row of a table for every pair of positions."""
    position = torch.arange(size, device=table.device)
    pairs: Tensor = table[position[:, None] - position[None, :] + size - 1]
    return pairs


def _recomputes(q: Heads, *others: Tensor, grid: tuple[int, int]) -> bool:
    """Whether the form that keeps no logits for the backward pass is needed; fused kernels have one of their own."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    if not any(tensor.requires_grad for tensor in (q, *others)):
        return False
    return q.device.type == "cpu" or _width(q, grid) > WIDEST


def _width(q: Heads, grid: tuple[int, int]) -> int:
    """Channels of a head in the augmented form."""
    return q.shape[-1] + sum(grid) + 1


def _fast(q: Heads, k: Heads, v: Heads, tables: Tables, beyond: Beyond | None, grid: tuple[int, int]) -> Heads:
    """The fastest form where nothing has to be kept.

    Processors in single and double precision: chunks. Elsewhere, and in half precision, the fused kernel, which keeps
    its statistics in single precision; nothing else can be traced by a compiler. On processors it gets some heads at a
    time, because it needs copies that are several times as wide.
    """
    if torch.compiler.is_compiling():
        return _augmented(q, k, v, tables, beyond, grid)
    on_processor = q.device.type == "cpu"
    if (on_processor and q.dtype in (torch.float32, torch.float64)) or _width(q, grid) > WIDEST:
        return chunked(q, k, v, tables, beyond, grid)
    batch, heads, tokens, dim = q.shape
    together = max(1, TOGETHER // (batch * tokens * _width(q, grid)))
    if not on_processor or together >= heads:
        return _augmented(q, k, v, tables, beyond, grid)
    out = q.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    for first in range(0, heads, together):
        some = slice(first, first + together)
        extra = None if beyond is None else Beyond(beyond.key[some], beyond.value[some], beyond.window)
        out[:, some] = _augmented(q[:, some], k[:, some], v[:, some], tables, extra, grid)
    return out


def _plain(
    q: Heads, k: Heads, v: Heads, rel_h: DownTable, rel_w: AcrossTable, beyond: Beyond | None, grid: tuple[int, int]
) -> Heads:
    """Word by word: every filling token is a key of its own."""
    (height, width), (rows, columns) = grid, whole(grid, beyond)
    if beyond is not None:
        k, v = _filled(k, beyond.key, grid, beyond.window), _filled(v, beyond.value, grid, beyond.window)
    places = rearrange(q, "batch heads (h w) dim -> batch heads h w dim", h=height, w=width)
    down = torch.einsum("bnhwd,hkd->bnhwk", places, by_pair(rel_h, rows)[:height])
    across = torch.einsum("bnhwd,wkd->bnhwk", places, by_pair(rel_w, columns)[:width])
    bias = down[..., :, None] + across[..., None, :]
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias.flatten(-2).flatten(2, 3)
    out: Tensor = logits.softmax(dim=-1) @ v
    return out


def _filled(
    x: Heads, token: Shared, grid: tuple[int, int], window: tuple[int, int]
) -> Float[Tensor, "batch heads all dim"]:
    """All tokens of a window, with the filling ones at the bottom and at the right."""
    (height, width), (rows, columns) = grid, window
    batch, heads, _, dim = x.shape
    places = rearrange(x, "batch heads (h w) dim -> batch heads h w dim", h=height, w=width)
    token = token[None, :, None, None]
    places = torch.cat((places, token.expand(batch, heads, height, columns - width, dim)), dim=3)
    return torch.cat((places, token.expand(batch, heads, rows - height, columns, dim)), dim=2).flatten(2, 3)


def _augmented(q: Heads, k: Heads, v: Heads, tables: Tables, beyond: Beyond | None, grid: tuple[int, int]) -> Heads:
    """The bias hidden in the dot product: terms behind each query, the one-hot of its row and column behind each key.

    With 3 × 2 tokens, the key at (1, 0) becomes [k, 0 1 0, 1 0, 0] and picks the terms of row 1 and column 0. The key
    of the filling tokens is [k, 0 0 0, 0 0, 1] and picks the last number of the query, their weight. Values are filled
    with zeros to the same width, because some fused kernels refuse narrower ones.
    """
    batch, heads, _, dim = q.shape
    height, width = grid
    down, across = terms(q, tables, whole(grid, beyond), width)
    row = repeat(torch.eye(height, dtype=k.dtype, device=k.device), "h c -> b n (h w) c", b=batch, n=heads, w=width)
    column = repeat(torch.eye(width, dtype=k.dtype, device=k.device), "w c -> b n (h w) c", b=batch, n=heads, h=height)
    queries = [q * dim**-0.5, down[..., :height].flatten(2, 3), across[..., :width].flatten(2, 3)]
    keys, values = torch.cat((k, row, column), dim=-1), v
    if beyond is not None:
        queries.append(filling_weight(down, across, grid).flatten(2, 3)[..., None])
        token = F.pad(F.pad(beyond.key, (0, height + width)), (0, 1), value=1.0)
        keys = torch.cat((F.pad(keys, (0, 1)), token[None, :, None].expand(batch, -1, -1, -1)), dim=2)
        values = torch.cat((v, beyond.value[None, :, None].expand(batch, -1, -1, -1)), dim=2)
    spare = -keys.shape[-1] % ALIGNMENT
    if spare:
        queries.append(q.new_zeros(*q.shape[:-1], spare))
        keys = F.pad(keys, (0, spare))
    wide = F.scaled_dot_product_attention(
        torch.cat(queries, dim=-1), keys, F.pad(values, (0, keys.shape[-1] - dim)), scale=1.0
    )
    return wide[..., :dim]
