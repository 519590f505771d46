"""Between volumes and tensors: which slices go together, their size and grey values, and the way back."""

from voxelsam.stacks.cut import StackBatch, cut, cut_labels
from voxelsam.stacks.frame import FrameMap, frame_to_model, labels_to_model, scores_to_slice
from voxelsam.stacks.intensity import (
    CT_ABDOMEN,
    CT_PANCREAS,
    DEFAULTS,
    MR,
    MR_PROSTATE,
    PICTURE,
    Intensity,
    Scale,
    to_three,
)
from voxelsam.stacks.merge import Merger
from voxelsam.stacks.plan import StackPlan

__all__ = [
    "CT_ABDOMEN",
    "CT_PANCREAS",
    "DEFAULTS",
    "MR",
    "MR_PROSTATE",
    "PICTURE",
    "FrameMap",
    "Intensity",
    "Merger",
    "Scale",
    "StackBatch",
    "StackPlan",
    "cut",
    "cut_labels",
    "frame_to_model",
    "labels_to_model",
    "scores_to_slice",
    "to_three",
]
