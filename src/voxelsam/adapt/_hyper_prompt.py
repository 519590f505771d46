"""Adapters of the decoder that a prompt steers: HyP-Adpt, and three plainer ones to compare it with.

HyP-Adpt reduces the tokens, multiplies them by matrices that a linear hyper-network makes from the prompt, and widens
them again::

    e = D x + d            z = E p + f
    T times:  W = reshape(H z + h, width × width);  e = ReLU(norm(e W))
    x + (U e + u)

The paper prints the idea only (arXiv 2304.12620); this is one sound reading of it. W starts near the identity and U
at zero, so that a fresh adapter changes nothing. Every frame has matrices of its own.

The others have one layer, ``x + up(ReLU(norm(e)))``: ``add`` with ``e = D x + d + E p + f``, ``concat`` with
``e = M [D x + d, E p + f] + m``, ``none`` without the prompt, ``e = D x + d``.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.nn.prompt_encoder import EncodedPrompts

Mode = Literal["hyper", "add", "concat", "none"]
"""How the prompt gets in."""
Tokens = Float[Tensor, "frames n channels"]
Narrow = Float[Tensor, "frames n width"]
Prompt = Float[Tensor, "frames prompt_channels"]


class PromptAdapter(nn.Module):
    """What the four have in common: the way down, the way up, and the skip around both."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tokens, prompt: Prompt) -> Tokens:
        """The tokens as the prompt of their frame wants them."""
        increment: Tensor = self.up(self.mix(self.down(x), prompt))
        return x + increment

    def mix(self, e: Narrow, prompt: Prompt) -> Narrow:
        """What happens to the reduced tokens."""
        raise NotImplementedError


class Hyper(PromptAdapter):
    """HyP-Adpt.

    Args:
        dim: Channels of the tokens.
        prompt_dim: Channels of the prompt.
        width: Channels of the reduced tokens.
        prompt_width: Channels of the reduced prompt.
        layers: Matrices that the prompt makes.
    """

    def __init__(self, dim: int, prompt_dim: int, width: int, prompt_width: int, layers: int) -> None:
        super().__init__(dim, width)
        self.width = width
        self.prompt_down = nn.Linear(prompt_dim, prompt_width)
        self.hyper = nn.ModuleList(nn.Linear(prompt_width, width * width) for _ in range(layers))
        self.norm = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(layers))
        for layer in range(layers):
            nn.init.normal_(self.get_parameter(f"hyper.{layer}.weight"), std=1e-2 / math.sqrt(prompt_width))
            with torch.no_grad():
                self.get_parameter(f"hyper.{layer}.bias").copy_(torch.eye(width).flatten())

    def mix(self, e: Narrow, prompt: Prompt) -> Narrow:
        """One layer after the other, its matrix made from the prompt."""
        z = self.prompt_down(prompt)
        for hyper, norm in zip(self.hyper, self.norm, strict=True):
            matrix = rearrange(hyper(z), "frames (input output) -> frames input output", input=self.width)
            e = F.relu(norm(e @ matrix))
        return e


class Added(PromptAdapter):
    """The reduced prompt is added to the reduced tokens."""

    def __init__(self, dim: int, prompt_dim: int, width: int) -> None:
        super().__init__(dim, width)
        self.prompt_down = nn.Linear(prompt_dim, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def mix(self, e: Narrow, prompt: Prompt) -> Narrow:
        """A sum and a norm."""
        return F.relu(self.norm(e + rearrange(self.prompt_down(prompt), "frames width -> frames 1 width")))


class Concatenated(PromptAdapter):
    """The reduced prompt stands behind the reduced tokens."""

    def __init__(self, dim: int, prompt_dim: int, width: int, prompt_width: int) -> None:
        super().__init__(dim, width)
        self.prompt_down = nn.Linear(prompt_dim, prompt_width)
        self.join = nn.Linear(width + prompt_width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def mix(self, e: Narrow, prompt: Prompt) -> Narrow:
        """A linear layer over both, and a norm."""
        z = rearrange(self.prompt_down(prompt), "frames width -> frames 1 width").expand(-1, e.shape[1], -1)
        return F.relu(self.norm(self.join(torch.cat((e, z), dim=-1))))


class Unprompted(PromptAdapter):
    """An adapter that no prompt steers."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(dim, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def mix(self, e: Narrow, prompt: Prompt) -> Narrow:
        """A norm."""
        return F.relu(self.norm(e))


def prompt_adapter(mode: Mode, dim: int, width: int, prompt_width: int, layers: int) -> PromptAdapter:
    """An adapter of tokens of ``dim`` channels; prompts have as many."""
    if mode == "hyper":
        return Hyper(dim, dim, width, prompt_width, layers)
    if mode == "add":
        return Added(dim, dim, width)
    if mode == "concat":
        return Concatenated(dim, dim, width, prompt_width)
    return Unprompted(dim, width)


def pooled(prompts: EncodedPrompts, nothing: Float[Tensor, " prompt_channels"]) -> Prompt:
    """One vector per frame: the mean over its real tokens, without a gradient; ``nothing`` where there are none."""
    real = rearrange(prompts.real, "frames n -> frames n 1")
    total = (prompts.sparse.detach() * real).sum(dim=1)
    count = real.sum(dim=1)
    return torch.where(count > 0, total / count.clamp(min=1), nothing)
