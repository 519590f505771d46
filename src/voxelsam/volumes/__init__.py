"""Pixels and labels with their place in space; no torch, no file formats."""

from voxelsam.volumes._terms import Code
from voxelsam.volumes.labels import Encoding, Labels, colours_to_labels, count_values
from voxelsam.volumes.pair import check_grids, check_pair
from voxelsam.volumes.volume import Kind, LabelMap, Source, Volume

__all__ = [
    "Code",
    "Encoding",
    "Kind",
    "LabelMap",
    "Labels",
    "Source",
    "Volume",
    "check_grids",
    "check_pair",
    "colours_to_labels",
    "count_values",
]
