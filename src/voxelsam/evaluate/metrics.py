"""Overlap of two masks, from counts of voxels.

What a score is when the class is in neither mask is a choice that moves means by several points, so it has a name:

    nan   not a number, and left out of every mean (nnU-Net's rule, also called ``nnunet``)
    one   1 (MA-SAM's released rule, also called ``ma_sam``); lifts the mean of classes that are often absent
    zero  0

Under every rule a class that is in exactly one of the two masks scores 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from voxelsam.errors import ConfigError, InputError

Empty = Literal["nan", "one", "zero"]
"""Score of a class that is in neither mask."""

_VALUES: dict[Empty, float] = {"nan": float("nan"), "one": 1.0, "zero": 0.0}
_NAMES: dict[str, Empty] = {"nan": "nan", "one": "one", "zero": "zero", "nnunet": "nan", "ma_sam": "one"}
_CHUNK = 1 << 22
_IOU_SMOOTH, _DICE_SMOOTH = 1e-6, 1e-4


@dataclass(frozen=True)
class Counts:
    """Voxels of one class in one case."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def predicted(self) -> int:
        """Voxels of the class in the prediction."""
        return self.tp + self.fp

    @property
    def present(self) -> int:
        """Voxels of the class in the reference."""
        return self.tp + self.fn

    @property
    def both_empty(self) -> bool:
        """The class is in neither mask."""
        return self.tp + self.fp + self.fn == 0

    def dice(self, empty: Empty) -> float:
        """2 TP / (2 TP + FP + FN), 0..1."""
        return _VALUES[empty] if self.both_empty else 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    def iou(self, empty: Empty) -> float:
        """TP / (TP + FP + FN), 0..1."""
        return _VALUES[empty] if self.both_empty else self.tp / (self.tp + self.fp + self.fn)


def empty_rule(name: str) -> Empty:
    """The rule of that name or preset.

    Raises:
        ConfigError: there is none.
    """
    if name not in _NAMES:
        raise ConfigError(f"no rule {name!r} for classes that are in neither mask; there are: {', '.join(_NAMES)}")
    return _NAMES[name]


def count(
    prediction: Bool[np.ndarray, "*axes"],
    reference: Bool[np.ndarray, "*axes"],
    counted: Bool[np.ndarray, "*axes"] | None = None,
) -> Counts:
    """Voxels of two masks of the same shape.

    Args:
        prediction: voxels of the class.
        reference: the same.
        counted: voxels that take part, all others being in neither mask; None for all.
    """
    tp = int(np.count_nonzero(prediction & reference))
    predicted, present = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    size = prediction.size if counted is None else int(np.count_nonzero(counted))
    return Counts(tp, predicted - tp, present - tp, size - predicted - present + tp)


def dice(prediction: Bool[np.ndarray, "*axes"], reference: Bool[np.ndarray, "*axes"], *, empty: str = "nan") -> float:
    """Dice coefficient of two masks of the same shape, 0..1; ``empty`` names the rule for two empty ones."""
    return count(prediction, reference).dice(empty_rule(empty))


def iou(prediction: Bool[np.ndarray, "*axes"], reference: Bool[np.ndarray, "*axes"], *, empty: str = "nan") -> float:
    """Intersection over union of two masks of the same shape, 0..1; ``empty`` as for :func:`dice`."""
    return count(prediction, reference).iou(empty_rule(empty))


def count_classes(
    prediction: Integer[np.ndarray, "*axes"],
    reference: Integer[np.ndarray, "*axes"],
    classes: int,
    counted: Bool[np.ndarray, "*axes"] | None = None,
) -> tuple[Counts, ...]:
    """Counts of every class in one pass over the voxels, background first.

    Args:
        prediction: class indices, all below ``classes`` where counted.
        reference: the same.
        classes: how many there are, background included.
        counted: voxels that take part; None for all.
    """
    table = _confusion(prediction.reshape(-1), reference.reshape(-1), classes, counted)
    hits, present, predicted = np.diagonal(table), table.sum(axis=1), table.sum(axis=0)
    voxels = int(table.sum())
    return tuple(
        Counts(tp, fp=p - tp, fn=r - tp, tn=voxels - p - r + tp)
        for tp, p, r in zip(hits.tolist(), predicted.tolist(), present.tolist(), strict=True)
    )


@dataclass(frozen=True)
class Overlap:
    """Agreement of soft masks, each value 0..1."""

    iou: float
    dice: float


def multi_threshold(
    probability: Float[np.ndarray, "images ..."],
    reference: Float[np.ndarray, "images ..."],
    thresholds: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
) -> Overlap:
    """Med-SA's overlap of soft masks with the mean of several raters (arXiv 2304.12620, code), for comparison with it.

    Prediction and reference are cut at the same threshold; IoU and Dice are means over images and thresholds. Counts
    are smoothed, so that an image that is rightly empty scores 1. An image is whatever lies along the first axis, a
    slice for volumes, so that many empty slices lift the mean.

    Args:
        probability: 0..1, after the sigmoid.
        reference: 0..1, the share of raters who marked the pixel.
        thresholds: a pixel belongs to the mask above it.

    Raises:
        InputError: other values, arrays of different shapes or without images, or no threshold.
    """
    if probability.shape != reference.shape or probability.size == 0:
        raise InputError(
            f"overlap needs two arrays of the same images, but {probability.shape} and {reference.shape} came"
        )
    for name, values in (("prediction", probability), ("reference", reference)):
        if not (values.min() >= 0 and values.max() <= 1):
            raise InputError(
                f"the {name} holds values from 0 to 1, but these run from {values.min()} to {values.max()}"
            )
    if not thresholds:
        raise InputError("overlap needs at least one threshold, for example 0.5")
    parts = [_smooth_overlap(probability > threshold, reference > threshold) for threshold in thresholds]
    iou_mean, dice_mean = np.mean(parts, axis=(0, 2)).tolist()
    return Overlap(iou_mean, dice_mean)


def _smooth_overlap(
    prediction: Bool[np.ndarray, "images ..."], reference: Bool[np.ndarray, "images ..."]
) -> Float[np.ndarray, "two images"]:
    """IoU and Dice of each image."""
    axes = tuple(range(1, prediction.ndim))
    both, either = ((prediction & reference).sum(axes), (prediction | reference).sum(axes))
    return np.stack(
        (
            (both + _IOU_SMOOTH) / (either + _IOU_SMOOTH),
            (2 * both + _DICE_SMOOTH) / (both + either + _DICE_SMOOTH),
        )
    )


def _confusion(
    prediction: Integer[np.ndarray, " n"],
    reference: Integer[np.ndarray, " n"],
    classes: int,
    counted: Bool[np.ndarray, "*axes"] | None,
) -> Int64[np.ndarray, "classes classes"]:
    """Voxels by reference class (rows) and predicted class (columns)."""
    chosen = None if counted is None else counted.reshape(-1)
    total = np.zeros(classes * classes, dtype=np.int64)
    for start in range(0, prediction.size, _CHUNK):  # indices take 8 bytes per voxel, so never all at once
        part = slice(start, start + _CHUNK)
        index = reference[part].astype(np.int64) * classes + prediction[part]
        total += np.bincount(index if chosen is None else index[chosen[part]], minlength=classes * classes)
    return total.reshape(classes, classes)
