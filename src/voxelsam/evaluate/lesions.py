"""Detection of lesions: which separate parts of a structure were found.

A lesion is a connected part of the mask; voxels that share a corner are connected (26 neighbours, 8 on two axes). Two
rules say which parts of prediction and reference belong together:

    overlap  a lesion of the reference is found, and a part of the prediction is right, if one voxel of it lies in the
             other mask (WMH segmentation challenge, arXiv 1904.00682); one part may find several lesions
    iou      parts are paired one to one so that as many pairs as possible have at least a certain IoU, and among those
             the sum of IoUs is largest (panoptic quality's matching where the IoU is above 0.5)

Sensitivity is the share of the reference's lesions that were found, precision the share of the prediction's parts that
are right, F1 their harmonic mean. Parts below a certain size are not counted, neither as lesions nor as mistakes, but
may still find a lesion or be one that was found.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.ndimage import generate_binary_structure, label
from scipy.optimize import linear_sum_assignment

from voxelsam.errors import InputError

Match = Literal["overlap", "iou"]
"""When a part of the prediction belongs to a lesion of the reference."""

Mask = Bool[np.ndarray, "*axes"]


@dataclass(frozen=True)
class Lesions:
    """Numbers of parts of one structure in one case; those below the smallest size are in none."""

    reference: int
    """Lesions in the reference."""
    found: int
    """Of these, with a match in the prediction."""
    prediction: int
    """Parts of the prediction."""
    right: int
    """Of these, with a match in the reference."""

    @property
    def sensitivity(self) -> float:
        """Share of lesions that were found; NaN without lesions."""
        return self.found / self.reference if self.reference else math.nan

    @property
    def precision(self) -> float:
        """Share of predicted parts that are right; NaN without parts."""
        return self.right / self.prediction if self.prediction else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where only one mask has lesions, NaN where neither has."""
        if not self.reference and not self.prediction:
            return math.nan
        if not self.found or not self.right:
            return 0.0
        return 2 * self.precision * self.sensitivity / (self.precision + self.sensitivity)


def detect(
    prediction: Mask,
    reference: Mask,
    voxel_volume: float,
    *,
    smallest: float = 0.0,
    match: Match = "overlap",
    least_iou: float = 0.1,
) -> Lesions:
    """Counts lesions and matches.

    Args:
        prediction: any number of axes.
        reference: of the same shape.
        voxel_volume: mm³ of one voxel.
        smallest: mm³; parts below it are not counted.
        match: the rule.
        least_iou: of a pair, where ``match`` is ``iou``; above 0, at most 1.

    Raises:
        InputError: shapes differ, or a number is out of range.
    """
    if prediction.shape != reference.shape:
        raise InputError(f"lesions need two masks of one shape, but {prediction.shape} and {reference.shape} came")
    if not 0 < voxel_volume < math.inf or not 0 <= smallest < math.inf or not 0 < least_iou <= 1:
        raise InputError(
            "lesions need a voxel volume above 0, a smallest size of 0 or more and an IoU above 0 and at most 1, but "
            f"{voxel_volume}, {smallest} and {least_iou} came"
        )
    near = generate_binary_structure(prediction.ndim, prediction.ndim)
    (parts, count), (lesions, number) = (label(mask, near) for mask in (prediction, reference))
    both = prediction & reference
    shared = np.zeros((number + 1, count + 1), np.int64)
    np.add.at(shared, (lesions[both], parts[both]), 1)
    sizes = [
        np.bincount(each.reshape(-1), minlength=most + 1)[1:] for each, most in ((lesions, number), (parts, count))
    ]
    pairs = shared[1:, 1:]
    linked = pairs > 0 if match == "overlap" else _paired(pairs, *sizes, least_iou)
    large, big = (size * voxel_volume >= smallest for size in sizes)
    return Lesions(
        reference=int(large.sum()),
        found=int((linked.any(axis=1) & large).sum()),
        prediction=int(big.sum()),
        right=int((linked.any(axis=0) & big).sum()),
    )


def _paired(
    shared: Int64[np.ndarray, "lesions parts"],
    lesions: Int64[np.ndarray, " lesions"],
    parts: Int64[np.ndarray, " parts"],
    least: float,
) -> Bool[np.ndarray, "lesions parts"]:
    """Which lesion goes with which part, one to one."""
    iou: Float64[np.ndarray, "lesions parts"] = shared / (lesions[:, None] + parts[None] - shared)
    linked = np.zeros(shared.shape, bool)
    allowed = iou >= least
    rows, columns = linear_sum_assignment(np.where(allowed, 1 + iou / (1 + min(shared.shape)), 0), maximize=True)
    linked[rows, columns] = allowed[rows, columns]
    return linked
