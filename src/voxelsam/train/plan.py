"""The plan of a training run: what a recipe leaves open, chosen from the data and the machine, each with its reason.

There is one planner. ``voxelsam plan`` prints and writes what it chooses, ``voxelsam train`` takes the same. What the
user states is never changed, whether it fits or not.
"""

import math
import re
import textwrap
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from voxelsam import adapt, config, device
from voxelsam.cost import Setup, Speed, UncountableError, speed
from voxelsam.data.fingerprint import CaseFacts
from voxelsam.errors import ConfigError, InputError
from voxelsam.layouts import Dataset
from voxelsam.nn.backbone import Variant
from voxelsam.train import cost
from voxelsam.train.cost import Data, Estimate, setup_of
from voxelsam.train.recipe import Recipe, method, parse

FEW = 20
"""Labelled patients up to which a data set is a small one."""

FEW_HELD = 10
"""Validation patients below which the best epoch would be chosen by chance."""

PAPER_BATCH, PAPER_STEPS, PAPER_EPOCHS = 24, 126, 300
"""MA-SAM: stacks in a step, steps in an epoch (24 cases of BTCV), epochs (spec of its code)."""

BATCHES = (2, 3, 4, 6, 8, 12, 16, 24)
"""Effective batches that divide well."""

CPU_BATCH = 4
"""Stacks at a time on a processor: more are no faster there and take more memory."""

ROUNDS = 10
"""Epochs, and with them validations, that a short run is divided into."""

SPARE = {"cpu": 0.7, "gpu": 0.9}
"""Share of the memory that may be used; the rest is for other programs, and for what an estimate does not see."""

SCALES = (0.75, 0.5, 0.375, 0.25)
"""Smaller pictures, as a share of the size that the data asks for."""

SMALL = {"rank": 8, "width": 96, "dropout": 0.2}
"""Options of methods on small data: fewer trained numbers, more drop-out."""

CHECKPOINTING = "train.checkpointing"
"""The one setting that a user may leave to the planner by name (``auto``)."""

Given = Mapping[str, Any]
"""What the user states of a recipe, as nested values."""


@dataclass(frozen=True)
class Facts:
    """What a plan follows from, beside the recipe so far."""

    variant: Variant
    seeded: bool
    """Whether the backbone is random."""
    classes: int
    """The background included."""
    channels: int
    training: tuple[CaseFacts, ...]
    validation: tuple[CaseFacts, ...]
    patients: int
    """With labels."""
    held: int
    """Validation patients."""


@dataclass(frozen=True)
class Limits:
    """What a run may take."""

    memory: int | None = None
    """Bytes of the device; None for all that it has."""
    minutes: float | None = None
    """Of training; None for as long as the recipe's epochs take."""
    elsewhere: bool = False
    """Whether the plan is for another machine: its device need not be here, and no time is measured."""
    strict: bool = True
    """Whether what does not fit is an error; else it is a note."""


@dataclass(frozen=True)
class Rung:
    """A step of the ladder that leads down to what fits."""

    change: str
    """What was given up for memory."""
    need: int
    """Estimated memory after it, in bytes."""


