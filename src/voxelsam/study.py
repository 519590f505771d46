"""Dice against the number of clicks and the looseness of boxes, with simulated prompts on cases whose masks are known.

An *object* is all of a structure in a case, or one number of its instance map. All objects of a case are prompted
together, as an annotator does, and scored in the lattice of the scan. What is done to a case is a list of *ways*, each
from a fresh start:

    none       no prompt at all, if the model may be used so
    click      on every slice that shows the object its deepest point; then, round by round, on every slice that still
               has an error one more click, in the deepest point of its largest error (oracle per slice)
    correct    the same rounds of error clicks, but from the prompt-free answer on
    volume     one click in the whole volume per round and object: the deepest point first, then that of the largest
               error; slices without a click keep the prompt-free answer, or background
    keys       prompts on a few key slices only (the first, the last, others evenly between; one: the largest area):
               a rectangle where the model learnt boxes, else the deepest point; then propagation
    box        on every slice the object's rectangle, each edge moved outwards by a share of the side
    cuboid     the object's 3D box, each face moved outwards likewise

The prompts of each way are written as a file, so that a study can be repeated by ``voxelsam prompt``.
"""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Integer

from voxelsam import checks
from voxelsam.config import STRICT
from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate.metrics import dice
from voxelsam.files import write_text
from voxelsam.formats import read_channels, read_labels
from voxelsam.infer.predictor import Predictor
from voxelsam.infer.session import Session
from voxelsam.layouts import Case, read_label
from voxelsam.prompts import simulate
from voxelsam.prompts.prompt import Box, Point, Prompt, Target, Vector
from voxelsam.record import Run, digest
from voxelsam.space import Placement
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import check_pair

Way = Literal["none", "click", "correct", "volume", "keys", "box", "cuboid"]

SUMMARY, TABLE, CURVES, PROMPTS = "study.json", "study.csv", "study.png", "prompts"

Progress = Callable[[int, int], None]
"""Called with (cases done, cases in all)."""

Masks = Bool[np.ndarray, "slices height width"]


@dataclass(frozen=True)
class StudyPlan:
    """What is tried on every case."""

    __pydantic_config__ = STRICT

    ways: tuple[Way, ...] = ("none", "click", "correct", "box", "cuboid")
    clicks: int = 5
    """Rounds of clicks."""
    keys: tuple[int, ...] = (1, 3, 5)
    """Numbers of key slices."""
    relaxed: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    """How far the edges of boxes are moved outwards, as shares of the box's sides."""
    per: Literal["class", "instance"] = "class"

    def __post_init__(self) -> None:
        if self.clicks < 1:
            raise ConfigError(f"clicks: at least 1, not {self.clicks}")
        if any(count < 1 for count in self.keys):
            raise ConfigError(f"keys: at least 1 key slice, not {self.keys}")
        if not self.ways:
            raise ConfigError(f"ways: at least one of {', '.join(get_args(Way))}")
        if any(not 0 <= share <= 1 for share in self.relaxed):
            raise ConfigError(f"relaxed: shares from 0 to 1, not {self.relaxed}")

    @property
    def steps(self) -> tuple[str, ...]:
        """Name of every column, in order."""
        names: dict[Way, list[str]] = {
            "none": ["none"],
            **{way: [f"{way} {number}" for number in range(1, self.clicks + 1)] for way in _ROUNDS},
            "keys": [f"keys {count}" for count in self.keys],
            **{way: [f"{way} +{share:.0%}" for share in self.relaxed] for way in _BOXES},
        }
        return tuple(name for way in get_args(Way) if way in self.ways for name in names[way])


_ROUNDS: tuple[Way, ...] = ("click", "correct", "volume")
_BOXES: tuple[Way, ...] = ("box", "cuboid")
_NEEDS: dict[Way, tuple[str, ...]] = {
    "click": ("point",),
    "volume": ("point",),
    "correct": ("correction",),
    "keys": ("box", "cuboid", "point"),
    "box": ("box", "cuboid"),
    "cuboid": ("cuboid",),
}
"""Kinds of prompts of which one must have been learnt."""


@dataclass(frozen=True)
class Score:
    """One object of one case after one step."""

    case: str
    structure: str
    instance: int
    step: str
    dice: float
    prompts: int
    """How many the object had been given by then."""
    seconds: float
    """From the prompts to the label map, for all objects of the case together."""


