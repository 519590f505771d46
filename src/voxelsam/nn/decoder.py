"""SAM's mask decoder: features and prompts of a frame to one logit map per mask token.

Convention: attribute names are Meta's parameter names. One prompt set per frame: the first axis of features, sparse
and dense prompts is the same; several objects on one frame are expanded by the caller. All mask tokens are returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.nn.layers import LayerNorm2d, MlpHead
from voxelsam.nn.prompt_encoder import EncodedPrompts
from voxelsam.nn.seam import DecoderAdaptation
from voxelsam.nn.two_way import TwoWayTransformer

Features = Float[Tensor, "frames channels height width"]


@dataclass(eq=False)
class Scores:
    """What a decoder says about frames; the leading axes are ``frames``, or ``batch depth`` after the model."""

    logits: Float[Tensor, "*frames classes height width"]
    """Before soft-max (classes) or sigmoid (SAM's masks)."""
    quality: Float[Tensor, "*frames classes"] | None = None
    """The decoder's own estimate of the IoU of each map."""


class MaskDecoder(nn.Module):
    """Two-way transformer, up-sampling, and one hyper-network per mask token.

    Args:
        dim: Channels of the features.
        masks: Mask tokens, so maps in the result (SAM: one single mask and three proposals).
        upscale: Channels after each transposed convolution; each doubles height and width.
        depth: Blocks of the two-way transformer.
        heads: Its attention heads.
        mlp_dim: Hidden width of its MLPs.
        iou_hidden: Hidden width of the quality head.
        adaptation: What a method does inside the two-way transformer; None for SAM's decoder alone.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        masks: int = 4,
        upscale: tuple[int, ...] = (64, 32),
        depth: int = 2,
        heads: int = 8,
        mlp_dim: int = 2048,
        iou_hidden: int = 256,
        adaptation: DecoderAdaptation | None = None,
    ) -> None:
        super().__init__()
        self.masks = masks
        self.adaptation = adaptation
        self.transformer = TwoWayTransformer(depth, dim, heads, mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(masks, dim)
        self.output_upscaling = nn.Sequential(*_upscaling(dim, upscale))
        self.output_hypernetworks_mlps = nn.ModuleList(MlpHead(dim, dim, upscale[-1], 3) for _ in range(masks))
        self.iou_prediction_head = MlpHead(dim, iou_hidden, masks, 3)

    def forward(
        self,
        features: Features,
        dense_pe: Float[Tensor, "one channels height width"],
        prompts: EncodedPrompts,
    ) -> Scores:
        """One logit map per mask token, at height × 2**len(upscale).

        Args:
            features: The image encoder's result.
            dense_pe: Positions of the features.
            prompts: The prompt encoder's result.
        """
        tokens, image = self.attend_tokens(features, dense_pe, prompts)
        upscaled = self.upscale(image, features.shape[-2:])
        hyper = self.hypernetworks(tokens[:, 1 : 1 + self.masks])
        logits = torch.einsum("fmc,fchw->fmhw", hyper, upscaled)
        return Scores(logits, self.iou_prediction_head(tokens[:, 0]))

    def attend_tokens(
        self,
        features: Features,
        dense_pe: Float[Tensor, "one channels height width"],
        prompts: EncodedPrompts,
    ) -> tuple[Float[Tensor, "frames tokens channels"], Float[Tensor, "frames pixels channels"]]:
        """Tokens (quality, masks, then the sparse prompts) and image after the two-way transformer."""
        own = repeat(self.own_tokens(), "n channels -> frames n channels", frames=features.shape[0])
        tokens = torch.cat((own, prompts.sparse), dim=1)
        tokens, image = self.transformer(features + prompts.dense, dense_pe, tokens, prompts, self.adaptation)
        return tokens, image

    def own_tokens(self) -> Float[Tensor, "tokens channels"]:
        """The tokens that every frame starts with: quality, then masks."""
        return torch.cat((self.iou_token.weight, self.mask_tokens.weight))

    def upscale(
        self, image: Float[Tensor, "frames pixels channels"], grid: Sequence[int]
    ) -> Float[Tensor, "frames out y x"]:
        """The image as a map, doubled len(upscale) times."""
        upscaled: Tensor = self.output_upscaling(
            rearrange(image, "frames (h w) channels -> frames channels h w", h=grid[0], w=grid[1])
        )
        return upscaled

    def hypernetworks(self, tokens: Float[Tensor, "frames masks channels"]) -> Float[Tensor, "frames masks out"]:
        """The weights with which each mask token mixes the channels of the up-sampled map."""
        mixed = [mlp(token) for mlp, token in zip(self.output_hypernetworks_mlps, tokens.unbind(1), strict=True)]
        return torch.stack(mixed, dim=1)


def _upscaling(dim: int, channels: Sequence[int]) -> list[nn.Module]:
    """Transposed convolutions with norm and GELU between them; after the last, GELU only."""
    layers: list[nn.Module] = []
    for before, after in pairwise((dim, *channels)):
        layers += [nn.ConvTranspose2d(before, after, kernel_size=2, stride=2), LayerNorm2d(after), nn.GELU()]
    del layers[-2]
    return layers
