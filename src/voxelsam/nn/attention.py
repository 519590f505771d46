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

Heads = Float[Tensor, "batch heads tokens dim"]
Table = Float[Tensor, "rows dim"]
DownTable = Float[Tensor, "twice_height dim"]
AcrossTable = Float[Tensor, "twice_width dim"]
ToRows = Float[Tensor, "batch heads tokens height"]
ToColumns = Float[Tensor, "batch heads tokens width"]

CHUNK = 1 << 20
"""Logits that the chunked form holds at a time: 4 MB in single precision, which fits a processor's cache."""

ALIGNMENT = 8
"""Fused kernels want head sizes that are multiples of this; others fall back to the full matrix of logits."""


def attend(
    q: Heads, k: Heads, v: Heads, rel_h: DownTable, rel_w: AcrossTable, grid: tuple[int, int], *, fused: bool = True
) -> Heads:
    """Softmax attention over height × width tokens.

    Args:
        q: Queries, not scaled.
        k: Keys.
        v: Values.
        rel_h: Relative positions along the height, 2 × height - 1 rows.
        rel_w: Relative positions along the width, 2 × width - 1 rows.
        grid: Tokens along height and width.
        fused: False computes the formula word by word, with all logits in memory: the reference for tests.

    Raises:
        WeightsError: a table is not made for this grid.
    """
    for name, table, size in (("rel_h", rel_h, grid[0]), ("rel_w", rel_w, grid[1])):
        if table.shape[0] != 2 * size - 1:
            raise WeightsError(
                f"{name} has {table.shape[0]} rows, but {size} tokens need {2 * size - 1}; "
                "build or load the backbone with the image_size that is used"
            )
    rows, columns = _relative_terms(q, rel_h.to(q.dtype), rel_w.to(q.dtype), grid)
    if not fused:
        return _plain(q, k, v, rows, columns)
    if _may_work_in_place(q, k, v, rel_h, rel_w):
        return _chunked(q, k, v, rows, columns)
    return _augmented(q, k, v, rows, columns)


def resize_table(table: Table, rows: int) -> Float[Tensor, "resized dim"]:
    """A relative-position table for another number of positions, linear along its rows (ends not aligned)."""
    if table.shape[0] == rows:
        return table
    stretched = F.interpolate(table.T[None], size=rows, mode="linear", align_corners=False)
    return stretched[0].T.contiguous()


def _may_work_in_place(*tensors: Tensor) -> bool:
    """Whether the chunked form, fastest on processors, can be used: nothing to differentiate, nothing to trace."""
    if torch.compiler.is_compiling() or any(tensor.device.type != "cpu" for tensor in tensors):
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _relative_terms(q: Heads, rel_h: DownTable, rel_w: AcrossTable, grid: tuple[int, int]) -> tuple[ToRows, ToColumns]:
    """For every query the bias towards each row and towards each column."""
    height, width = grid
    q = rearrange(q, "batch heads (h w) dim -> batch heads h w dim", h=height, w=width)
    rows = torch.einsum("bnhwd,hkd->bnhwk", q, _by_pair(rel_h, height))
    columns = torch.einsum("bnhwd,wkd->bnhwk", q, _by_pair(rel_w, width))
    return rows.flatten(2, 3), columns.flatten(2, 3)


def _by_pair(table: Table, size: int) -> Float[Tensor, "query key dim"]:
    position = torch.arange(size, device=table.device)
    pairs: Tensor = table[position[:, None] - position[None, :] + size - 1]
    return pairs


def _plain(q: Heads, k: Heads, v: Heads, rows: ToRows, columns: ToColumns) -> Heads:
    bias = rows[..., :, None] + columns[..., None, :]
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias.flatten(-2)
    out: Tensor = logits.softmax(dim=-1) @ v
    return out


def _augmented(q: Heads, k: Heads, v: Heads, rows: ToRows, columns: ToColumns) -> Heads:
    """The bias hidden in the dot product: terms behind each query, the one-hot of its row and column behind each key.

    With 3 × 2 tokens, the key at (1, 0) becomes [k, 0 1 0, 1 0] and picks the terms of row 1 and column 0. Values are
    filled with zeros to the same width, because some fused kernels refuse narrower ones.
    """
    batch, heads, _, dim = q.shape
    height, width = rows.shape[-1], columns.shape[-1]
    row = repeat(torch.eye(height, dtype=k.dtype, device=k.device), "h c -> b n (h w) c", b=batch, n=heads, w=width)
    column = repeat(torch.eye(width, dtype=k.dtype, device=k.device), "w c -> b n (h w) c", b=batch, n=heads, h=height)
    spare = -(dim + height + width) % ALIGNMENT
    queries = F.pad(torch.cat((q * dim**-0.5, rows, columns), dim=-1), (0, spare))
    keys = F.pad(torch.cat((k, row, column), dim=-1), (0, spare))
    values = F.pad(v, (0, height + width + spare))
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., :dim]


def _chunked(q: Heads, k: Heads, v: Heads, rows: ToRows, columns: ToColumns) -> Heads:
    """The plain formula on some heads or some queries at a time."""
    batch, heads, tokens, dim = q.shape
    q, k, v, rows, columns = (x.flatten(0, 1) for x in (q * dim**-0.5, k, v, rows, columns))
    out = torch.empty_like(v)
    items = max(1, CHUNK // tokens**2)
    queries = max(1, min(tokens, CHUNK // tokens))
    for item in range(0, batch * heads, items):
        some = slice(item, item + items)
        keys, values = k[some].transpose(1, 2), v[some]
        for query in range(0, tokens, queries):
            part = (some, slice(query, query + queries))
            logits = torch.bmm(q[part], keys)
            by_key = logits.view(*logits.shape[:2], rows.shape[-1], columns.shape[-1])
            by_key += rows[part][..., :, None]
            by_key += columns[part][..., None, :]
            out[part] = torch.bmm(logits.softmax(dim=-1), values)
    return out.view(batch, heads, tokens, dim)
