"""How far a mask can be trusted, per structure, without knowing the truth.

Nothing here changes a mask. For a structure c, with p its averaged probability and M the voxels where c is the most
probable class:

    confidence      mean of p over M
    expected Dice   2 Σ_M p / (Σ p + |M|), the Dice of M with p: what the Dice would be if p were right
    agreement       mean Dice between the masks of each two answers (members of an ensemble, augmented views), as in Roy
                    et al., Bayesian QuickNAT, NeuroImage 195 (2019); pairs without the structure are left out
    predicted IoU   mean of the decoder's own estimate over slices, weighted by the area of c on them

and, from what the bundle knows of its training: whether the scan, and the volume of each structure, are like those that
the model has seen (``voxelsam.stacks.ranges``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Integer
from torch import Tensor

from voxelsam.bundle import Description
from voxelsam.checks import Finding
from voxelsam.stacks.ranges import look, measure
from voxelsam.volumes.labels import count_values
from voxelsam.volumes.volume import LabelMap, Volume

Measure = Literal["confidence", "expected_dice", "agreement", "predicted_iou"]

Source = Literal["validation", "default"]

MEASURES: tuple[Measure, ...] = get_args(Measure)

DEFAULTS: Mapping[Measure, float] = MappingProxyType({"confidence": 0.7, "expected_dice": 0.7, "agreement": 0.7})
"""Below these a structure is flagged, where validation gave nothing better. The predicted IoU has no default: the head
learns on prompted objects, and what it says of answers without prompts is only as good as validation shows."""

UNSURE, UNLIKE, VOLUME = "QUA-01", "QUA-02", "QUA-03"
"""Codes of the flags: an unsure mask, a scan unlike those of training, a structure of odd volume."""

FIELDS = ("case", "structure", "volume_ml", *MEASURES, "flags")
"""Columns of ``quality.csv``."""


@dataclass(frozen=True)
class Flag:
    """One reason to look at a mask."""

    code: str
    about: str
    """What is low or outside: a measure, ``volume``, ``spacing of slices`` …"""
    message: str
    structure: str = ""
    """Empty: the whole scan."""


@dataclass(frozen=True)
class StructureQuality:
    """How far the mask of one structure can be trusted; None where there is no such number."""

    volume_ml: float | None = None
    """None for pictures and films."""
    confidence: float | None = None
    expected_dice: float | None = None
    agreement: float | None = None
    predicted_iou: float | None = None


@dataclass(frozen=True)
class Quality:
    """How far the masks of one scan can be trusted."""

    structures: Mapping[str, StructureQuality]
    flags: tuple[Flag, ...] = ()
    views: int = 1
    """How many answers were averaged: members of the ensemble times augmented views."""
    ranges: Literal["known", "unknown"] = "unknown"
    """Whether the bundle says what its training scans were like."""
    thresholds: Mapping[str, Source] = field(default_factory=dict)
    """Per measure where its thresholds come from."""

    def findings(self, case: str) -> list[Finding]:
        """The flags as findings of checks."""
        return [Finding(flag.code, "warning", flag.message, case) for flag in self.flags]

    def to_json(self) -> dict[str, Any]:
        """As plain values, for records: no messages."""
        flags = [{"code": flag.code, "about": flag.about, "structure": flag.structure} for flag in self.flags]
        return {
            "structures": {name: _rounded(vars(one)) for name, one in self.structures.items()},
            "flags": flags,
            "views": self.views,
            "ranges": self.ranges,
            "thresholds": dict(self.thresholds),
        }

    def rows(self, case: str) -> list[dict[str, str]]:
        """One row per structure, and one for the scan where it is flagged; the columns are ``FIELDS``."""
        rows = [
            {"case": case, "structure": name, **_texts(vars(one)), "flags": self._listed(name)}
            for name, one in self.structures.items()
        ]
        if whole := self._listed(""):
            rows.append({**dict.fromkeys(FIELDS, ""), "case": case, "flags": whole})
        return rows

    def _listed(self, structure: str) -> str:
        return "; ".join(f"{flag.code} {flag.about}" for flag in self.flags if flag.structure == structure)


class Tally:
    """Sums over the slices of one scan; the size of the scan does not matter.

    Args:
        classes: number of classes, background included.
        views: number of answers that are averaged.
    """

    def __init__(self, classes: int, views: int) -> None:
        self.views = views
        self._area = np.zeros(classes)
        self._within = np.zeros(classes)
        self._total = np.zeros(classes)
        self._said = np.zeros(classes)
        self._heard = np.zeros(classes)
        self._sizes = np.zeros((views, classes))
        self._common = {pair: np.zeros(classes) for pair in combinations(range(views), 2)}

    def add(
        self,
        views: Float[Tensor, "views classes height width"],
        mean: Float[Tensor, "classes height width"],
        sure: Float[Tensor, "height width"],
        mask: Integer[np.ndarray, "height width"],
        quality: Float[Tensor, " classes"] | None = None,
    ) -> None:
        """Adds a slice.

        Args:
            views: probabilities of each answer.
            mean: their mean.
            sure: its largest value at each pixel.
            mask: its most probable classes.
            quality: the decoder's estimate of the IoU of each class; None where it was not trained.
        """
        area = _count(mask, len(self._area))
        self._area += area
        self._within += _count(mask, len(self._area), sure.numpy(force=True))
        self._total += mean.sum((1, 2)).numpy(force=True)
        if quality is not None:
            self._said += area * quality.numpy(force=True)
            self._heard += area
        if self.views > 1:
            self._compare(views.max(1).indices.numpy(force=True))

    def structures(self, volumes: Sequence[float | None], names: Sequence[str]) -> dict[str, StructureQuality]:
        """The numbers of every structure.

        Args:
            volumes: millilitres of each structure's final mask; None where there are none.
            names: of the structures, from class 1 on.
        """
        confidence = _ratio(self._within, self._area)
        expected = _ratio(2 * self._within, np.where(self._area > 0, self._total + self._area, 0))
        said = _ratio(self._said, self._heard)
        agreement = self._agreement()
        numbers = zip(volumes, *(values[1:] for values in (confidence, expected, agreement, said)), strict=True)
        return {name: StructureQuality(*each) for name, each in zip(names, numbers, strict=True)}

    def _compare(self, masks: Integer[np.ndarray, "views height width"]) -> None:
        for number, mask in enumerate(masks):
            self._sizes[number] += _count(mask, len(self._area))
        for (first, second), common in self._common.items():
            common += _count(masks[first][masks[first] == masks[second]], len(self._area))

    def _agreement(self) -> list[float | None]:
        dice = [
            _ratio(2 * common, self._sizes[first] + self._sizes[second])
            for (first, second), common in self._common.items()
        ]
        pairs = [[value for value in values if value is not None] for values in zip(*dice, strict=True)]
        return [float(np.mean(values)) if values else None for values in pairs] or [None] * len(self._area)


def judge(tally: Tally, labels: LabelMap, volume: Volume, models: Sequence[Description]) -> Quality:
    """The quality of a mask, with its flags.

    A scan or a volume counts as odd only where it is so for every model that knows its training scans. Thresholds of
    several models are averaged.

    Args:
        tally: of the averaged probabilities.
        labels: the final label map.
        volume: the scan.
        models: what the averaged bundles say of themselves.
    """
    names = labels.labels.names
    volumes = _millilitres(labels)
    structures = tally.structures(volumes, names)
    known = [model for model in models if model.ranges is not None]
    flags = [*_unsure(structures, models), *_unlike(volume, known)]
    if volume.grid.along_k == "space":
        flags += _odd(known, dict(zip(names, volumes, strict=True)))
    return Quality(structures, tuple(flags), tally.views, "known" if known else "unknown", _sources(models))


def _sources(models: Sequence[Description]) -> dict[str, Source]:
    """Per measure that can be judged: where its thresholds come from."""
    sources: dict[str, Source] = dict.fromkeys(DEFAULTS, "default")
    return sources | dict.fromkeys((score for score in MEASURES if _learnt(models, score)), "validation")


def _unsure(structures: Mapping[str, StructureQuality], models: Sequence[Description]) -> Iterator[Flag]:
    for name, one in structures.items():
        for score in MEASURES:
            value, learnt = getattr(one, score), _learnt(models, score).get(name)
            threshold = DEFAULTS.get(score) if learnt is None else learnt
            if value is not None and threshold is not None and value < threshold:
                source = "default" if learnt is None else "from validation"
                text = f"{name}: {score.replace('_', ' ')} {value:.2f}, below {threshold:.2f} ({source})"
                yield Flag(UNSURE, score, text, name)


def _unlike(volume: Volume, known: Sequence[Description]) -> Iterator[Flag]:
    if not known:
        return
    quantiles = measure(volume.data)
    told = []
    for model in known:
        seen = look(volume.grid, quantiles, model.stack.plane, model.intensity)
        told.append({} if model.ranges is None else model.ranges.outside(seen, model.channels))
    for about, text in told[0].items():
        if all(about in others for others in told):
            yield Flag(UNLIKE, about, text)


def _odd(known: Sequence[Description], volumes: Mapping[str, float | None]) -> Iterator[Flag]:
    for name, millilitres in volumes.items():
        told = [model.ranges.odd_volume(name, millilitres or 0.0) for model in known if model.ranges is not None]
        if told and all(told):
            yield Flag(VOLUME, "volume", told[0], name)


def _learnt(models: Sequence[Description], measure: str) -> dict[str, float]:
    """Thresholds of a measure that validation gave, per structure: the mean over the models that have one."""
    found: dict[str, list[float]] = {}
    for model in models:
        for name, value in model.thresholds.get(measure, {}).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _millilitres(labels: LabelMap) -> list[float | None]:
    if labels.grid.along_k != "space":
        return [None] * (labels.labels.count - 1)
    voxel = abs(float(np.linalg.det(labels.grid.affine[:3, :3]))) / 1000
    counts = count_values(labels.data)
    return [counts.get(labels.labels.values[name], 0) * voxel for name in labels.labels.names]


def _count(
    mask: Integer[np.ndarray, "..."], classes: int, weights: Float[np.ndarray, "..."] | None = None
) -> np.ndarray[Any, Any]:
    flat = None if weights is None else weights.ravel()
    return np.bincount(mask.ravel(), flat, minlength=classes)


def _ratio(above: np.ndarray[Any, Any], below: np.ndarray[Any, Any]) -> list[float | None]:
    return [float(a / b) if b > 0 else None for a, b in zip(above, below, strict=True)]


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in values.items()}


def _texts(values: Mapping[str, float | None]) -> dict[str, str]:
    return {name: "" if value is None else f"{value:.4f}" for name, value in values.items()}
