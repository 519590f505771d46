"""Geometry: voxel lattices in patient space and the way from one onto another. Nothing here needs torch."""

from voxelsam.space.grid import Grid, Points3, VoxelBox
from voxelsam.space.orientation import PLANES, Plane, Reordering, opposite, plane_of, to_axes
from voxelsam.space.placement import Placement, canonical
from voxelsam.space.resample import resample, resample_labels

__all__ = [
    "PLANES",
    "Grid",
    "Placement",
    "Plane",
    "Points3",
    "Reordering",
    "VoxelBox",
    "canonical",
    "opposite",
    "plane_of",
    "resample",
    "resample_labels",
    "to_axes",
]
