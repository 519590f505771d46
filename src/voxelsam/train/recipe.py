"""The recipe of a training run: every choice, in one YAML file.

What a recipe leaves out is filled from the data set's fingerprint where it depends on the data, and from the defaults
below where it does not. The resolved recipe is stored with the run and is all that is needed to repeat it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from voxelsam import adapt, config, plugins
from voxelsam.data.augment import AugmentConfig
from voxelsam.errors import ConfigError
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.train.prompting import PromptSection


@dataclass(frozen=True)
class DataSection:
    """Which cases."""

    __pydantic_config__ = config.STRICT

    root: str
    """The data set's folder."""
    layout: str | None = None
    """Layout plug-in; None asks every plug-in whether it recognises the folder."""
    fold: int = 0
    """Which of the data set's splits, or of the folds below."""
    folds: int | None = None
    """Cross-validation by patient with so many folds, in place of what the data set declares; None takes that, or
    holds out a fifth of the patients where it declares nothing."""
    channels: tuple[str, ...] | None = None
    """Some of the data set's channels, by name, in the order in which the model gets them; None takes all."""
    accept: tuple[str, ...] = ()
    """Checks whose errors do not stop the run, by their codes (``GEO-02``); recorded with it."""

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be at least 2, not {self.folds}")


@dataclass(frozen=True)
class BackboneSection:
    """Which frozen backbone."""

    __pydantic_config__ = config.STRICT

    name: str | None = None
    """Variant; None takes it from the checkpoint, or the tiny random backbone where there is no checkpoint."""
    weights: str | None = None
    """Checkpoint file, or folder of a downloaded model."""


@dataclass(frozen=True)
class TrainSection:
    """How it is trained; defaults are MA-SAM's (spec of its code, train.py) scaled to one device."""

    __pydantic_config__ = config.STRICT

    epochs: int = 100
    """Passes over the training stacks."""
    stacks_per_epoch: int | None = None
    """At most so many stacks in an epoch, chosen anew each time; None takes all."""
    batch: int = 2
    """Stacks per step."""
    accumulate: int = 1
    """Steps whose gradients are added up; batch × accumulate is the effective batch (24 in the paper)."""
    lr: float = 8e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Of AdamW, on everything that is trained."""
    warmup: int = 250
    """Optimiser steps of linear warm-up."""
    power: float = 7.0
    """Of the polynomial decay."""
    horizon: float = 4 / 3
    """The decay would reach zero after this multiple of the planned steps (400 / 300 epochs in the paper)."""
    dice_weight: float = 0.8
    """Share of the Dice term in the loss; cross-entropy has the rest."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks; weights stay in fp32."""
    clip: float | None = None
    """Largest norm of the gradient; None does not clip."""
    seed: int = 1234
    """Of everything random."""
    workers: int = 0
    """Processes that cut and augment stacks."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``."""
    validate_every: int = 1
    """Epochs between two validations."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, not {self.lr}")
        if not 0 <= self.dice_weight <= 1:
            raise ValueError(f"dice_weight must lie between 0 and 1, not {self.dice_weight}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training run."""

    __pydantic_config__ = config.STRICT

    data: DataSection
    stack: StackPlan = field(default_factory=StackPlan)
    intensity: Intensity = field(default_factory=Intensity)
    backbone: BackboneSection = field(default_factory=BackboneSection)
    adapt: dict[str, Any] = field(default_factory=lambda: {"name": "ma_sam"})
    """``name`` of the method, and the fields of its configuration."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    prompts: PromptSection = field(default_factory=PromptSection)
    train: TrainSection = field(default_factory=TrainSection)


def parse(values: Mapping[str, Any], *, where: str = "the recipe") -> Recipe:
    """Checks a nested mapping as a recipe.

    Raises:
        ConfigError: one line for every unknown key, missing key and wrong value of all sections.
    """
    complaints = [*config.complaints(Recipe, values), *_method_complaints(values.get("adapt"))]
    if complaints:
        raise ConfigError(f"{where} is not valid ({len(complaints)} problems):\n" + "\n".join(complaints))
    return config.parse(Recipe, values, where=where)


def method(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """Name of the adaptation method and its options."""
    options = dict(recipe.adapt)
    return options.pop("name", "ma_sam"), options


def _method_complaints(section: Any) -> list[str]:
    if not isinstance(section, Mapping):
        return []
    options = dict(section)
    name = options.pop("name", "ma_sam")
    if name not in plugins.names("adapt"):
        return [f"  adapt.name: no method {name!r}; there are {', '.join(plugins.names('adapt'))}"]
    return config.complaints(adapt.config_of(name), options, prefix="adapt")