@dataclass(frozen=True)
class Study:
    """All scores of a study."""

    plan: StudyPlan
    scores: tuple[Score, ...]
    failures: dict[str, str] = field(default_factory=dict)
    """Cases that could not be used, with the reason."""

    def mean(self, step: str, structure: str | None = None) -> float:
        """Mean Dice: over the objects of a structure within each case, over cases, then over structures."""
        structures = [structure] if structure else sorted({score.structure for score in self.scores})
        return _mean([self._structure_mean(step, one) for one in structures])

    def structures(self) -> tuple[str, ...]:
        """Names of what was scored, in the order in which they came."""
        return tuple(dict.fromkeys(score.structure for score in self.scores))

    def rows(self) -> list[dict[str, Any]]:
        """One row per step: mean Dice over all structures, of each, and seconds per case."""
        rows = []
        for step in self.plan.steps:
            own = [score for score in self.scores if score.step == step]
            if own:
                rows.append(
                    {"step": step, "dice": self.mean(step)}
                    | {f"dice/{name}": self.mean(step, name) for name in self.structures()}
                    | {"prompts": _mean([score.prompts for score in own])}
                    | {"seconds": _mean(list({score.case: score.seconds for score in own}.values()))}
                )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        plan = {"ways": list(self.plan.ways), "clicks": self.plan.clicks, "relaxed": list(self.plan.relaxed)}
        return {
            "definition": "Dice on the voxels of the scan, mean over objects, then cases, then structures",
            "plan": plan | {"per": self.plan.per},
            "means": self.rows(),
            "scores": [vars(score) for score in self.scores],
            "failures": self.failures,
        }

    def write(self, folder: Path) -> None:
        """``study.json``, ``study.csv`` and ``study.png``.

        Raises:
            OutputError: a file cannot be written.
        """
        write_text(folder / SUMMARY, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        text = io.StringIO()
        rows = [vars(score) for score in self.scores]
        writer = csv.DictWriter(text, list(Score.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / TABLE, text.getvalue())
        draw(self, folder / CURVES)

    def _structure_mean(self, step: str, structure: str) -> float:
        by_case: dict[str, list[float]] = {}
        for score in self.scores:
            if score.step == step and score.structure == structure:
                by_case.setdefault(score.case, []).append(score.dice)
        return _mean([_mean(values) for values in by_case.values()])


def study(
    predictor: Predictor,
    cases: Sequence[Case],
    plan: StudyPlan,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Study:
    """Runs a study.

    Args:
        predictor: a model trained with prompts.
        cases: with labels, and with instance maps where objects are instances.
        plan: what to try.
        folder: where the results and the prompts go; None keeps them in memory.
        progress: told about finished cases.

    Raises:
        ConfigError: the model was not trained for a way of the plan.
        InputError: there are no cases, or none could be used.
    """
    check(predictor, plan)
    if not cases:
        raise InputError("a study needs cases with masks, but none came")
    scores: list[Score] = []
    failures: dict[str, str] = {}
    for number, case in enumerate(cases):
        try:
            with checks.watching(where=case.id):
                scores += _case(predictor, case, plan, folder)
        except InputError as error:
            failures[case.id] = str(error)
        if progress:
            progress(number + 1, len(cases))
    if not scores:
        raise InputError(f"none of {len(cases)} cases could be used; the first: {next(iter(failures.values()))}")
    result = Study(plan, tuple(scores), failures)
    if folder is not None:
        result.write(folder)
    return result


def note(result: Study, cases: Sequence[Case], noted: Run) -> None:
    """Writes the record of a study: every case with its files, what checks found, and whether it could be used.

    Args:
        result: what was found.
        cases: those of the study.
        noted: the record; without a path nothing is written.

    Raises:
        OutputError: it cannot be written.
    """
    for case in cases:
        found = [finding for finding in noted.watch.findings if finding.where == case.id]
        files = [*case.images, *(path for path in (case.label, case.instances) if path is not None)]
        noted.case(case.id, "failed" if case.id in result.failures else "scored", found, sha256=digest(files))
    noted.save("done")


def check(predictor: Predictor, plan: StudyPlan) -> None:
    """Refuses what the model was not trained for.

    Raises:
        ConfigError: says which ways, and which it can be asked.
    """
    known = tuple(way for way in get_args(Way) if _learnt(predictor, way))
    if wrong := [way for way in plan.ways if way not in known]:
        raise ConfigError(
            f"this model was not trained for {', '.join(wrong)}; with it one can study {', '.join(known)} "
            "(the recipe's prompts section says what is trained)"
        )


def possible(predictor: Predictor) -> tuple[Way, ...]:
    """The ways that a model was trained for, but for ``volume`` and ``keys``, which are asked for by name only."""
    return tuple(way for way in get_args(Way) if way not in ("volume", "keys") and _learnt(predictor, way))


def _learnt(predictor: Predictor, way: Way) -> bool:
    if way == "none":
        return predictor.prompt_free
    return bool(set(_NEEDS[way]) & set(predictor.bundle.description.prompts.kinds))


@dataclass(frozen=True, eq=False)
class _Scene:
    """A case with its objects, on the slices that the model sees and on the voxels of the scan."""

    session: Session
    case: str
    placement: Placement
    canonical: dict[Target, Masks]
    source: dict[Target, Bool[np.ndarray, "i j k"]]
    labels: Labels

    def predicted(self, target: Target) -> Bool[np.ndarray, "i j k"]:
        """The object as the session shows it now, on the voxels of the scan."""
        values = self.session.result().labels.data == self.labels.values[target.label]
        if len([other for other in self.source if other.label == target.label]) == 1:
            return np.asarray(values)
        return np.asarray(values & (self.session.instances() == target.instance))

    def slices(self, mask: Bool[np.ndarray, "i j k"]) -> Masks:
        """A mask on the voxels of the scan as the model's slices."""
        return np.asarray(_slices(self.placement, mask))


def _case(predictor: Predictor, case: Case, plan: StudyPlan, folder: Path | None) -> Iterator[Score]:
    scene = _scene(predictor, case, plan)
    for way in get_args(Way):
        if way in plan.ways:
            for step, prompts, seconds in _played(scene, way, plan):
                for target, truth in scene.source.items():
                    given = sum(prompt.target == target for prompt in prompts)
                    value = dice(scene.predicted(target), truth)
                    yield Score(case.id, target.label, target.instance, step, value, given, seconds)
                if folder is not None and prompts:
                    name = f"{case.id}-{step.replace(' ', '-').replace('+', '')}.json"
                    (folder / PROMPTS).mkdir(parents=True, exist_ok=True)
                    scene.session.save_prompts(folder / PROMPTS / name)


def _scene(predictor: Predictor, case: Case, plan: StudyPlan) -> _Scene:
    labels = predictor.bundle.labels
    volume = read_channels(case.images, len(predictor.bundle.description.channels))
    truth = read_label(case, labels)
    check_pair(volume, truth)
    session = predictor.open(volume, base="free" if predictor.prompt_free else "background")
    if plan.per == "instance":
        if case.instances is None:
            raise InputError(f"case {case.id} has no instance map", code="SET-01")
        objects = _instances(read_labels(case.instances).data, truth.data, labels)
    else:
        objects = {
            Target(name): truth.data == value
            for name, value in labels.values.items()
            if value and (truth.data == value).any()
        }
    placement = predictor.plan.placement(volume.grid)
    canonical = {target: _slices(placement, mask) for target, mask in objects.items()}
    kept = {target: mask for target, mask in objects.items() if canonical[target].any()}
    if not kept:
        raise InputError(f"case {case.id} shows none of {', '.join(labels.names)}", code="LAB-03")
    return _Scene(session, case.id, placement, {target: canonical[target] for target in kept}, kept, labels)


def _instances(
    numbers: Integer[np.ndarray, "i j k"], values: Integer[np.ndarray, "i j k"], labels: Labels
) -> dict[Target, Bool[np.ndarray, "i j k"]]:
    names = {value: name for name, value in labels.values.items()}
    return {
        Target(names[int(np.bincount(values[numbers == number]).argmax())], number): numbers == number
        for number in simulate.objects(numbers)
    }


def _slices(placement: Placement, mask: Bool[np.ndarray, "i j k"]) -> Masks:
    return np.ascontiguousarray(placement.bring_labels(mask.astype(np.uint8)).transpose(2, 1, 0)) > 0


def _played(scene: _Scene, way: Way, plan: StudyPlan) -> Iterator[tuple[str, tuple[Prompt, ...], float]]:
    """Every step of a way: its name, all prompts so far, and the seconds that it took."""
    session = scene.session
    session.reset_interactions()
    if way == "none":
        yield "none", (), _timed(session.result)
    elif way == "keys":
        for count in plan.keys:
            session.reset_interactions()
            drawn = [prompt for target in scene.source for prompt in _keys(scene, target, count)]
            seconds = _timed(session.add, *drawn)
            for target in scene.source:
                seconds += _timed(_carried, session, target)
            yield f"keys {count}", session.prompts.items, seconds + _timed(session.result)
    elif way in _BOXES:
        for share in plan.relaxed:
            session.reset_interactions()
            boxes = [box for target in scene.source for box in _boxes(scene, target, way, share)]
            seconds = _timed(session.add, *boxes) + _timed(session.result)
            yield f"{way} +{share:.0%}", session.prompts.items, seconds
    else:
        for number in range(1, plan.clicks + 1):
            clicks = [click for target in scene.source for click in _clicks(scene, target, way, first=number == 1)]
            seconds = _timed(session.add, *clicks) if clicks else 0.0
            yield f"{way} {number}", session.prompts.items, seconds + _timed(session.result)


def _clicks(scene: _Scene, target: Target, way: Way, *, first: bool) -> Iterator[Point]:
    truth = scene.canonical[target]
    if first and way == "click":
        found = simulate.interior_clicks(truth)
    elif first and way == "volume":
        one = simulate.interior_click(truth, _spacing(scene))
        found = () if one is None else (one,)
    elif way == "volume":
        one = simulate.error_click(scene.slices(scene.predicted(target)), truth, spacing=_spacing(scene))
        found = () if one is None else (one,)
    else:
        found = simulate.error_clicks(scene.slices(scene.predicted(target)), truth)
    for click in found:
        yield Point(_voxel(scene.placement, click.x, click.y, click.slice), target, click.inside)


def _keys(scene: _Scene, target: Target, count: int) -> Iterator[Prompt]:
    slices = simulate.key_slices(scene.canonical[target], count)
    kinds = scene.session.predictor.bundle.description.prompts.kinds
    way: Way = "box" if set(_NEEDS["box"]) & set(kinds) else "click"
    drawn: Iterator[Prompt] = (
        _boxes(scene, target, way, 0.0) if way == "box" else _clicks(scene, target, way, first=True)
    )
    shown = np.flatnonzero(scene.canonical[target].any(axis=(1, 2))).tolist()
    yield from (prompt for number, prompt in zip(shown, drawn, strict=True) if number in slices)


def _carried(session: Session, target: Target) -> None:
    """Propagates an object, unless its prompts show nothing to begin with."""
    try:
        session.propagate(target.label, instance=target.instance)
    except InputError:
        return


def _boxes(scene: _Scene, target: Target, way: Way, share: float) -> Iterator[Box]:
    truth = scene.canonical[target]
    size = truth.shape[1:]
    if way == "cuboid":
        tight = simulate.tight_cuboid(truth)
        if tight is not None:
            cuboid = simulate.relaxed_cuboid(tight, share, truth.shape)
            yield _box(scene.placement, cuboid.rectangle, cuboid.first, cuboid.last, target)
        return
    for number in np.flatnonzero(truth.any(axis=(1, 2))).tolist():
        rectangle = simulate.tight_box(truth[number])
        if rectangle is not None:
            yield _box(scene.placement, simulate.relaxed(rectangle, share, size), number, number, target)


def _box(placement: Placement, rectangle: simulate.Rectangle, first: int, last: int, target: Target) -> Box:
    """A box on the model's slices as half-open ranges of the scan's voxels."""
    x0, y0, x1, y1 = rectangle
    corners = np.array([_voxel(placement, x0, y0, first - 0.5), _voxel(placement, x1, y1, last + 0.5)]) + 0.5
    low, high = corners.min(axis=0), corners.max(axis=0)
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]), target)


