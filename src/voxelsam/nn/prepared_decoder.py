"""SAM's mask decoder made ready for prediction: the same function, computed faster, without gradients.

Attention between a few tokens and very many pixels projects all pixels to queries, or to keys and values. It is cheaper
to bring what the few tokens ask into the space of the pixels, as ``q · (W x + b) = (Wᵀ q) · x + q · b``, and to project
weighted sums of pixels instead of pixels.

Up-sampling by transposed convolutions whose step is their size is a linear layer, which gives the four children of a
pixel one after the other. Norm and GELU do not mind the order, so that pixels are put in their places once, at the end.

What is as large as the image is written into buffers that are used again. The decoder computes in single precision,
whatever the encoder does.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from voxelsam.nn.decoder import MaskDecoder
from voxelsam.nn.layers import LayerNorm2d
from voxelsam.nn.prompt_encoder import EncodedPrompts, PromptEncoder
from voxelsam.nn.seam import DecoderAdaptation
from voxelsam.nn.two_way import UNADAPTED, Keys, Pixels, Places, Prompts, SlimAttention, TwoWayBlock, TwoWayTransformer

TOKENS = 512
"""Tokens that are normed or up-sampled at a time on processors, whose cache holds what comes of them."""

UPSCALING = (nn.ConvTranspose2d, LayerNorm2d, nn.GELU)
"""What up-sampling consists of."""


def ready_decoder(decoder: MaskDecoder) -> None:
    """Replaces modules of a decoder by ones that compute the same faster.

    Args:
        decoder: In evaluation mode; is changed, but not its tensors.
    """
    decoder.transformer = ReadyTransformer(decoder.transformer)
    if all(isinstance(part, UPSCALING) for part in decoder.output_upscaling):
        decoder.output_upscaling = nn.Sequential(ReadyUpscaling(decoder.output_upscaling))


def ready_prompt_encoder(prompt_encoder: PromptEncoder) -> None:
    """From now on the positions of the tokens are those of now, and not worked out for every prompt.

    Args:
        prompt_encoder: Frozen, and where it will be used.
    """
    positions = prompt_encoder.dense_pe()
    prompt_encoder.dense_pe = lambda: positions  # type: ignore[method-assign]


class ReadyTransformer(TwoWayTransformer):
    """The two-way transformer with two buffers of the image's size: the image, and what is made of it.

    Args:
        transformer: is used up.
    """

    def __init__(self, transformer: TwoWayTransformer) -> None:
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(
            ReadyTwoWayBlock(layer) if isinstance(layer, TwoWayBlock) else layer for layer in transformer.layers
        )
        self.final_attn_token_to_image = ReadySlimAttention(transformer.final_attn_token_to_image)
        self.norm_final_attn = transformer.norm_final_attn

    def forward(
        self,
        image: Float[Tensor, "frames channels height width"],
        image_pe: Float[Tensor, "one channels height width"],
        tokens: Prompts,
        prompts: EncodedPrompts,
        adaptation: DecoderAdaptation | None = None,
    ) -> tuple[Prompts, Pixels]:
        """Tokens and image after mutual attention, see ``TwoWayTransformer``."""
        flat = "frames channels h w -> frames (h w) channels"
        image = rearrange(image, flat).clone(memory_format=torch.contiguous_format)
        image_pe = rearrange(image_pe, flat).contiguous()
        token_pe, beside = tokens, torch.empty_like(image)
        inside = UNADAPTED if adaptation is None else adaptation
        for index, layer in enumerate(self.layers):
            tokens, image = layer(index, tokens, image, token_pe, image_pe, prompts, inside, beside)
        located = torch.add(image, image_pe, out=beside)
        tokens = tokens + self.final_attn_token_to_image(tokens + token_pe, located, image)
        return self.norm_final_attn(tokens), image


class ReadyTwoWayBlock(TwoWayBlock):
    """A two-way block that changes the image in its place.

    Args:
        block: is used up.
    """

    def __init__(self, block: TwoWayBlock) -> None:
        nn.Module.__init__(self)
        self.first = block.first
        self.self_attn, self.norm1 = block.self_attn, block.norm1
        self.cross_attn_token_to_image = ReadySlimAttention(block.cross_attn_token_to_image)
        self.norm2, self.mlp, self.norm3, self.norm4 = block.norm2, block.mlp, block.norm3, block.norm4
        self.cross_attn_image_to_token = ReadySlimAttention(block.cross_attn_image_to_token)

    def forward(
        self,
        layer: int,
        tokens: Prompts,
        image: Pixels,
        token_pe: Prompts,
        image_pe: Places,
        prompts: EncodedPrompts,
        adaptation: DecoderAdaptation,
        beside: Pixels | None = None,
    ) -> tuple[Prompts, Pixels]:
        """Tokens and image after this block, see ``TwoWayBlock``; ``beside`` is overwritten."""
        located = torch.add(image, image_pe, out=beside)
        tokens = self._asked(layer, tokens, located, image, token_pe, prompts, adaptation)
        seen = self.cross_attn_image_to_token(located, tokens + token_pe, tokens, out=beside)
        if adaptation is UNADAPTED:
            image.add_(seen)
        else:
            image.copy_(adaptation.to_image(layer, image, seen, prompts))
        most = TOKENS if image.device.type == "cpu" else image.shape[1]
        for begin in range(0, image.shape[1], most):
            part = image[:, begin : begin + most]
            part.copy_(self.norm4(part))
        return tokens, image


class ReadySlimAttention(SlimAttention):
    """Attention between tokens and pixels that projects the fewer of the two.

    Args:
        attention: is used up.
    """

    def __init__(self, attention: SlimAttention) -> None:
        nn.Module.__init__(self)
        self.heads = attention.heads
        for name, part in attention.named_children():
            self.add_module(name, part)

    def forward(self, q: Prompts, k: Keys, v: Keys, *, out: Prompts | None = None) -> Prompts:
        """As many tokens as queries.

        Args:
            q: Queries before their projection.
            k: Keys before theirs.
            v: Values before theirs.
            out: A buffer that may be overwritten, that of the queries too.
        """
        few = len(self.q_proj.weight) // self.heads  # for more, their logits are more numbers than projected pixels are
        if q.shape[1] < min(few, k.shape[1]):
            return self._few_queries(q, k, v)
        if k.shape[1] < min(few, q.shape[1]):
            return self._few_keys(q, k, v, out)
        return super().forward(q, k, v)

    def _few_queries(self, q: Prompts, k: Keys, v: Keys) -> Prompts:
        """The bias of keys moves all logits of a query alike, that of values is added to means: neither is spread."""
        asked = self._scaled(self.q_proj(q)) @ self._by_head(self.k_proj.weight)
        means = rearrange((asked.flatten(1, 2) @ k.mT).softmax(-1) @ v, "f (h n) c -> f h n c", h=self.heads)
        seen = means @ self._by_head(self.v_proj.weight).mT
        y: Tensor = self.out_proj(rearrange(seen, "frames heads n dim -> frames n (heads dim)") + self.v_proj.bias)
        return y

    def _few_keys(self, q: Prompts, k: Keys, v: Keys, out: Prompts | None) -> Prompts:
        """Every head's values go through its part of the last projection before they are mixed."""
        keys = self._scaled(self.k_proj(k))
        asked = (keys @ self._by_head(self.q_proj.weight)).flatten(1, 2)
        always = (keys @ self._by_head(self.q_proj.bias[:, None])).flatten(1, 2)
        logits = rearrange(torch.baddbmm(always, asked, q.mT), "f (h m) n -> f h m n", h=self.heads)
        values = self._split(self.v_proj(v)) @ self._by_head(self.out_proj.weight.T)
        y = torch.bmm(logits.softmax(2).flatten(1, 2).mT, values.flatten(1, 2), out=out)
        return y.add_(self.out_proj.bias)

    def _split(self, tokens: Float[Tensor, "frames n inner"]) -> Float[Tensor, "frames heads n dim"]:
        heads: Tensor = rearrange(tokens, "frames n (heads dim) -> frames heads n dim", heads=self.heads)
        return heads

    def _scaled(self, tokens: Float[Tensor, "frames n inner"]) -> Float[Tensor, "frames heads n dim"]:
        heads = self._split(tokens)
        return torch.mul(heads, heads.shape[-1] ** -0.5)

    def _by_head(self, matrix: Float[Tensor, "inner channels"]) -> Float[Tensor, "heads dim channels"]:
        by_head: Tensor = rearrange(matrix, "(heads dim) channels -> heads dim channels", heads=self.heads)
        return by_head


