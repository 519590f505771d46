"""Optimiser and learning rates: which parameter moves how fast.

By default all parameters of the adaptation form one group under AdamW, as in MA-SAM. A recipe can give parts rates of
their own, let the rate of a trained image encoder fall from block to block towards the image (layer-wise decay, BEiT,
arXiv 2106.08254, appendix), and leave norms, biases, tokens and positions out of the weight decay.

Every group says in ``share`` which factor of the common rate it has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from voxelsam.adapt import Adaptation
from voxelsam.errors import ConfigError
from voxelsam.nn.vit import SamEncoder
from voxelsam.train import schedule
from voxelsam.train.recipe import PARTS, TrainSection

POSITIONS = ("pos_embed", "rel_pos_h", "rel_pos_w")
"""Parameters of SAM that hold positions; like tokens they are looked up, not multiplied with."""


@dataclass(frozen=True)
class Place:
    """Where a trained parameter lies."""

    name: str
    parameter: nn.Parameter
    part: str
    """One of ``PARTS``."""
    depth: int
    """Blocks between it and the end of a trained image encoder; 0 outside of one."""
    decays: bool
    """Whether it is a matrix or a kernel, rather than a norm, bias, token or position."""


def groups(adaptation: Adaptation, settings: TrainSection) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser: ``params``, ``lr``, ``weight_decay``, ``share``.

    Args:
        adaptation: whose trained parameters are grouped; each lies in exactly one group.
        settings: the recipe's ``train`` section.

    Raises:
        ConfigError: a rate is given for a part that the method does not train, or layer-wise decay where no image
            encoder with blocks is trained.
    """
    found = list(places(adaptation))
    parts = {place.part for place in found}
    if missing := sorted(settings.rates.keys() - parts):
        raise ConfigError(
            f"train.rates names {', '.join(missing)}, but this method trains only {', '.join(sorted(parts))}"
        )
    if settings.layer_decay is not None and not any(place.depth for place in found):
        raise ConfigError(
            "train.layer_decay needs a method that trains SAM's image encoder (adapt.name: full); for others "
            "give parts their rates: train.rates"
        )
    together: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for place in found:
        share = settings.rates.get(place.part, 1.0) * (settings.layer_decay or 1.0) ** place.depth
        together.setdefault((share, place.decays or not settings.no_decay), []).append(place.parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr * share,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "share": share,
        }
        for (share, decays), parameters in together.items()
    ]


def places(adaptation: Adaptation) -> Iterator[Place]:
    """Every trained parameter of an adaptation, in the adaptation's order."""
    blocks = len(adaptation.image_encoder.blocks) if isinstance(adaptation.image_encoder, SamEncoder) else 0
    looked_up = {
        id(parameter)
        for module in adaptation.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    for name, parameter in adaptation.named_parameters():
        if not parameter.requires_grad:
            continue
        part, _, rest = name.partition(".")
        if part not in PARTS:
            raise ValueError(f"{name} lies in none of {', '.join(PARTS)}")
        held = rest.rpartition(".")[2]
        decays = parameter.ndim > 1 and id(parameter) not in looked_up and held not in POSITIONS
        yield Place(name, parameter, part, _depth(rest, blocks) if part == "image_encoder" else 0, decays)


def optimiser(adaptation: Adaptation, settings: TrainSection) -> torch.optim.Optimizer:
    """The optimiser of a recipe on the adaptation's groups.

    Raises:
        ConfigError: as for ``groups``.
    """
    found = groups(adaptation, settings)
    match settings.optimiser:
        case "adamw":
            return torch.optim.AdamW(found, lr=settings.lr, betas=(0.9, 0.999))
        case "adam":
            return torch.optim.Adam(found, lr=settings.lr, betas=(0.9, 0.999))
        case "sgd":
            momentum = settings.momentum
            return torch.optim.SGD(found, lr=settings.lr, momentum=momentum, nesterov=momentum > 0)


def factor(step: int, steps: int, settings: TrainSection) -> float:
    """What the rates are multiplied with at a step.

    Args:
        step: of the optimiser, from 0.
        steps: of the whole run. The warm-up takes at most a quarter of them.
        settings: the recipe's ``train`` section.
    """
    warmup = min(settings.warmup, steps // 4)
    match settings.schedule:
        case "poly":
            return schedule.rate(step, 1.0, warmup, round(steps * settings.horizon), settings.power)
        case "cosine":
            return schedule.cosine(step, 1.0, warmup, steps - warmup)
        case "constant":
            return schedule.constant(step, 1.0, warmup)
        case "step":
            every = max(settings.step_every * steps // settings.epochs, 1)
            return schedule.stepped(step, 1.0, warmup, every, settings.step_factor)


def common_rate(optimiser: torch.optim.Optimizer) -> float:
    """The rate of a part whose factor is 1, now."""
    group = optimiser.param_groups[0]
    return float(group["lr"] / group["share"])


def _depth(name: str, blocks: int) -> int:
    """Blocks between a parameter of the image encoder and its end; the embeddings lie before the first block."""
    head, _, rest = name.partition(".")
    if not blocks or head == "neck":
        return 0
    return blocks - int(rest.partition(".")[0]) if head == "blocks" else blocks + 1
