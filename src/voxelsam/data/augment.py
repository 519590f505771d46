"""Random changes of whole stacks: every slice and the mask of a stack get the same one.

A change is a pure function of its seed, so it is the same in any process and in any order. What comes from outside the
original is 0 in the image and background in the mask; marks of ignored pixels stay. Resampling and most changes of grey
values are MONAI's (``augment_warp``, ``augment_grey``).

Presets:
    light: small rotation, scaling, shift, contrast and noise. Does not mirror, so left stays left.
    ma_sam: the list of MA-SAM's prompt-free training, in its order. Mirrors.
    med_sa: the list of Med-SA's released BTCV training: flips, quarter turns, shift of grey values. Mirrors.
    nnunet: nnU-Net's default list, within the slice. Mirrors, unless ``mirror`` is false.
    few: strong, for 1 to 20 cases. Does not mirror.
    none: nothing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from voxelsam.config import STRICT
from voxelsam.data.augment_ma_sam import ma_sam
from voxelsam.data.augment_presets import few, light, med_sa, nnunet
from voxelsam.data.augment_warp import Pictures, Target, Warp, mirrored
from voxelsam.errors import ConfigError, InputError

Preset = Literal["light", "few", "ma_sam", "med_sa", "nnunet", "none"]
Images = Float[Tensor, "depth 3 height width"]

ROWS, COLUMNS = -2, -1
"""Axes of a picture that can be flipped, as tensors count them."""

SOURCE_MIRRORS: tuple[Preset, ...] = ("ma_sam", "med_sa", "nnunet")
"""Presets that mirror where nothing else is said."""


@dataclass(frozen=True)
class AugmentConfig:
    """Which changes are made during training."""

    __pydantic_config__: ClassVar[Any] = STRICT

    preset: Preset = "light"
    """``light`` and ``few`` keep left and right apart; ``ma_sam``, ``med_sa`` and ``nnunet`` are published lists;
    ``none`` switches it off."""
    strength: float = 1.0
    """Multiplies the ranges of ``light`` and ``few``; a published list has one strength, 1."""
    mirror: bool | None = None
    """Flips rows and columns, each in half of the stacks; None does what the preset says: ``nnunet`` mirrors, ``light``
    and ``few`` do not. Must be false where left and right have labels of their own."""

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigError(f"no augmentation preset {self.preset!r}; there are: {', '.join(get_args(Preset))}")
        if not 0 <= self.strength <= 3:
            raise ConfigError(f"strength of the augmentation must lie in 0..3, but is {self.strength}")
        if self.preset in SOURCE_MIRRORS and self.strength != 1:
            raise ConfigError(
                f"the preset {self.preset} is a published list and has strength 1; use light or few to vary it"
            )
        if self.preset in ("ma_sam", "med_sa", "none") and self.mirror is not None:
            raise ConfigError(
                f"mirror cannot be chosen with the preset {self.preset}, which is what it is; use light, few or nnunet"
            )

    @property
    def mirrors(self) -> bool:
        """Whether training shows mirrored stacks."""
        return self.preset in SOURCE_MIRRORS if self.mirror is None else self.mirror


def flips(preset: Preset, mirror: bool | None = None) -> tuple[int, ...]:
    """The axes along which a network trained with a preset has seen flipped pictures.

    Test-time augmentation may flip along these, and along no other.

    Args:
        preset: of the training.
        mirror: as ``AugmentConfig.mirror``.

    Returns:
        -2 for rows and -1 for columns, as tensors whose last axes are height and width count them.

    Raises:
        ConfigError: there is no such preset, or it does not go with that choice.
    """
    return (ROWS, COLUMNS) if AugmentConfig(preset, mirror=mirror).mirrors else ()


class Augment:
    """The changes of a preset, as a function of a stack and a seed."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self._warp = Warp()
        if config.preset != "none":
            import monai.transforms  # noqa: F401 -- seconds; worker processes that are forked later have it already

    def __call__(self, images: Images, target: Target, seed: int) -> tuple[Images, Target]:
        """A changed copy of a stack and its mask.

        Args:
            images: 0..1; stays there.
            target: class indices of every slice, then any further planes; no new numbers appear, and pixels without an
                original become 0.
            seed: 0 or more; the same seed always gives the same change.

        Raises:
            InputError: the mask does not have the size of the images.
        """
        if images.shape[0] > target.shape[0] or images.shape[2:] != target.shape[1:]:
            raise InputError(
                f"images are depth 3 height width and the mask depth height width, but they are "
                f"{tuple(images.shape)} and {tuple(target.shape)}"
            )
        if self.config.preset == "none":
            return images, target
        grey = all(torch.equal(images[:, 0], images[:, other]) for other in (1, 2))
        pictures, target = self._changed(images[:, :1] if grey else images, target, np.random.default_rng(seed))
        return (pictures.repeat(1, 3, 1, 1) if grey else pictures), target

    def reverses(self, seed: int) -> bool:
        """Whether the slices of the stack with this seed come in reverse order, as published lists flip all three axes.

        What else runs along the slices must then be reversed, too; so it is left to the caller.

        Args:
            seed: as for the change itself.
        """
        chance = {"med_sa": 0.1, "nnunet": 0.5}.get(self.config.preset, 0)
        return self.config.mirrors and np.random.default_rng((seed, 1)).random() < chance

    def _changed(self, pictures: Pictures, target: Target, random: np.random.Generator) -> tuple[Pictures, Target]:
        match self.config.preset:
            case "ma_sam":
                return ma_sam(pictures, target, random, self._warp)
            case "med_sa":
                return med_sa(pictures, target, random)
            case "nnunet":
                return nnunet(pictures, target, random, self._warp, self.config.mirrors)
        chosen = light if self.config.preset == "light" else few
        pictures, target = chosen(pictures, target, random, self._warp, self.config.strength)
        for axis in (0, 1):
            if self.config.mirrors and random.random() < 0.5:
                pictures, target = mirrored(pictures, target, axis)
        return pictures, target
