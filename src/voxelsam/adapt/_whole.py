"""Whole networks as methods: no backbone, everything is trained from scratch.

The network is the adaptation's image encoder, and its "features" are the logits. The decoder hands them on. A stack is
one volume of the network (batch, channels, depth, height, width); a network of two dimensions sees every slice by
itself.

Networks that halve their input several times need sides that are multiples of a step. Missing voxels are added behind
the last slice, row and column as copies of it, and are cut off the logits again: what is scored are the voxels that
were asked for, and a copy of the edge is what a stack shows beyond the ends of a scan as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from voxelsam.adapt import Adaptation
from voxelsam.adapt._origin import Origin
from voxelsam.config import STRICT
from voxelsam.errors import ConfigError
from voxelsam.nn.decoder import Scores
from voxelsam.nn.prompt_encoder import EncodedPrompts
from voxelsam.nn.seam import EncoderAdaptation, Stack


@dataclass(frozen=True)
class Input:
    """What a whole network must know of the stacks; ``voxelsam train`` fills it in from the plan."""

    __pydantic_config__ = STRICT

    depth: int = 1
    """Slices of the stacks that it is made for; 1 makes a network of two dimensions, which sees slice by slice."""
    channels: Literal[1, 3] = 3
    """Input channels: 1 where the three of the plan are copies of one, 3 for colour."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth: a stack has at least one slice, not {self.depth}")

    @property
    def dimensions(self) -> int:
        """Of the network's convolutions: 2 or 3."""
        return 2 if self.depth == 1 else 3


class Whole(nn.Module):
    """A network of stacks in the place of an image encoder; what it gives are logits.

    Args:
        network: Takes "batch channels (depth) height width" and gives as many classes at the same size.
        given: Depth and channels of its input.
        steps: Sides (depth, height, width; two for a network of two dimensions) are padded to multiples of these.
        least: And to no fewer than these.
        fixed: Whether sides of ``least`` are the only ones that the network takes.
    """

    def __init__(
        self, network: nn.Module, given: Input, steps: Sequence[int], least: Sequence[int], *, fixed: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = given.channels
        self.steps = tuple(steps)
        self.least = tuple(least)
        self.fixed = fixed

    def forward(
        self, frames: Float[Tensor, "frames 3 height width"], stack: Stack, adaptation: EncoderAdaptation
    ) -> Float[Tensor, "frames classes height width"]:
        """Logits of every slice.

        Args:
            frames: Slices after the pixel statistics, depth varying fastest.
            stack: How they are grouped.
            adaptation: Has nothing to do here.

        Raises:
            ConfigError: the network was made for smaller stacks.
        """
        images = frames[:, : self.channels]
        if len(self.steps) == 2:
            return self._padded(images)
        volumes = rearrange(images, "(batch depth) c h w -> batch c depth h w", depth=stack.depth)
        return rearrange(self._padded(volumes), "batch c depth h w -> (batch depth) c h w")

    def _padded(self, images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch classes *sides"]:
        sides = images.shape[2:]
        axes = zip(sides, self.steps, self.least, strict=True)
        whole = [max(least, -(-side // step) * step) for side, step, least in axes]
        if self.fixed and tuple(whole) != self.least:
            made, came = (" × ".join(map(str, some)) for some in (self.least, sides))
            raise ConfigError(f"this network was made for stacks of at most {made} voxels, but {came} came")
        missing = [amount for side, full in zip(sides, whole, strict=True) for amount in (full - side, 0)][::-1]
        logits: Tensor = self.network(F.pad(images, missing, mode="replicate") if any(missing) else images)
        asked = (slice(None), slice(None), *(slice(side) for side in sides))
        return logits[asked]


class Handed(nn.Module):
    """A decoder that hands on what the network gave."""

    def forward(
        self,
        features: Float[Tensor, "frames classes height width"],
        dense_pe: Float[Tensor, "1 channels h w"],
        prompts: EncodedPrompts,
    ) -> Scores:
        """The features are the logits."""
        return Scores(features)


def adaptation(network: Whole) -> Adaptation:
    """A whole network as a method."""
    return Adaptation(
        EncoderAdaptation(), Handed(), image_encoder=network, starts_as_backbone=False, origin=Origin((), (), ())
    )
