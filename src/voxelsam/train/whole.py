"""What a recipe for a whole network leaves open, and what follows from the stacks that it will see."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from voxelsam import adapt, config
from voxelsam.data.fingerprint import Fingerprint
from voxelsam.errors import ConfigError
from voxelsam.stacks.plan import StackPlan
from voxelsam.train.recipe import Recipe, method

TIMES = 5
"""How often an epoch shows a slice: as often as it lies in a stack of MA-SAM, which has 5 slices and goes on by one."""


def check(recipe: Recipe) -> None:
    """Whether a recipe for a method that needs no backbone asks for what only a backbone can give.

    Raises:
        ConfigError: it names a backbone or its weights, or prompts; or a method that needs a backbone names none.
    """
    name, _ = method(recipe)
    section = recipe.backbone
    if adapt.needs_backbone(name):
        if section.name == "none":
            raise ConfigError(f"backbone.name: {name} adapts a SAM backbone; name one, or leave it out")
        return
    if section.weights is not None or section.name not in (None, "none"):
        raise ConfigError(
            f"backbone: {name} is a whole network, trained from scratch, and takes no backbone; leave out "
            f"backbone.name ({section.name}) and backbone.weights ({section.weights})"
        )
    if recipe.prompts.used:
        raise ConfigError(
            f"prompts: {name} is a network without prompts; leave out the prompts section, or take a method that "
            "adapts a SAM backbone"
        )


def settled(recipe: Recipe, fingerprint: Fingerprint, given: Mapping[str, Any]) -> tuple[Recipe, dict[str, str]]:
    """The recipe with what follows from its stacks filled in, and for each choice, by its dotted path, the reason.

    Recipes of other methods stay as they are.

    Args:
        recipe: everything else is resolved.
        fingerprint: of the training cases.
        given: what the user states; it goes before what follows here.

    Raises:
        ConfigError: an answer without prompts is asked of a method that is not trained.
    """
    name, options = method(recipe)
    if not adapt.trains(name) and recipe.prompts.free:
        raise ConfigError(f"prompts.free: {name} is not trained and answers prompts only; leave it out, or set it to 0")
    if adapt.needs_backbone(name):
        return recipe, {}
    stack, reasons = recipe.stack, {}
    if not config.has(given, "stack.stride"):
        stack = replace(stack, stride=max(1, stack.depth // 2))
        reasons["stack.stride"] = f"stride {stack.stride}: in prediction stacks overlap by half, as nnU-Net's patches"
    spacing = _spacing(fingerprint, stack)
    known = {"depth": stack.depth, "channels": 3 if stack.channels in ("rgb", "first3") else 1, "spacing": spacing}
    own = {field.name for field in fields(adapt.config_of(name))}
    filled = {key: value for key, value in known.items() if key in own and key not in options}
    if "depth" in filled:
        shape = " × ".join(map(str, (stack.depth, *stack.size)))
        reasons["adapt.depth"] = f"a network of {2 if stack.depth == 1 else 3} dimensions, for stacks of {shape}"
    if "spacing" in filled:
        lengths = " × ".join(f"{length:.3g}" for length in spacing)
        reasons["adapt.spacing"] = f"kernels and strides for voxels of {lengths} mm"
    training = recipe.train
    if not config.has(given, "train.stacks_per_epoch"):
        training = replace(training, stacks_per_epoch=_stacks(fingerprint, stack))
        seen = "once" if stack.depth == 1 else f"about {TIMES} times, as often as in MA-SAM's stacks"
        reasons["train.stacks_per_epoch"] = f"{training.stacks_per_epoch} stacks an epoch: every slice {seen}"
    return replace(recipe, stack=stack, adapt={"name": name, **options, **filled}, train=training), reasons


def _spacing(fingerprint: Fingerprint, stack: StackPlan) -> list[float]:
    """Millimetres between the voxels of a stack (slices, rows, columns): those of the median case, as it is resized.

    Pictures and films, whose slices lie no millimetres apart, count as voxels of the same length on all sides.
    """
    plane = fingerprint.plane if stack.plane == "auto" else stack.plane
    if any(plane not in case.spacings or case.alone or case.kind == "VIDEO" for case in fingerprint.cases):
        return [1.0, 1.0, 1.0]
    own = np.median([case.spacings[plane] for case in fingerprint.cases], axis=0)
    size = np.median([case.sizes[plane] for case in fingerprint.cases], axis=0)
    wanted = stack.spacing or (None, None, None)
    steps = [float(given or length) for given, length in zip(wanted, own, strict=True)]
    columns, rows = (max(1, round(size[axis] * own[axis] / steps[axis])) for axis in (0, 1))
    high, wide = stack.frame((rows, columns)).scale
    return [round(length, 4) for length in (steps[2], steps[1] / high, steps[0] / wide)]


def _stacks(fingerprint: Fingerprint, stack: StackPlan) -> int:
    plane = fingerprint.plane if stack.plane == "auto" else stack.plane
    slices = sum(case.sizes.get(plane, (1, 1, 1))[2] for case in fingerprint.cases)
    return max(1, math.ceil(slices / stack.depth) * (1 if stack.depth == 1 else TIMES))