def _voxel(placement: Placement, x: float, y: float, k: float) -> Vector:
    """A place on the model's slices as voxel indices of the scan."""
    i, j, k = placement.source.to_index(placement.target.to_world(np.array([[x, y, k]], np.float64)))[0].tolist()
    return round(i, 4), round(j, 4), round(k, 4)


def _spacing(scene: _Scene) -> tuple[float, float, float]:
    i, j, k = scene.placement.target.spacing
    return k, j, i


def _timed(work: Callable[..., Any], *arguments: Any) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def draw(result: Study, path: Path) -> None:
    """Curves: Dice against clicks, and against the looseness of boxes; the prompt-free Dice as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    means = {row["step"]: row["dice"] for row in result.rows()}
    for panel, ways, name in (
        (panels[0], _ROUNDS, "clicks per object and slice"),
        (panels[1], _BOXES, "box edges moved outwards"),
    ):
        for way in ways:
            steps = [step for step in means if step.split()[0] == way]
            places = (
                list(range(1, len(steps) + 1)) if way in _ROUNDS else [100 * share for share in result.plan.relaxed]
            )
            if steps:
                panel.plot(places[: len(steps)], [means[step] for step in steps], marker="o", label=way)
        if "none" in means:
            panel.axhline(means["none"], color="0.5", linestyle="--", label="no prompt")
        panel.set_xlabel(name + (" (%)" if ways is _BOXES else ""))
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend()
    panels[0].set_ylabel("mean Dice")
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, dpi=120, format="png")
    beside.replace(path)