class ReadyUpscaling(nn.Module):
    """Doublings as linear layers.

    Args:
        layers: Transposed convolutions that double, norms and GELU.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Doubling(part) if isinstance(part, nn.ConvTranspose2d) else part for part in layers.children()
        )
        doublings = [part for part in self.layers if isinstance(part, Doubling)]
        self.doublings, self.out = len(doublings), doublings[-1].out

    def forward(self, image: Float[Tensor, "frames channels height width"]) -> Float[Tensor, "frames out tall broad"]:
        """The up-sampled maps, channels varying fastest in memory."""
        frames, _, height, width = image.shape
        rows = max(1, TOKENS // width) if image.device.type == "cpu" else height
        maps = image.new_empty(frames, height << self.doublings, width << self.doublings, self.out)
        for one, place in zip(image, maps, strict=True):
            bands = zip(one.split(rows, 1), place.split(rows << self.doublings), strict=True)
            for band, there in bands:
                self._band(band, there.flatten(0, 1))
        return maps.movedim(-1, 1)

    def _band(self, band: Float[Tensor, "channels h w"], place: Float[Tensor, "pixels out"]) -> None:
        """Some rows of a map."""
        x = rearrange(band, "channels h w -> (h w) channels")
        for part in self.layers:
            if isinstance(part, LayerNorm2d):
                x = F.layer_norm(x, part.weight.shape, part.weight, part.bias, part.eps)
            else:
                x = part(x)
        _, height, width = band.shape
        torch.index_select(x, 0, order(height, width, self.doublings, x.device), out=place)


class Doubling(nn.Module):
    """A transposed convolution whose step is its size as a linear layer.

    Args:
        convolution: Two by two.
    """

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.out = convolution.out_channels
        weight = rearrange(convolution.weight.detach(), "before after down across -> (down across after) before")
        bias = weight.new_zeros(self.out) if convolution.bias is None else convolution.bias.detach()
        self.register_buffer("weight", weight.contiguous(), persistent=False)
        self.register_buffer("bias", bias.repeat(4), persistent=False)
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, x: Float[Tensor, "pixels channels"]) -> Float[Tensor, "children out"]:
        """Four pixels for each: top left, top right, bottom left, bottom right."""
        return F.linear(x, self.weight, self.bias).view(-1, self.out)


def order(height: int, width: int, doublings: int, device: torch.device) -> Int64[Tensor, " pixels"]:
    """For each pixel of a doubled map, row by row, its number where the children of a pixel follow one another.

    Args:
        height: Rows before the first doubling.
        width: Columns before the first doubling.
        doublings: How often height and width were doubled.
        device: Of the result.
    """
    numbers = torch.arange(height * width * 4**doublings, device=device)
    nested = numbers.view(height, width, *[2] * (2 * doublings))
    rows, columns = range(2, 2 + 2 * doublings, 2), range(3, 3 + 2 * doublings, 2)
    return nested.permute(0, *rows, 1, *columns).reshape(-1)
