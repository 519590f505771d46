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
from jaxtyping import Bool, Float64, Int32, Int64
from scipy.ndimage import generate_binary_structure, label
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from voxelsam.errors import InputError
from voxelsam.evaluate.surface import joint_box

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
        prediction: two or three axes.
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
    box = joint_box(prediction | reference)
    prediction, reference = prediction[box], reference[box]
    near = generate_binary_structure(prediction.ndim, prediction.ndim)
    (parts, count), (lesions, number) = (label(mask, near) for mask in (prediction, reference))
    sizes = [np.bincount(each.reshape(-1), minlength=most + 1) for each, most in ((lesions, number), (parts, count))]
    both = prediction & reference
    codes, shared = np.unique(lesions[both].astype(np.int64) * (count + 1) + parts[both], return_counts=True)
    pairs = np.stack(np.divmod(codes, count + 1))
    if match == "iou":
        iou = shared / (sizes[0][pairs[0]] + sizes[1][pairs[1]] - shared)
        pairs = _one_to_one(pairs[:, iou >= least_iou], iou[iou >= least_iou])
    linked = [np.isin(np.arange(len(size)), each) for size, each in zip(sizes, pairs, strict=True)]
    large, big = (size[1:] * voxel_volume >= smallest for size in sizes)
    return Lesions(
        reference=int(large.sum()),
        found=int((linked[0][1:] & large).sum()),
        prediction=int(big.sum()),
        right=int((linked[1][1:] & big).sum()),
    )


def _one_to_one(pairs: Int64[np.ndarray, "2 pairs"], iou: Float64[np.ndarray, " pairs"]) -> Int64[np.ndarray, "2 kept"]:
    """The pairs that stay when every lesion and every part has one partner at most."""
    if not iou.size:
        return pairs
    first, second = (np.unique(each, return_inverse=True)[1] for each in pairs)
    nodes = int(first.max()) + int(second.max()) + 2
    links = coo_array((np.ones(iou.size), (first, first.max() + 1 + second)), shape=(nodes, nodes))
    cluster = connected_components(links, directed=False)[1][first]
    order = np.argsort(cluster, kind="stable")
    kept = [_assigned(first[some], second[some], iou[some], some) for some in np.split(order, _starts(cluster[order]))]
    return pairs[:, np.sort(np.concatenate(kept))]


def _starts(sorted_values: Int64[np.ndarray, " n"] | Int32[np.ndarray, " n"]) -> Int64[np.ndarray, " changes"]:
    """Where a new value begins, but the first."""
    return np.flatnonzero(np.diff(sorted_values)) + 1


def _assigned(
    first: Int64[np.ndarray, " n"],
    second: Int64[np.ndarray, " n"],
    iou: Float64[np.ndarray, " n"],
    numbers: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " kept"]:
    """Of pairs that hang together the numbers of those that stay: as many as possible, then the largest sum of IoUs."""
    (rows, row), (columns, column) = (np.unique(each, return_inverse=True) for each in (first, second))
    gain = np.zeros((len(rows), len(columns)))
    gain[row, column] = 1 + iou / (1 + min(gain.shape))
    chosen = np.zeros(gain.shape, bool)
    chosen[linear_sum_assignment(gain, maximize=True)] = True
    return numbers[chosen[row, column]]
