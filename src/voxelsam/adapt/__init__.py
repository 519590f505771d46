"""Methods: what each of them trains, built for a frozen backbone.

A method is one module of this folder. It offers exactly two names: ``Config``, a frozen dataclass, and
``build(config, backbone, classes) -> Adaptation``. Nothing is attached to the backbone: its image encoder calls the
adaptation's ``encoder`` at five points (``voxelsam.nn.seam``), and a part that a method trains in full is a copy that
the adaptation owns. So the state dict of the backbone stays the public checkpoint, and the state dict of the
adaptation is exactly what has to be saved.

A method that brings a whole network of its own says so by a third name, ``needs_backbone = False``. It is built for
the backbone ``none``, its network stands as the adaptation's image encoder, and it answers no prompts. A method that
trains nothing says ``trains = False``.

The decoders of all methods share one call, ``decoder(features, dense_pe, prompts) -> Scores``, whose logits are
``frames classes height width`` at the size of the model input. Classes count the background, which is channel 0;
soft-max runs over the channels.
"""

import copy
from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

from torch import nn

from voxelsam.adapt._origin import Origin
from voxelsam.adapt._query_value import Foldable
from voxelsam.adapt._regulated import Regulated
from voxelsam.config import parse
from voxelsam.errors import ConfigError
from voxelsam.nn.backbone import Backbone
from voxelsam.nn.no_backbone import NoBackbone
from voxelsam.nn.prompt_encoder import PromptEncoder
from voxelsam.nn.seam import EncoderAdaptation
from voxelsam.nn.vit import SamEncoder
from voxelsam.plugins import load

__all__ = [
    "Adaptation",
    "Foldable",
    "Method",
    "Origin",
    "Regulated",
    "build",
    "config_of",
    "merged",
    "needs_backbone",
    "trains",
]

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of the three input channels, on the scale where pixels run from 0 to 1."""


class Adaptation(nn.Module):
    """Everything that a method trains.

    Attributes:
        encoder: what happens at the five points of the image encoder.
        decoder: always the adaptation's own.
        prompt_encoder: a trained copy; None where the backbone's is used.
        image_encoder: a trained or merged copy; None where the backbone's is used.
        pixel_statistics: replaces the backbone's; None where the backbone's are used.
        starts_as_backbone: whether a fresh adaptation leaves the features of the image encoder as they are.
        origin: which tensors of the decoder came from the backbone.
    """

    def __init__(
        self,
        encoder: EncoderAdaptation,
        decoder: nn.Module,
        prompt_encoder: PromptEncoder | None = None,
        image_encoder: nn.Module | None = None,
        *,
        pixel_statistics: Statistics | None = None,
        starts_as_backbone: bool,
        origin: Origin,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prompt_encoder = prompt_encoder
        self.image_encoder = image_encoder
        self.pixel_statistics = pixel_statistics
        self.starts_as_backbone = starts_as_backbone
        self.origin = origin

    def counts(self) -> dict[str, int]:
        """Trained numbers in each part; parts that hold none are left out."""
        trained = {
            name: sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
            for name, part in self.named_children()
        }
        return {name: count for name, count in trained.items() if count}

    def train_quality(self) -> None:
        """Makes the decoder's quality head trainable, for training with a loss of its own."""
        self.decoder.get_submodule("iou_prediction_head").requires_grad_(True)


@runtime_checkable
class Method(Protocol):
    """What a module of this folder offers."""

    Config: type

    def build(self, config: Any, backbone: Backbone, classes: int) -> Adaptation:
        """A fresh adaptation of the backbone, on the backbone's device."""


def config_of(name: str) -> type:
    """The configuration dataclass of a method.

    Raises:
        ConfigError: there is no such method.
    """
    return _method(name).Config


def needs_backbone(name: str) -> bool:
    """Whether a method adapts a backbone; if not, it brings a whole network of its own.

    Raises:
        ConfigError: there is no such method.
    """
    return bool(getattr(_method(name), "needs_backbone", True))


def trains(name: str) -> bool:
    """Whether a method trains anything; if not, its model is ready as soon as it is built, and answers prompts only.

    Raises:
        ConfigError: there is no such method.
    """
    return bool(getattr(_method(name), "trains", True))


def build(name: str, config: Mapping[str, Any] | object, backbone: Backbone, classes: int) -> Adaptation:
    """A fresh adaptation of a backbone.

    Args:
        name: the method; ``voxelsam.plugins.names("adapt")`` lists them.
        config: its configuration, or a mapping that is checked against it.
        backbone: stays as it is.
        classes: output channels, the background included.

    Raises:
        ConfigError: no such method, a configuration that is not its own or not valid, a backbone for a method that
            needs none or none for one that does, or fewer than two classes.
    """
    method = _method(name)
    if needs_backbone(name) == isinstance(backbone, NoBackbone):
        wanted = "adapts a SAM backbone" if needs_backbone(name) else "is a whole network and needs the backbone none"
        raise ConfigError(f"{name} {wanted}, but {backbone.variant.name} came")
    if classes < 2:
        raise ConfigError(f"classes count the background, so there are at least 2, but {classes} came")
    if isinstance(config, Mapping):
        config = parse(method.Config, config, where=f"the configuration of {name}")
    if not isinstance(config, method.Config):
        raise ConfigError(f"{name} needs a {method.Config.__module__}.Config, but a {type(config).__name__} came")
    return method.build(config, backbone, classes)


def merged(adaptation: Adaptation, backbone: Backbone) -> Adaptation:
    """The same model for prediction, with the linear part of the encoder adaptation folded into encoder weights.

    The result owns a copy of the image encoder and shares no tensor with what it was made from. It is frozen and in
    evaluation mode, and gives the same scores up to rounding.

    Raises:
        ConfigError: the encoder adaptation has no linear part.
    """
    if not isinstance(adaptation.encoder, Foldable):
        raise ConfigError(f"{type(adaptation.encoder).__name__} has nothing to fold into the weights; use it as it is")
    result = copy.deepcopy(adaptation)
    if result.image_encoder is None:
        result.image_encoder = copy.deepcopy(backbone.image_encoder)
    result.encoder = adaptation.encoder.folded(cast("SamEncoder", result.image_encoder))
    return result.requires_grad_(False).eval()


def _method(name: str) -> Method:
    return cast("Method", load("adapt", name))
