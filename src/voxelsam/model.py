"""Backbone + adaptation: stacks of slices in, class scores out.

The backbone is frozen, its state dict is the public checkpoint. The adaptation is trained, its state dict is what a
bundle stores. This is the only place where the two meet.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation, Foldable, merged
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.decoder import MaskDecoder, Scores
from voxelsam.nn.drawing import drawn
from voxelsam.nn.prepared import Arithmetic, ready
from voxelsam.nn.prepared_decoder import ready_decoder, ready_prompt_encoder
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.nn.seam import Embeds, Meeting, Stack


class Segmenter(nn.Module):
    """A SAM backbone as one adaptation method sees it.

    Args:
        backbone: frozen networks; its image size is the only one that ``forward`` accepts.
        adaptation: everything that a method trains, built for this backbone.
        draws: whether points and boxes are also drawn into the mask prompt (``voxelsam.nn.drawing``).
    """

    def __init__(self, backbone: Backbone, adaptation: Adaptation, *, draws: bool = False) -> None:
        super().__init__()
        self.draws = draws
        self.backbone = backbone
        self.adaptation = adaptation
        mean, std = adaptation.pixel_statistics or (
            tuple(value / 255 for value in backbone.variant.pixel_mean),
            tuple(value / 255 for value in backbone.variant.pixel_std),
        )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def recompute(self, blocks: int | None = None) -> None:
        """From now on the backward pass computes blocks of the image encoder again: less memory, more time.

        Loss and gradients stay the same. The first blocks are the right ones: their gradients come last, when all that
        the others kept is gone. A network that can do so has a number ``checkpointing`` (``voxelsam.nn.vit``).

        Args:
            blocks: how many, from the first; None for all.

        Raises:
            ConfigError: the image encoder of this method cannot, or has fewer blocks.
        """
        encoder: Any = self.image_encoder
        if not isinstance(getattr(encoder, "checkpointing", None), int):
            raise ConfigError(
                f"train.checkpointing: {type(encoder).__name__} cannot compute its blocks again; leave it out, and "
                "save memory by a smaller train.batch with more train.accumulate, or by a smaller stack.size"
            )
        there = len(encoder.blocks)
        if blocks is not None and not 0 <= blocks <= there:
            raise ConfigError(f"train.checkpointing: 0 to {there}, the blocks of this image encoder, but {blocks} came")
        encoder.checkpointing = there if blocks is None else blocks

    @property
    def image_encoder(self) -> nn.Module:
        """The one that computes: the adaptation's own, or the frozen backbone's."""
        return self.adaptation.image_encoder or self.backbone.image_encoder

    def folded(self) -> "Segmenter":
        """The same function with low-rank increments added into the encoder's weights, where the method has any."""
        if not isinstance(self.adaptation.encoder, Foldable):
            return self
        adaptation = merged(self.adaptation, self.backbone)
        return Segmenter(self.backbone, adaptation, draws=self.draws).to(self.mean.device)

    def ready(self, arithmetic: Arithmetic) -> None:
        """Makes SAM's networks, and what the method does in them, ready for prediction.

        Their modules are used up (``voxelsam.nn.prepared``, ``voxelsam.nn.prepared_decoder``): this is for a frozen
        copy in evaluation mode, on the device where it will be used.

        Args:
            arithmetic: in what the blocks of the image encoder shall compute.
        """
        ready(self.image_encoder.get_submodule("blocks"), arithmetic)
        ready(self.adaptation.encoder, arithmetic)
        if isinstance(self.adaptation.decoder, MaskDecoder):
            ready_decoder(self.adaptation.decoder)
        ready_prompt_encoder(self.adaptation.prompt_encoder or self.backbone.prompt_encoder)

    @property
    def mask_size(self) -> tuple[int, int]:
        """Size (height, width) of mask prompts: four values per token along each axis."""
        height, width = self.backbone.prompt_encoder.grid
        return 4 * height, 4 * width

    def train(self, mode: bool = True) -> "Segmenter":
        """Switches the adaptation; the frozen backbone always stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode(self, images: Float[Tensor, "batch depth 3 height width"]) -> Float[Tensor, "frames channels h w"]:
        """Image features of every slice, with the slices of a stack seeing one another.

        Args:
            images: intensities between 0 and 1.
        """
        frames = (rearrange(images, "batch depth c h w -> (batch depth) c h w") - self.mean) / self.std
        features: Tensor = self.image_encoder(frames, Stack(depth=images.shape[1]), self.adaptation.encoder)
        return features

    @property
    def meeting(self) -> Meeting:
        """How the slices of a stack meet."""
        return self.adaptation.encoder.meeting if isinstance(self.image_encoder, Embeds) else "stack"

    def embed(self, images: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames ..."]:
        """What the image encoder makes of each slice by itself, whatever the stack that it is shown in.

        Of a SAM encoder these are the tokens before its first block; of a whole network they are the pictures after
        the pixel statistics.

        Args:
            images: intensities between 0 and 1.
        """
        frames = (images - self.mean) / self.std
        return self.image_encoder.embed(frames) if isinstance(self.image_encoder, Embeds) else frames

    def encode_embedded(self, embedded: Float[Tensor, "batch depth ..."]) -> Float[Tensor, "frames channels h w"]:
        """Image features of every slice, with the slices of a stack seeing one another.

        Args:
            embedded: of ``embed``, grouped to stacks.
        """
        stack = Stack(depth=embedded.shape[1])
        frames = rearrange(embedded, "batch depth ... -> (batch depth) ...")
        if isinstance(self.image_encoder, Embeds):
            return self.image_encoder.blocks_of(frames, stack, self.adaptation.encoder)
        features: Tensor = self.image_encoder(frames, stack, self.adaptation.encoder)
        return features

    def decode(self, features: Float[Tensor, "frames channels h w"], prompts: PromptBatch | None = None) -> Scores:
        """Scores per frame at the resolution of the model's input: logits "frames classes height width"."""
        prompt_encoder = self.adaptation.prompt_encoder or self.backbone.prompt_encoder
        if self.draws and prompts is not None:
            prompts = drawn(prompts, self.mask_size, self.backbone.image_size)
        encoded = prompt_encoder(prompts, frames=len(features))
        scores: Scores = self.adaptation.decoder(features, prompt_encoder.dense_pe(), encoded)
        return scores

    def forward(
        self, images: Float[Tensor, "batch depth 3 height width"], prompts: PromptBatch | None = None
    ) -> Float[Tensor, "batch depth classes height width"]:
        """Logits of every slice of every stack; channel 0 is the background, soft-max runs over classes.

        Args:
            images: intensities between 0 and 1, of the backbone's image size.
            prompts: one prompt set per frame (frame = batch index · depth + slice), in model pixels.
        """
        logits = self.decode(self.encode(images), prompts).logits
        return rearrange(logits, "(batch depth) classes h w -> batch depth classes h w", depth=images.shape[1])
