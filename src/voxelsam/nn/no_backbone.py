"""What stands where a backbone would, for methods that bring a whole network of their own: nothing."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.decoder import MaskDecoder
from voxelsam.nn.prompt_encoder import EncodedPrompts, PromptBatch, PromptEncoder


class NoPrompts(nn.Module):
    """Refuses prompts, and says nothing where there are none."""

    grid = (0, 0)
    """Tokens (height, width) of a mask prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(0), persistent=False)
        self.nothing: Tensor

    def forward(self, prompts: PromptBatch | None = None, *, frames: int) -> EncodedPrompts:
        """No tokens and no map.

        Raises:
            ConfigError: a prompt came.
        """
        if prompts is not None:
            raise ConfigError("this network answers no prompts: ask without any, or train a method on a SAM backbone")
        empty = self.nothing
        return EncodedPrompts(
            sparse=empty.new_zeros(frames, 0, 0),
            real=empty.new_zeros(frames, 0, dtype=torch.bool),
            dense=empty.new_zeros(frames, 0, 0, 0),
        )

    def dense_pe(self) -> Float[Tensor, "one channels height width"]:
        """No positions."""
        return self.nothing.new_zeros(1, 0, 0, 0)


class NoBackbone(Backbone):
    """A backbone without encoder, decoder and weights; images of any size.

    Args:
        variant: Names it, and gives the pixel statistics.
        image_size: Pixels (height, width) of the frames; None for those of the variant.
    """

    def __init__(self, variant: Variant, image_size: tuple[int, int] | None = None) -> None:
        nn.Module.__init__(self)
        self.variant = variant
        self.image_size = variant.image_size if image_size is None else image_size
        self.prompt_encoder = cast("PromptEncoder", NoPrompts())
        self.mask_decoder = cast("MaskDecoder", nn.Module())
        self.eval()
