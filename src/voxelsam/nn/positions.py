"""Relative positions of attention: what they add to logits, and what all filling tokens of a window come to.

Convention: a table for n positions has 2n - 1 rows, from the position n - 1 before the query's to n - 1 behind it.

Windows that reach over the edge of the image are filled with tokens that are all alike. These share one key k and one
value, so that the sum of their weights is the weight of one more key (``Beyond``), whose logit is::

    scale · q·k + log Σ exp(row term + column term), the sum over the places of the filling tokens
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Tables = Float[Tensor, "both dim"]
"""Both tables, each turned around, that of the rows above that of the columns."""
ToRows = Float[Tensor, "*items height width window_height"]
ToColumns = Float[Tensor, "*items height width window_width"]


@dataclass(frozen=True, eq=False)
class Beyond:
    """All filling tokens of a window as one more key; the valid tokens lie at the top left."""

    key: Float[Tensor, "*heads dim"]
    """Their common key, for each head."""
    value: Float[Tensor, "*heads dim"]
    """Their common value, for each head."""
    window: tuple[int, int]
    """Tokens along height and width of the whole window, valid ones and filling ones."""


def whole(grid: tuple[int, int], beyond: Beyond | None) -> tuple[int, int]:
    """Tokens along height and width of the window, of which ``grid`` is the valid part."""
    return grid if beyond is None else beyond.window


def terms(
    q: Float[Tensor, "*items tokens dim"], tables: Tables, window: tuple[int, int], width: int, first: int = 0
) -> tuple[ToRows, ToColumns]:
    """For every query the bias towards each row and towards each column of the window.

    One product with both tables; what belongs to a pair of positions is a view of it. With 3 rows, the table -2 … 2
    becomes 2 1 0 -1 -2 by turning it around, in which the query at row h finds its keys 0 … 2 from place 2 - h on: one
    place further to the left with every row.

    Args:
        q: Queries of whole rows of tokens.
        tables: Made for the window.
        window: Tokens along its height and width.
        width: Queries in a row of tokens.
        first: The row of the first query.
    """
    rows, columns = window
    products = F.linear(q, tables).contiguous()
    *items, tokens, both = products.shape
    *strides, _, _ = products.stride()
    height = tokens // width
    down = products.as_strided((*items, height, width, rows), (*strides, width * both - 1, both, 1), rows - 1 - first)
    across = products.as_strided(
        (*items, height, width, columns), (*strides, width * both, both - 1, 1), 2 * rows - 1 + columns - 1
    )
    return down, across


def filling_weight(down: ToRows, across: ToColumns, grid: tuple[int, int]) -> Float[Tensor, "*items height width"]:
    """Logarithm of the sum of exp(bias) over the places of the filling tokens: those below, and those at the right."""
    height, width = grid
    below = down[..., height:].logsumexp(-1) + across.logsumexp(-1)
    right = down[..., :height].logsumexp(-1) + across[..., width:].logsumexp(-1)
    return torch.logaddexp(below, right)
