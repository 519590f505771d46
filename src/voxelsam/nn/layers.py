"""Small layers shared by SAM's parts, and the cut into attention windows with its undoing.

Convention: attribute names are Meta's parameter names. Maps are ``frames channels height width``, tokens are
``frames height width channels``.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.nn.frozen_mlp import FrozenMlp


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a map, separately at every pixel."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(
        self, x: Float[Tensor, "frames channels height width"]
    ) -> Float[Tensor, "frames channels height width"]:
        """The same map with mean 0 and variance 1 over channels, then scaled and shifted."""
        normed = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)


class Mlp(nn.Module):
    """Two linear layers with an activation between them: exact GELU in the encoder, ReLU in the decoder."""

    def __init__(self, dim: int, hidden: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.act = activation()

    def forward(self, x: Float[Tensor, "*tokens channels"]) -> Float[Tensor, "*tokens channels"]:
        """As many channels as came in."""
        y: Tensor
        if self._frozen(x):
            dtype = computed_in(x)
            given = (x.flatten(0, -2), self.lin1.weight, self.lin1.bias, self.lin2.weight, self.lin2.bias)
            y = FrozenMlp.apply(*(tensor.to(dtype) for tensor in given)).view(x.shape)  # type: ignore[no-untyped-call]
        else:
            y = self.lin2(self.act(self.lin1(x)))
        return y

    def _frozen(self, x: Float[Tensor, "*tokens channels"]) -> bool:
        """Whether a gradient is wanted, but only that of the tokens."""
        if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
            return False
        exact = isinstance(self.act, nn.GELU) and self.act.approximate == "none"
        return exact and not any(weight.requires_grad for weight in self.parameters())


class Plus(nn.Module):
    """What a branch adds to the residual stream; a module, so that prediction can take one that adds in place."""

    def forward(
        self, x: Float[Tensor, "frames height width channels"], more: Float[Tensor, "frames height width channels"]
    ) -> Float[Tensor, "frames height width channels"]:
        """The sum."""
        return x + more


class MlpHead(nn.Module):
    """A stack of linear layers with ReLU between them, none after the last."""

    def __init__(self, dim: int, hidden: int, out: int, layers: int) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Float[Tensor, "*tokens channels"]) -> Float[Tensor, "*tokens out"]:
        """One output vector per token."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        y: Tensor = last(x)
        return y


def computed_in(x: Float[Tensor, "*shape"]) -> torch.dtype:
    """What to compute in: the numbers of x, or what autocast asks for on its device."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def to_windows(
    x: Float[Tensor, "frames height width channels"], window: int, filling: Float[Tensor, " channels"] | None = None
) -> Float[Tensor, "windows window window channels"]:
    """Cuts tokens into square windows, row by row, after filling them up at the bottom and at the right.

    A grid of 5 × 4 tokens and windows of 3 (``.`` is a filling token)::

        a a a b . .
        a a a b . .        2 × 2 windows per frame, frame by frame: a b c d
        a a a b . .
        c c c d . .
        c c c d . .
        . . . . . .

    Args:
        x: Tokens.
        window: Tokens per side of a window.
        filling: The filling token; None for zeros.
    """
    height, width = x.shape[1:3]
    down, right = -height % window, -width % window
    if filling is None:
        x = F.pad(x, (0, 0, 0, right, 0, down))
    else:
        filling = filling.to(x.dtype)
        x = torch.cat((x, filling.expand(x.shape[0], height, right, -1)), dim=2)
        x = torch.cat((x, filling.expand(x.shape[0], down, width + right, -1)), dim=1)
    return rearrange(
        x, "frames (rows h) (columns w) channels -> (frames rows columns) h w channels", h=window, w=window
    )


def from_windows(
    windows: Float[Tensor, "windows window window channels"], grid: tuple[int, int]
) -> Float[Tensor, "frames height width channels"]:
    """Undoes ``to_windows``: puts windows side by side and cuts off what was filled in.

    Args:
        windows: All windows of all frames.
        grid: Tokens along height and width before the cut.
    """
    height, width = grid
    window = windows.shape[1]
    x = rearrange(
        windows,
        "(frames rows columns) h w channels -> frames (rows h) (columns w) channels",
        rows=-(-height // window),
        columns=-(-width // window),
    )
    return x[:, :height, :width]