@dataclass(frozen=True)
class Plan:
    """A resolved recipe and where it comes from."""

    recipe: Recipe
    given: Given
    reasons: dict[str, str]
    """By dotted path."""
    rungs: tuple[Rung, ...] = ()
    """The first one is the wish, before anything was given up; empty where the wish fits."""
    estimate: Estimate | None = None
    """None until ``estimated``, and where the network cannot be counted."""
    memory: int | None = None
    """Bytes that the run may take."""
    device: str = "cpu"
    """``cpu`` or ``gpu``."""
    notes: tuple[str, ...] = ()
    """What should be known beside the choices."""
    settled: frozenset[str] = frozenset()
    """Dotted paths that are chosen for good, because the time allows nothing else."""

    def states(self, path: str) -> bool:
        """Whether something at a dotted path must stay as it is."""
        return path in self.settled or (config.has(self.given, path) and not self._leaves_open(path))

    def _leaves_open(self, path: str) -> bool:
        """Whether the user asks for a choice by name."""
        return path == CHECKPOINTING and self.given["train"]["checkpointing"] == "auto"

    def open_reasons(self) -> tuple[str, ...]:
        """Reasons of what the user left open."""
        return tuple(reason for path, reason in self.reasons.items() if not config.has(self.given, path))

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "recipe": config.plain(self.recipe),
            "reasons": self.reasons,
            "ladder": [{"change": rung.change, "memory": rung.need} for rung in self.rungs],
            "memory_limit": self.memory,
            "estimate": None if self.estimate is None else self.estimate.to_json(),
            "notes": list(self.notes),
        }

    def to_yaml(self, heading: Sequence[str] = ()) -> str:
        """The recipe as YAML: every choice below its reason, what is left at its default left out.

        Args:
            heading: lines for the top of the file.
        """
        every = config.plain(self.recipe)
        usual = config.plain(parse({"data": {"root": ""}}))
        lines = [_comment(line) for line in (*heading, *self.notes)]
        lines += [_comment(f"for memory: {rung.change} ({gigabytes(rung.need)})") for rung in self.rungs]
        for name, section in every.items():
            chosen = {
                key: value
                for key, value in section.items()
                if f"{name}.{key}" in self.reasons
                or config.has(self.given, f"{name}.{key}")
                or value != usual[name].get(key, _ABSENT)
            }
            if not chosen:
                continue
            lines += ["", *([_comment(self.reasons[name])] if name in self.reasons else []), f"{name}:"]
            for key, value in chosen.items():
                path = f"{name}.{key}"
                if why := self._why(path):
                    lines.append(textwrap.indent(_comment(why), "  "))
                if path != "data.fold" or value != 0 or config.has(self.given, path):
                    lines.append(f"  {key}: {_flow(value)}")  # the first fold stays open, for train --fold all
        return "\n".join(lines).lstrip("\n") + "\n"

    def _why(self, path: str) -> str | None:
        if config.has(self.given, path) and not self._leaves_open(path):
            return "as you state it" if path != "data.root" else None
        return self.reasons.get(path)


_ABSENT = object()


def folds(dataset: Dataset, asked: Recipe) -> tuple[int | None, str]:
    """How many folds the data section gets, and why; None leaves the split to the data set or to a fifth held out.

    Raises:
        InputError: SET-02, there is only one patient, so that nothing can be held out.
    """
    data = asked.data
    patients = len({case.group for case in dataset.train})
    if data.fold == "none":
        return data.folds, "fold none: trained on every labelled case; nothing is validated"
    if data.folds is not None:
        return data.folds, ""
    if dataset.splits:
        return None, f"fold {data.fold}: a split that the data set declares"
    if patients < 2:
        raise InputError(
            f"{dataset.root} has labelled cases of {patients} patient(s), so nothing can be held out, and slices of "
            "one patient on both sides would only show how well the model remembers. To train without any validation, "
            "say so: --set data.fold=none",
            code="SET-02",
        )
    if patients <= 5:
        return patients, f"{patients} folds: one patient left out at a time; --fold all trains and validates on each"
    if patients <= FEW:
        return 5, f"5 folds of {patients} patients: too few for one lucky split; --fold all validates on every case"
    return None, f"fold {data.fold}: a fifth of {patients} patients is held out"


def complete(recipe: Recipe, given: Given, reasons: Mapping[str, str], facts: Facts, limits: Limits) -> Plan:
    """The recipe with everything chosen that it leaves open.

    Args:
        recipe: what the data and the method imply is in it already.
        given: what the user states.
        reasons: of what is in it already, by dotted path.
        facts: of data and backbone.
        limits: what the run may take.

    Raises:
        ConfigError: nothing that may be changed makes it fit into the memory or the time.
    """
    where = _device(recipe, limits)
    plan = Plan(recipe, given, dict(reasons), device=where, memory=_allowed(recipe, where, limits))
    plan = _settled(_fitted(_chosen(plan, facts), facts, strict=limits.strict), facts)
    if limits.minutes is None:
        return plan
    fast = _speed(plan, limits)
    if fast is None:
        raise ConfigError("--minutes needs the device at hand, because its speed is measured: plan on that machine")
    timed = _timed(plan, facts, limits.minutes, fast)
    return _fitted(_chosen(timed, facts), facts, strict=limits.strict)


