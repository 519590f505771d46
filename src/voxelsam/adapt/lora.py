"""LoRA (arXiv 2106.09685) on the linear layers of every block, and a trained decoder: SAMed (arXiv 2304.13785).

Each of the chosen matrices W of a block becomes W + (alpha / rank)·B·A with its own pair A (``down``) and B (``up``);
B starts at zero. SAMed takes queries and values, and rank 4 without a factor, which is alpha = rank. The code of
Med-SA (arXiv 2304.12620, ``sam_lora``) takes both layers of the MLP as well, and alpha = 1. The prompt encoder's
embedding of "no mask", which is all that no prompt leaves, is trained. The decoder is SAM's with one mask token per
class, its logits stretched from a quarter of the size to the model input. Slices are seen one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt._decoders import full_size, prompt_free
from voxelsam.adapt._linear import Layer, fold, sizes, two_layers
from voxelsam.config import STRICT
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import EncoderAdaptation, Meeting, Projected, Stack, Tokens
from voxelsam.nn.vit import SamEncoder

Target = Literal["query", "value", "mlp"]
"""Queries, values, or both linear layers of the MLP."""


@dataclass(frozen=True)
class Config:
    """What can be chosen about LoRA; the defaults are SAMed's.

    Med-SA's ``sam_lora`` has ``targets: [query, value, mlp]`` and ``alpha: 1.0``.
    """

    __pydantic_config__ = STRICT

    rank: int = 4
    """Numbers between A and B."""
    alpha: float = 4.0
    """The increments are scaled by alpha / rank, so that another rank keeps the learning rate."""
    targets: tuple[Target, ...] = ("query", "value")
    """Which matrices get increments."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is at least 1, but {self.rank} came")
        if not self.targets:
            raise ValueError("targets names at least one of query, value, mlp, but is empty")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets names each matrix once, but {', '.join(self.targets)} came")


class LowRank(nn.Module):
    """The increment B·A·x of one matrix in each block; A starts at PyTorch's default (Kaiming, a = √5), B at 0.

    Args:
        sizes: Columns and rows of the matrix, for each block.
        rank: Numbers between A and B.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(columns, rank, bias=False) for columns, _ in sizes)
        self.up = nn.ModuleList(nn.Linear(rank, rows, bias=False) for _, rows in sizes)
        for block in range(len(sizes)):
            nn.init.zeros_(self.get_parameter(f"up.{block}.weight"))

    def forward(self, block: int, x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens rows"]:
        """The increment for what the matrix sees."""
        increment: Tensor = self.up[block](self.down[block](x))
        return increment

    def matrix(self, block: int) -> Float[Tensor, "rows columns"]:
        """The same as a matrix on column vectors, in double precision."""
        up, down = (self.get_parameter(f"{name}.{block}.weight").double() for name in ("up", "down"))
        return up @ down


class LoraEncoder(EncoderAdaptation):
    """A pair of factors for each chosen matrix of every block.

    Args:
        encoder: Gives the sizes.
        rank: Numbers between the factors.
        scale: Of all increments.
        targets: Which matrices.
    """

    def __init__(self, encoder: SamEncoder, rank: int, scale: float, targets: Sequence[Target]) -> None:
        super().__init__()
        self.scale = scale

        def factors(target: Target, layer: Layer) -> LowRank | None:
            return LowRank(sizes(encoder, layer), rank) if target in targets else None

        self.query = factors("query", "query")
        self.value = factors("value", "value")
        self.lin1 = factors("mlp", "lin1")
        self.lin2 = factors("mlp", "lin2")

    @property
    def meeting(self) -> Meeting:
        """Every token is changed by itself."""
        return "never"

    def qkv(self, block: int, qkv: Projected, x: Tokens) -> Projected:
        """Adds the increments of queries and values."""
        if self.query is None and self.value is None:
            return qkv
        q, k, v = qkv.chunk(3, dim=-1)
        return torch.cat((self._plus(q, self.query, block, x), k, self._plus(v, self.value, block, x)), dim=-1)

    def mlp(self, block: int, mlp: Callable[[Tokens], Tokens], x: Tokens, stack: Stack) -> Tokens:
        """Adds the increments of the two layers."""
        if self.lin1 is None:
            return mlp(x)
        layers = two_layers(mlp)
        hidden = layers.act(self._plus(layers.lin1(x), self.lin1, block, x))
        return self._plus(layers.lin2(hidden), self.lin2, block, hidden)

    def folded(self, encoder: SamEncoder) -> EncoderAdaptation:
        """Adds the increments to the weights of ``encoder``, in place; nothing is left to do."""
        for layer, factors in self.named_children():
            for block in range(len(encoder.blocks)):
                fold(encoder, block, cast("Layer", layer), self.scale * cast("LowRank", factors).matrix(block))
        return EncoderAdaptation()

    def _plus(
        self,
        y: Float[Tensor, "*tokens rows"],
        factors: LowRank | None,
        block: int,
        x: Float[Tensor, "*tokens columns"],
    ) -> Float[Tensor, "*tokens rows"]:
        return y if factors is None else y + self.scale * factors(block, x)


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh LoRA; it starts as the frozen image encoder."""
    with torch.device(backbone.image_encoder.pos_embed.device):
        encoder = LoraEncoder(backbone.image_encoder, config.rank, config.alpha / config.rank, config.targets)
    decoder, origin = full_size(backbone, classes)
    return Adaptation(encoder, decoder, prompt_free(backbone), starts_as_backbone=True, origin=origin)
