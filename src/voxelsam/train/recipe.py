"""The recipe of a training run: every choice, in one YAML file.

What a recipe leaves out is filled from the data set's fingerprint where it depends on the data, and from the defaults
below where it does not. The resolved recipe is stored with the run and is all that is needed to repeat it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from voxelsam import adapt, config, plugins
from voxelsam.data.augment import AugmentConfig
from voxelsam.data.sampling import Sampling
from voxelsam.errors import ConfigError
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.train.prompting import PromptSection

PARTS = ("encoder", "image_encoder", "prompt_encoder", "decoder")
"""Parts of an adaptation that can have a rate of their own."""

PROCESSES = ("devices", "nodes", "save_every")
"""Counts that say how a run is done, and do not change what comes out."""


@dataclass(frozen=True)
class DataSection:
    """Which cases."""

    __pydantic_config__ = config.STRICT

    root: str
    """The data set's folder."""
    layout: str | None = None
    """Layout plug-in; None asks every plug-in whether it recognises the folder."""
    fold: int | Literal["none"] = 0
    """Which of the data set's splits, or of the folds below; ``none`` trains on every labelled case and validates on
    nothing, so that nobody knows how good the model is."""
    folds: int | None = None
    """Cross-validation by patient with so many folds, in place of what the data set declares; None takes that. Where
    it declares nothing, up to 20 patients make folds and a fifth of more is held out (``voxelsam.train.plan``)."""
    channels: tuple[str, ...] | None = None
    """Some of the data set's channels, by name, in the order in which the model gets them; None takes all."""
    structures: dict[str, tuple[str, ...]] | None = None
    """Structures to learn, each with the names of the data set's structures or regions that make it up
    (``adrenals: [left_adrenal, right_adrenal]``); the rest becomes background. None takes all as they are."""
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
    """Stacks per step, over all processes together."""
    accumulate: int = 1
    """Steps whose gradients are added up; batch × accumulate is the effective batch (24 in the paper)."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """MA-SAM takes AdamW, Med-SA Adam; ``sgd`` has Nesterov's momentum."""
    lr: float = 8e-4
    """Peak learning rate."""
    rates: dict[str, float] = field(default_factory=dict)
    """Factors on the rate of a part: ``encoder`` (adapters), ``image_encoder``, ``prompt_encoder``, ``decoder``."""
    layer_decay: float | None = None
    """Factor on the rate from each block of a trained image encoder to the block before it; None: all the same."""
    weight_decay: float = 0.1
    """On everything that is trained; with ``adam`` and ``sgd`` it is the L2 penalty."""
    no_decay: bool = False
    """Whether norms, biases, tokens and positions are left out of the weight decay."""
    momentum: float = 0.9
    """Of ``sgd``."""
    schedule: Literal["poly", "cosine", "constant", "step"] = "poly"
    """How the rate falls after the warm-up."""
    warmup: int = 250
    """Optimiser steps of linear warm-up."""
    power: float = 7.0
    """Of the polynomial decay."""
    horizon: float = 4 / 3
    """``poly`` would reach zero after this multiple of the planned steps (400 / 300 epochs in the paper)."""
    step_every: int = 10
    """Epochs between two steps of ``step``."""
    step_factor: float = 0.5
    """What each of them multiplies the rate with."""
    dice_weight: float = 0.8
    """Share of the Dice term in the loss; cross-entropy has the rest."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks; weights stay in fp32."""
    clip: float | None = None
    """Largest norm of the gradient; None does not clip."""
    ema: float | None = None
    """Share that the running average of the weights keeps at each step (0.999); validation and bundles then hold the
    average. None: the weights themselves."""
    patience: int | None = None
    """Validations without a better ``val_dice`` after which the run ends; None: it runs to its last epoch."""
    keep: Literal["best", "last"] = "best"
    """What ``best/`` holds: the epoch with the highest ``val_dice``, or the last one. The Dice of a best epoch is too
    high on the very cases that chose it, the more the fewer they are; the last one is chosen by nobody."""
    checkpointing: bool | int | Literal["auto"] = False
    """Blocks of the image encoder that are computed again in the backward pass instead of being kept in memory: none,
    all, so many from the first, or ``auto``: as few as the memory asks for, which the planner settles."""
    loggers: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Where the numbers go beside ``metrics.csv`` and TensorBoard; on this machine unless the tool's own environment
    says otherwise."""
    seed: int = 1234
    """Of everything random."""
    devices: int = 1
    """Processes on this machine, each on a device of its own and with its share of every batch; under ``torchrun`` the
    processes that it started count."""
    nodes: int = 1
    """Machines; more than one are started by ``torchrun``."""
    shard: bool = False
    """Whether each process keeps only a part of the frozen image encoder and borrows the rest block by block."""
    save_every: int | None = None
    """Steps of the optimiser between two states inside of an epoch; None keeps one at the end of each epoch only."""
    workers: int = 0
    """Processes that cut and augment stacks."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``."""
    validate_every: int = 1
    """Epochs between two validations."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "validate_every", "step_every", "patience", *PROCESSES):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("dice_weight", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in ("ema", "layer_decay"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, both excluded, not {getattr(self, name)}")
        if not isinstance(self.checkpointing, str) and self.checkpointing < 0:
            raise ValueError(f"checkpointing: true, false, auto or a number of blocks, not {self.checkpointing}")
        if self.keep == "last" and self.patience is not None:
            raise ValueError(
                f"patience ({self.patience}) lets the validation choose the end, and keep: last wants nothing to be "
                "chosen by it; leave out one of them"
            )
        if not 0 < self.step_factor <= 1:
            raise ValueError(f"step_factor must be above 0 and at most 1, not {self.step_factor}")
        for part, factor in self.rates.items():
            if part not in PARTS:
                raise ValueError(f"rates: there is no part {part}; parts are {', '.join(PARTS)}")
            if not 0 < factor < float("inf"):
                raise ValueError(f"rates: the factor of {part} must be above 0, not {factor}")

    @property
    def recomputed(self) -> int | None:
        """Blocks that are computed again, None for all; 0 as long as ``auto`` is not settled."""
        if self.checkpointing is True:
            return None
        return 0 if self.checkpointing == "auto" else int(self.checkpointing)


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
    sampling: Sampling = field(default_factory=Sampling)
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
