"""SAMed (arXiv 2304.13785): LoRA on the queries and values of every block, and a trained decoder.

Each of the two projections W of a block becomes W + (alpha / rank)·B·A with its own pair A (``down``) and B (``up``);
B starts at zero. SAMed uses rank 4 without a factor, which is alpha = rank. There are no prompts: the prompt encoder's
embedding of "no mask" is trained instead. The decoder is SAM's with one mask token per class, its logits stretched
from a quarter of the size to the model input. Slices are seen one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt._decoders import full_size, prompt_free
from voxelsam.adapt._query_value import Projected, Tokens, fold, increase
from voxelsam.config import STRICT
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.seam import BlockSpec, EncoderAdaptation
from voxelsam.nn.vit import SamEncoder


@dataclass(frozen=True)
class Config:
    """What can be chosen about SAMed."""

    __pydantic_config__ = STRICT

    rank: int = 4
    """Numbers between A and B."""
    alpha: float = 4.0
    """The increments are scaled by alpha / rank, so that another rank keeps the learning rate."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is at least 1, but {self.rank} came")


class LowRank(nn.Module):
    """The increment B·A·x of one projection in each block; A starts at PyTorch's default (Kaiming, a = √5), B at 0."""

    def __init__(self, blocks: Sequence[BlockSpec], rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(block.dim, rank, bias=False) for block in blocks)
        self.up = nn.ModuleList(nn.Linear(rank, block.dim, bias=False) for block in blocks)
        for block in range(len(blocks)):
            nn.init.zeros_(self.get_parameter(f"up.{block}.weight"))

    def forward(self, block: int, x: Tokens) -> Tokens:
        """The increment, of the shape of ``x``."""
        increment: Tensor = self.up[block](self.down[block](x))
        return increment

    def matrix(self, block: int) -> Float[Tensor, "channels channels"]:
        """The same as a matrix on column vectors, in double precision."""
        up, down = (self.get_parameter(f"{name}.{block}.weight").double() for name in ("up", "down"))
        return up @ down


class LoraEncoder(EncoderAdaptation):
    """A pair of factors for the queries and one for the values of every block."""

    def __init__(self, blocks: Sequence[BlockSpec], rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.query = LowRank(blocks, rank)
        self.value = LowRank(blocks, rank)

    def qkv(self, block: int, qkv: Projected, x: Tokens) -> Projected:
        """Adds the two increments."""
        return increase(qkv, self.scale * self.query(block, x), self.scale * self.value(block, x))

    def folded(self, encoder: SamEncoder) -> EncoderAdaptation:
        """Adds the increments to the weights of ``encoder``, in place; nothing is left to do."""
        for block in range(len(encoder.blocks)):
            fold(encoder, block, self.scale * self.query.matrix(block), self.scale * self.value.matrix(block))
        return EncoderAdaptation()


def build(config: Config, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh SAMed; it starts as the frozen image encoder."""
    with torch.device(backbone.image_encoder.pos_embed.device):
        encoder = LoraEncoder(backbone.image_encoder.blocks_spec, config.rank, config.alpha / config.rank)
    decoder, origin = full_size(backbone, classes)
    return Adaptation(encoder, decoder, prompt_free(backbone), starts_as_backbone=True, origin=origin)
