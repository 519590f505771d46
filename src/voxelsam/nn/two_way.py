"""SAM's two-way transformer: prompt tokens look at the image, the image looks back (arXiv 2304.02643, figure 14).

A method may act at three points of each layer, see ``voxelsam.nn.seam``.

Convention: attribute names are Meta's parameter names. Tokens are ``frames n channels``; every frame has its own.
"""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.nn.layers import Mlp
from voxelsam.nn.prompt_encoder import EncodedPrompts
from voxelsam.nn.seam import DecoderAdaptation

UNADAPTED = DecoderAdaptation()
"""What the transformer calls when no method is given."""

Prompts = Float[Tensor, "frames n channels"]
Pixels = Float[Tensor, "frames pixels channels"]
Places = Float[Tensor, "one pixels channels"]
Keys = Float[Tensor, "frames m channels"]


class SlimAttention(nn.Module):
    """Multi-head attention whose inner width is the outer one divided by ``downsample``."""

    def __init__(self, dim: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Prompts, k: Keys, v: Keys) -> Prompts:
        """As many tokens as queries."""
        split = "frames n (heads dim) -> frames heads n dim"
        y = F.scaled_dot_product_attention(
            rearrange(self.q_proj(q), split, heads=self.heads),
            rearrange(self.k_proj(k), split, heads=self.heads),
            rearrange(self.v_proj(v), split, heads=self.heads),
        )
        out: Tensor = self.out_proj(rearrange(y, "frames heads n dim -> frames n (heads dim)"))
        return out


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP, image to tokens; each followed by a norm.

    Args:
        first: In the first block the tokens still are their own positions: self-attention adds no positions and
            replaces the tokens instead of adding to them.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, downsample: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = SlimAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = SlimAttention(dim, heads, downsample)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = SlimAttention(dim, heads, downsample)

    def forward(
        self,
        layer: int,
        tokens: Prompts,
        image: Pixels,
        token_pe: Prompts,
        image_pe: Places,
        prompts: EncodedPrompts,
        adaptation: DecoderAdaptation,
    ) -> tuple[Prompts, Pixels]:
        """Tokens and image after this block.

        Args:
            layer: Index of this block, handed on to the adaptation.
            tokens: Tokens of each frame.
            image: Image of each frame.
            token_pe: Positions of the tokens.
            image_pe: Positions of the image.
            prompts: Handed on to the adaptation.
            adaptation: The method, or one that does nothing.
        """
        located = image + image_pe
        tokens = self._asked(layer, tokens, located, image, token_pe, prompts, adaptation)
        seen = self.cross_attn_image_to_token(located, tokens + token_pe, tokens)
        return tokens, self.norm4(adaptation.to_image(layer, image, seen, prompts))

    def _asked(
        self,
        layer: int,
        tokens: Prompts,
        located: Pixels,
        image: Pixels,
        token_pe: Prompts,
        prompts: EncodedPrompts,
        adaptation: DecoderAdaptation,
    ) -> Prompts:
        """The tokens after this block; ``located`` is the image with its positions."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_pe
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        seen = self.cross_attn_token_to_image(tokens + token_pe, located, image)
        tokens = self.norm2(tokens + adaptation.from_image(layer, seen, prompts))
        return self.norm3(tokens + adaptation.mlp(layer, self.mlp, tokens, prompts))  # type: ignore[no-any-return]


class TwoWayTransformer(nn.Module):
    """A few two-way blocks and a last look of the tokens at the image."""

    def __init__(self, depth: int, dim: int, heads: int, mlp_dim: int, attention_downsample_rate: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads, mlp_dim, attention_downsample_rate, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = SlimAttention(dim, heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self,
        image: Float[Tensor, "frames channels height width"],
        image_pe: Float[Tensor, "one channels height width"],
        tokens: Prompts,
        prompts: EncodedPrompts,
        adaptation: DecoderAdaptation | None = None,
    ) -> tuple[Prompts, Pixels]:
        """Tokens and image after mutual attention.

        Args:
            image: Features per frame.
            image_pe: Positions of the features, the same for all frames.
            tokens: Tokens per frame; they also serve as their own positions.
            prompts: Those that the last tokens stand for; handed on to the adaptation.
            adaptation: The method that acts inside; None for the transformer alone.

        Returns:
            Tokens ``frames n channels`` and image ``frames (height width) channels``.
        """
        flat = "frames channels h w -> frames (h w) channels"
        image, image_pe = rearrange(image, flat).contiguous(), rearrange(image_pe, flat).contiguous()
        token_pe = tokens
        inside = UNADAPTED if adaptation is None else adaptation
        for index, layer in enumerate(self.layers):
            tokens, image = layer(index, tokens, image, token_pe, image_pe, prompts, inside)
        tokens = tokens + self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens), image
