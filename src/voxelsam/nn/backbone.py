"""Image encoder, prompt encoder and mask decoder under Meta's names: the state dict is the public checkpoint's.

Convention: a backbone is never trained. Its parameters need no gradient and it stays in evaluation mode; what a
method trains in full is a copy that the method owns.
"""

from dataclasses import dataclass

from torch import nn

from voxelsam.nn.decoder import MaskDecoder
from voxelsam.nn.prompt_encoder import PromptEncoder
from voxelsam.nn.vit import SamEncoder


@dataclass(frozen=True)
class Variant:
    """All sizes of one public model."""

    name: str
    """How recipes call it."""
    dim: int
    """Channels of the encoder's tokens."""
    depth: int
    """Blocks of the encoder."""
    heads: int
    """Attention heads of the encoder."""
    global_blocks: tuple[int, ...]
    """Blocks that attend over the whole image."""
    window: int = 14
    """Tokens per side of an attention window in the other blocks."""
    patch: int = 16
    """Pixels per side of a patch."""
    image_size: tuple[int, int] = (1024, 1024)
    """Pixels (height, width) of pretraining."""
    mlp_ratio: float = 4.0
    """Hidden width of the encoder's MLPs as a multiple of ``dim``."""
    decoder_dim: int = 256
    """Channels of features, prompts and decoder tokens."""
    decoder_depth: int = 2
    """Blocks of the two-way transformer."""
    decoder_heads: int = 8
    """Its attention heads."""
    decoder_mlp: int = 2048
    """Hidden width of its MLPs."""
    iou_hidden: int = 256
    """Hidden width of the quality head."""
    masks: int = 4
    """Mask tokens."""
    mask_channels: int = 16
    """Inner width of the mask-prompt branch."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from pixels of 0..255, red green blue."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Divides them afterwards."""


class Backbone(nn.Module):
    """A frozen Segment Anything model.

    Args:
        variant: Its sizes.
        image_size: Pixels (height, width) of the frames it will see; None for those of pretraining.

    Raises:
        WeightsError: the image does not divide into patches.
    """

    source_sha256: str = ""
    """SHA-256 of the weights it was made from (see ``backbones.fingerprint``); empty for random ones."""

    def __init__(self, variant: Variant, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.variant = variant
        self.image_size = variant.image_size if image_size is None else image_size
        self.image_encoder = SamEncoder(
            dim=variant.dim,
            depth=variant.depth,
            heads=variant.heads,
            patch=variant.patch,
            window=variant.window,
            global_blocks=variant.global_blocks,
            image_size=self.image_size,
            out_channels=variant.decoder_dim,
            mlp_ratio=variant.mlp_ratio,
        )
        self.prompt_encoder = PromptEncoder(
            variant.decoder_dim, self.image_encoder.grid, self.image_size, variant.mask_channels
        )
        self.mask_decoder = MaskDecoder(
            dim=variant.decoder_dim,
            masks=variant.masks,
            upscale=(variant.decoder_dim // 4, variant.decoder_dim // 8),
            depth=variant.decoder_depth,
            heads=variant.decoder_heads,
            mlp_dim=variant.decoder_mlp,
            iou_hidden=variant.iou_hidden,
        )
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode, whatever a surrounding module asks for."""
        return super().train(False)