def estimated(plan: Plan, facts: Facts, limits: Limits) -> Plan:
    """The plan with what it needs.

    Args:
        plan: complete.
        facts: as for ``complete``.
        limits: likewise.
    """
    try:
        return replace(plan, estimate=_estimate(plan, facts, _speed(plan, limits)))
    except UncountableError as error:
        return replace(plan, notes=(*plan.notes, f"memory and time are not estimated: {error}"))


def elsewhere(limits: Limits, wanted: str) -> Limits:
    """The limits of a plan for a device that need not be in this machine, if a memory says how large it is.

    Args:
        limits: what the run may take.
        wanted: name of the device.
    """
    try:
        device.find(wanted)
    except ConfigError:
        if limits.memory is None:
            raise
        return replace(limits, elsewhere=True)
    return limits


def bytes_of(text: str) -> int:
    """A memory such as ``8GB``, ``900 MB`` or ``16GiB`` in bytes.

    Raises:
        ConfigError: it is not a number with such a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(i?)b?\s*", text, re.IGNORECASE)
    size = (
        0 if found is None else float(found[1]) * (1024 if found[3] else 1000) ** ("kmgt".index(found[2].lower()) + 1)
    )
    if size < 1:
        raise ConfigError(f"a memory is a number and a unit, such as 8GB, 900MB or 16GiB, but {text!r} came")
    return int(size)


def gigabytes(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.2g} seconds"


def _chosen(plan: Plan, facts: Facts) -> Plan:
    """The plan with all choices that do not depend on memory and time."""
    chosen = [choice for choice in _choices(plan, facts) if not plan.states(choice[0])]
    recipe = _changed(plan.recipe, {path: value for path, value, _ in chosen})
    return replace(plan, recipe=recipe, reasons=plan.reasons | {path: reason for path, _, reason in chosen})


def _choices(plan: Plan, facts: Facts) -> Iterator[tuple[str, Any, str]]:
    """Dotted path, value and reason of each of them."""
    name = method(plan.recipe)[0]
    yield "adapt.name", name, _of_method(name)
    yield "backbone.name", facts.variant.name, _of_backbone(facts)
    if "stack.stride" not in plan.reasons:
        yield "stack.stride", 1, "stride 1: in prediction every slice is once the centre of a stack"
    yield from _small_data(plan, facts)
    yield from _validation(plan, facts)
    yield from _pace(plan, facts)


def _of_method(name: str) -> str:
    if name == "ma_sam":
        return "MA-SAM: slices see their neighbours, and few numbers are trained; the method of choice for volumes"
    return f"{name}: as the recipe says"


def _of_backbone(facts: Facts) -> str:
    if facts.seeded:
        return f"{facts.variant.name}: random weights, for trying out; give a checkpoint for results"
    return f"{facts.variant.name}: the checkpoint goes into backbone.weights"


def _small_data(plan: Plan, facts: Facts) -> Iterator[tuple[str, Any, str]]:
    """What few labelled patients ask for."""
    anew = ""
    if cost.never_changes(_setup(plan, facts)):
        anew = "; every change is encoded anew, while with none each slice would be encoded once in the whole run"
    if facts.patients > FEW:
        yield "augment.preset", "light", f"light: gentle changes that keep left and right apart{anew}"
        return
    few = f"{facts.patients} labelled patients"
    yield "augment.preset", "few", f"few: strong changes of shape and grey values, for {few}{anew}"
    yield "train.ema", 0.999, f"a running average of the weights: steadier than one last step, for {few}"
    stated = set(plan.given.get("adapt") or {}) - {"name"}
    if facts.seeded or stated or not adapt.needs_backbone(method(plan.recipe)[0]):
        return  # random weights have all to learn, and who states options means the method as it stands
    options = {field.name for field in fields(adapt.config_of(method(plan.recipe)[0]))}
    for name, value in SMALL.items():
        if name in options:
            kind = "more drop-out" if name == "dropout" else "fewer trained numbers"
            yield f"adapt.{name}", value, f"{name} {value}: {kind}, for {few}"


def _validation(plan: Plan, facts: Facts) -> Iterator[tuple[str, Any, str]]:
    """Which weights are kept."""
    if plan.recipe.train.patience is not None:
        return
    if not facts.validation:
        yield "train.keep", "last", "the last weights: there is no validation that could choose"
    elif facts.held < FEW_HELD:
        reason = f"the last weights: a best epoch, chosen on {facts.held} validation patients, would flatter itself"
        yield "train.keep", "last", reason
    else:
        yield "train.keep", "best", f"the best epoch: {facts.held} validation patients choose it"


def _pace(plan: Plan, facts: Facts) -> Iterator[tuple[str, Any, str]]:
    """Epochs, and how many stacks make a step."""
    train, data = plan.recipe.train, _data(plan.recipe, facts)
    whole = PAPER_BATCH * PAPER_STEPS
    if "train.stacks_per_epoch" in plan.reasons:
        pass
    elif data.stacks > whole:
        yield "train.stacks_per_epoch", whole, f"{whole} of {data.stacks} stacks an epoch, as many as in MA-SAM's"
    else:
        yield "train.stacks_per_epoch", None, f"all {data.stacks} stacks in every epoch"
    yield "train.epochs", train.epochs, f"{train.epochs} epochs: the default; --minutes fits them to a time"
    stacks = min(data.stacks, train.stacks_per_epoch or whole)
    if plan.states("train.batch"):
        yield "train.accumulate", train.accumulate, "steps as the stated batch makes them"
        return
    effective = max((one for one in BATCHES if one <= stacks // PAPER_STEPS), default=BATCHES[0])
    effective = max(effective, train.devices * train.nodes)
    if plan.states("train.accumulate"):
        effective = max(effective // train.accumulate, 1) * train.accumulate
    accumulate = train.accumulate if plan.states("train.accumulate") else 1
    batch = effective // accumulate
    if plan.device == "cpu" and accumulate == 1 and batch > CPU_BATCH:
        batch = max(one for one in _divisors(effective) if one <= CPU_BATCH)
        accumulate = effective // batch
    if effective == PAPER_BATCH:
        reason = "24 stacks a step, as in MA-SAM"
    else:
        reason = f"{effective} stacks a step: about {PAPER_STEPS} steps an epoch as in MA-SAM, with {stacks} stacks"
    yield "train.batch", batch, reason
    at_once = f"{accumulate} batches a step: {batch} stacks at a time, gradients added up"
    if accumulate == 1:
        at_once = "one batch a step: all of its stacks at once"
    yield "train.accumulate", accumulate, at_once


def _timed(plan: Plan, facts: Facts, minutes: float, fast: Speed) -> Plan:
    """Epochs and stacks per epoch that fit into a time, nine tenths of which are steps and validations."""
    found = _estimate(plan, facts, fast)
    if found.seconds_per_step is None or found.seconds_per_epoch is None:
        raise ConfigError("the time of a step is not known here")
    train, stacks = plan.recipe.train, _data(plan.recipe, facts).stacks
    budget, stack = 54 * minutes, found.seconds_per_step / train.batch
    held = max(
        found.seconds_per_epoch
        - -(-min(stacks, train.stacks_per_epoch or stacks) // train.batch) * found.seconds_per_step,
        0,
    )
    said = f"to fit into {minutes:g} minutes at an estimated {duration(found.seconds_per_step)} per step"
    if plan.states("train.epochs"):
        epochs: int = train.epochs
    else:
        epochs = min(PAPER_EPOCHS, max(ROUNDS, int(budget / (stacks * stack + held))))
    room = budget / epochs
    every = 1 if held <= 0.2 * room else min(epochs, math.ceil(held / (0.2 * room)))
    count = int((room - held / every) / found.seconds_per_step) * train.batch
    if count < 1:
        least = (epochs * stack + held) / 54
        raise ConfigError(
            f"{minutes:g} minutes are too few: {epochs} epochs of one stack and one validation take about "
            f"{math.ceil(least * 10) / 10:g} minutes here; give more time, or a smaller stack.size or backbone"
        )
    limited = None if count >= stacks else count
    plan = _set(plan, "train.epochs", epochs, f"{epochs} epochs, {said}")
    plan = _set(plan, "train.stacks_per_epoch", limited, f"{limited or 'all'} stacks an epoch, {said}")
    plan = _set(plan, "train.validate_every", every, f"a validation every {every} epochs: at most a fifth of the time")
    return replace(plan, settled=frozenset({"train.epochs", "train.stacks_per_epoch", "train.validate_every"}))


def _fitted(plan: Plan, facts: Facts, *, strict: bool) -> Plan:
    """The plan brought down the ladder until it fits into the memory."""
    limit = plan.memory
    if limit is None:
        return replace(plan, notes=("the memory of this machine is not known: nothing was made to fit",))
    try:
        need = _need(plan, facts)
        rungs = [Rung(f"the wish needs more than the {gigabytes(limit)} that may be used", need)]
        for rung in (_smaller_batch, _checkpointing, _half_precision, _fewer_slices, _smaller_pictures):
            if need <= limit:
                break
            for lower, change in rung(plan, facts):
                if (less := _need(lower, facts)) >= need:
                    continue
                plan, need = lower, less
                rungs.append(Rung(change, need))
                if need <= limit:
                    break
    except UncountableError as error:
        return replace(plan, notes=(f"memory is not estimated: {error}",))
    if need > limit and not strict:
        text = f"about {gigabytes(need)} of memory are needed, more than the {gigabytes(limit)} that may be used"
        return replace(plan, notes=(*plan.notes, text), rungs=tuple(rungs))
    if need > limit:
        tried = "; ".join(rung.change for rung in rungs[1:]) or "everything that could be made smaller is stated"
        raise ConfigError(
            f"nothing fits into {gigabytes(limit)}: the least needs about {gigabytes(need)} ({tried}). Take a "
            "smaller backbone or a machine with more memory, or state less of the recipe"
        )
    return replace(plan, rungs=tuple(rungs) if len(rungs) > 1 else ())


def _smaller_batch(plan: Plan, facts: Facts) -> Iterator[tuple[Plan, str]]:
    """The largest batch that fits, or the smallest that there is."""
    train = plan.recipe.train
    keep = plan.states("train.accumulate")
    whole = train.batch if keep else train.batch * train.accumulate
    batches = [one for one in _divisors(whole) if train.devices * train.nodes <= one < train.batch]
    if plan.states("train.batch") or plan.memory is None or not batches:
        return

    def lower(batch: int) -> tuple[Plan, str]:
        accumulate = train.accumulate if keep else whole // batch
        change = f"batch {batch}, gradients of {accumulate} steps added up"
        less = _set(plan, "train.batch", batch, f"{change}: for the memory")
        reason = f"so that a step of the optimiser sees {batch * accumulate} stacks"
        return _set(less, "train.accumulate", accumulate, reason), change

    fitting = bisect_right(batches, plan.memory, key=lambda batch: _need(lower(batch)[0], facts))
    yield lower(batches[max(fitting - 1, 0)])


def _checkpointing(plan: Plan, facts: Facts) -> Iterator[tuple[Plan, str]]:
    """As few blocks computed again as fit, or all of them."""
    if plan.states(CHECKPOINTING) or plan.recipe.train.recomputed != 0 or plan.memory is None:
        return
    depth, room = facts.variant.depth, plan.memory

    def lower(blocks: int) -> tuple[Plan, str]:
        which = "all blocks are" if blocks == depth else f"{blocks} of {depth} blocks {'is' if blocks == 1 else 'are'}"
        change = f"{which} computed again in the backward pass, up to a third more time"
        return _set(plan, CHECKPOINTING, blocks == depth or blocks, f"{change}: for the memory"), change

    try:
        _setup(lower(depth)[0], facts).segmenter()
    except ConfigError:
        return  # the method has no blocks that could be computed again
    fewest = bisect_left(range(1, depth), True, key=lambda blocks: _need(lower(blocks)[0], facts) <= room)
    yield lower(1 + fewest)


def _settled(plan: Plan, facts: Facts) -> Plan:
    """The plan without an open ``auto``: no block where none has to be, all where the memory cannot be told."""
    if plan.recipe.train.checkpointing != "auto":
        return plan
    if plan.memory is not None and _countable(plan, facts):
        return _set(plan, CHECKPOINTING, False, "no block is computed again: there is no need, or no block that could")
    everything = _set(plan, CHECKPOINTING, True, "all blocks are computed again: what the memory holds is not known")
    try:
        _setup(everything, facts).segmenter()
    except ConfigError:
        return _set(plan, CHECKPOINTING, False, "no block is computed again: this method has none that could")
    return everything


def _countable(plan: Plan, facts: Facts) -> bool:
    try:
        _need(plan, facts)
    except UncountableError:
        return False
    return True


def _half_precision(plan: Plan, facts: Facts) -> Iterator[tuple[Plan, str]]:
    if plan.device == "gpu" and not plan.states("train.precision") and plan.recipe.train.precision == "fp32":
        yield _set(plan, "train.precision", "bf16", "half precision: for the memory"), "precision bf16"


def _fewer_slices(plan: Plan, facts: Facts) -> Iterator[tuple[Plan, str]]:
    if plan.states("stack.depth") or plan.states("adapt.depth"):
        return
    depth = plan.recipe.stack.depth
    while depth > 1:
        depth = depth // 2 if depth > 5 else depth - 2 if depth > 2 else 1
        change = f"stacks of {depth} slices" + ("" if depth > 1 else ", which see no neighbours")
        paths: dict[str, Any] = {"stack.depth": depth}
        if plan.recipe.stack.stride > depth:
            paths["stack.stride"] = depth
        if "depth" in plan.recipe.adapt:
            paths["adapt.depth"] = depth
        yield _together(plan, paths, f"{change}: for the memory"), change


def _smaller_pictures(plan: Plan, facts: Facts) -> Iterator[tuple[Plan, str]]:
    if plan.states("stack.size"):
        return
    step = 2 * facts.variant.patch
    for scale in SCALES:
        size = [max(step, round(side * scale / step) * step) for side in plan.recipe.stack.size]
        change = f"pictures of {size[0]} × {size[1]} pixels"
        yield _set(plan, "stack.size", size, f"{change}: for the memory"), change


def _need(plan: Plan, facts: Facts) -> int:
    return cost.memory(plan.recipe, _setup(plan, facts), plan.device)


def _estimate(plan: Plan, facts: Facts, fast: Speed | None) -> Estimate:
    return cost.estimate(plan.recipe, _setup(plan, facts), _data(plan.recipe, facts), plan.device, fast)


def _setup(plan: Plan, facts: Facts) -> Setup:
    return setup_of(plan.recipe, facts.variant.name, facts.classes, plan.device)


def _data(recipe: Recipe, facts: Facts) -> Data:
    return Data.of(recipe.stack, facts.training, facts.validation, facts.channels)


def _speed(plan: Plan, limits: Limits) -> Speed | None:
    if limits.elsewhere:
        return None
    return speed(str(device.find(plan.recipe.train.device)), plan.recipe.train.precision)


def _device(recipe: Recipe, limits: Limits) -> str:
    name = recipe.train.device if limits.elsewhere else device.find(recipe.train.device).type
    return "cpu" if name == "cpu" else "gpu"


def _allowed(recipe: Recipe, where: str, limits: Limits) -> int | None:
    """Bytes that may be used: all of a stated memory but a tenth, less of what the machine has."""
    if limits.memory is not None:
        return int(limits.memory * SPARE["gpu"])
    there = device.memory(device.find(recipe.train.device))
    return None if there is None else int(there * SPARE[where])


def _set(plan: Plan, path: str, value: Any, reason: str) -> Plan:
    return _together(plan, {path: value}, reason)


def _together(plan: Plan, paths: Mapping[str, Any], reason: str) -> Plan:
    """The plan with values at some dotted paths, but for those that must stay."""
    paths = {path: value for path, value in paths.items() if not plan.states(path)}
    return replace(plan, recipe=_changed(plan.recipe, paths), reasons=plan.reasons | dict.fromkeys(paths, reason))


def _changed(recipe: Recipe, paths: Mapping[str, Any]) -> Recipe:
    """A recipe with other values at dotted paths (section.key)."""
    values = config.plain(recipe)
    for path, value in paths.items():
        section, _, key = path.partition(".")
        values[section][key] = value
    return parse(values)


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def _comment(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
