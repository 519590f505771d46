"""Names and colours in 3D Slicer's segmentations (``.seg.nrrd``): key/value pairs of an NRRD.

Voxels hold a value for each segment. Segments that overlap are in layers, one volume each; the values of two layers
have nothing to do with each other. Files of older versions have one layer, of ones, for each segment.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from voxelsam import checks
from voxelsam.errors import LabelError
from voxelsam.formats._values import Array
from voxelsam.types import LabelArray
from voxelsam.volumes._terms import PRIVATE, Code, Side, code_of
from voxelsam.volumes.labels import IGNORE_NAME, LARGEST, Labels
from voxelsam.volumes.volume import LabelMap

_KEY = re.compile(r"Segment(\d+)_(ID|Name|LabelValue|Layer)")
_UNNAMED = re.compile(r"Segment_\d+")
_HEALTHY, _ABNORMAL = "SCT^123037004^Anatomical Structure", "SCT^49755003^Morphologically Altered Structure"
_SIDES: dict[Side, str] = {"": "^^", "left": "SCT^7771000^Left", "right": "SCT^24028007^Right"}


@dataclass(frozen=True)
class Segment:
    """One structure of a file."""

    name: str
    layer: int
    value: int
    code: Code | None
    """What it is, in a term that other programs know."""


def segments_of(path: Path, keys: Mapping[str, str], layered: bool) -> tuple[Segment, ...]:
    """What a file says about its segments; none if it is no segmentation.

    Args:
        path: The file, for messages.
        keys: Its key/value pairs.
        layered: Whether it holds several volumes.

    Raises:
        LabelError: LAB-01, it holds fractions; LAB-02, a segment has no label value that can be.
    """
    numbers = sorted({int(found[1]) for key in keys if (found := _KEY.fullmatch(key))})
    kind = keys.get("Segmentation_MasterRepresentation", keys.get("Segmentation_SourceRepresentation", ""))
    if numbers and "fractional" in kind.lower():
        raise LabelError(f"{path}: a segmentation of fractions; export a binary label map", code="LAB-01")
    return tuple(_segment(path, keys, number, number if layered else 0) for number in numbers)


def merged(
    path: Path, layers: Integer[np.ndarray, "layers i j k"], segments: Sequence[Segment]
) -> tuple[Array, Labels]:
    """All layers as one label array, and its table.

    Values stay as they are if no two segments share one; else segments count from 1.

    Raises:
        LabelError: LAB-02, two segments of a layer share a value, or there is no such layer; LAB-05, segments overlap,
            and that is not accepted; then the later one wins.
    """
    places = [(segment.layer, segment.value) for segment in segments]
    if len(set(places)) < len(places) or any(layer >= len(layers) for layer, _ in places):
        raise LabelError(f"{path}: two segments share a place, or name a layer that is not there", code="LAB-02")
    if len({segment.value for segment in segments}) == len(segments):
        values = [segment.value for segment in segments]
    else:
        values = list(range(1, len(segments) + 1))
    table = _table(path, segments, values)
    if len(layers) == 1:
        return layers[0], table
    whole = np.zeros(layers.shape[1:], np.uint16)
    for segment, value in zip(segments, values, strict=True):
        here = layers[segment.layer] == segment.value
        if taken := np.unique(whole[here & (whole > 0)]).tolist():
            others = ", ".join(repr(segments[values.index(number)].name) for number in taken)
            checks.refuse(
                "LAB-05",
                f"{path}: the segments {segment.name!r} and {others} overlap, and a label map holds one value for each "
                "voxel; let them not overlap, export each to a file of its own, or accept that the later one wins",
                LabelError,
            )
        whole[here] = value
    return whole, table


def in_table(path: Path, values: Array, own: Labels, labels: Labels) -> Array:
    """Values of a file's own table as those of another one, by the names.

    Names that the program made up (``Segment_1``) mean nothing: then numbers count.

    Raises:
        LabelError: LAB-04, the file has names that the table does not know, and that is not accepted; then numbers
            count.
    """
    names = {name: value for name, value in own.values.items() if value and (values == value).any()}
    if all(_UNNAMED.fullmatch(name) for name in names):
        return values
    if unknown := [name for name in names if name not in labels.values]:
        checks.refuse(
            "LAB-04",
            f"{path}: its segments {', '.join(map(repr, unknown))} are not in the label table, which has "
            f"{', '.join(map(repr, labels.names))}; rename one of the two",
            LabelError,
        )
        return values
    if all(labels.values[name] == value for name, value in names.items()):
        return values
    known = {*names.values(), 0, *([] if own.ignore is None else [own.ignore])}
    numbers = np.array(values, np.int64)
    for name, value in names.items():
        numbers[values == value] = labels.values[name]
    if own.ignore is not None and labels.ignore is not None:
        numbers[values == own.ignore] = labels.ignore
    strange = ~np.isin(values, list(known))
    if strange.any():
        raise LabelError(f"{path}: {int(strange.sum())} voxels belong to no segment", code="LAB-02")
    return numbers


def keys_for(label_map: LabelMap) -> dict[str, str]:
    """The key/value pairs by which 3D Slicer shows a label map with names and colours."""
    keys = dict[str, str]()
    table = label_map.labels
    every = [(name, value) for name, value in table.values.items() if value]
    every += [] if table.ignore is None else [(IGNORE_NAME, table.ignore)]
    for number, (name, value) in enumerate(every):
        fields = {
            "Color": " ".join(f"{part / 255:.6g}" for part in table.colour(value)),
            "ColorAutoGenerated": "0",
            "Extent": _extent(label_map.data == value),
            "ID": f"Segment_{value}",
            "LabelValue": str(value),
            "Layer": "0",
            "Name": name,
            "NameAutoGenerated": "0",
            "Tags": _tags(table, name),
        }
        keys |= {f"Segment{number}_{key}": text for key, text in fields.items()}
    return keys | {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": "",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }


def _tags(table: Labels, name: str) -> str:
    """Slicer's terminology of a structure that has a public code."""
    code = table.code(name) if name in table.names else None
    if code is None or code.scheme == PRIVATE:
        return "|"
    term = "^".join(re.sub(r"[~^|]", " ", part) for part in (code.scheme, code.value, code.meaning))
    parts = (
        "Segmentation category and type - DICOM master list",
        _ABNORMAL if code.abnormal else _HEALTHY,
        term,
        _SIDES[code.side],
        "Anatomic codes - DICOM master list",
        "^^",
        "^^",
    )
    return f"TerminologyEntry:{'~'.join(parts)}|"


def _code(tags: str) -> Code | None:
    """The code that a segment's tags give, if they give one that DICOM allows."""
    entry = next((tag for tag in tags.split("|") if tag.startswith("TerminologyEntry:")), "")
    parts = [part.split("^") for part in entry.split("~")[1:4]]
    if len(parts) < 3 or any(len(part) != 3 for part in parts):
        return None
    scheme, value, meaning = parts[1]
    side: Side = next((side for side, text in _SIDES.items() if text.split("^")[1] == parts[2][1]), "")
    try:
        return Code(value, scheme, meaning, side, parts[0][1] == _ABNORMAL.split("^")[1])
    except LabelError:
        return None


def _extent(mask: LabelArray | np.ndarray[Any, Any]) -> str:
    """First and last voxel along each axis; ``0 -1`` for nothing, as Slicer has it."""
    ends = []
    for axis in range(3):
        here = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends += [here[0], here[-1]] if here.size else [0, -1]
    return " ".join(str(int(end)) for end in ends)


def _segment(path: Path, keys: Mapping[str, str], number: int, layer: int) -> Segment:
    name = keys.get(f"Segment{number}_Name") or keys.get(f"Segment{number}_ID") or f"Segment_{number}"
    found = {}
    for key, default in (("LabelValue", 1), ("Layer", layer)):
        text = keys.get(f"Segment{number}_{key}", str(default)).strip()
        if not (text.isascii() and text.isdecimal()):
            raise LabelError(
                f"{path}: {key} of the segment {name!r} should be a number, but is {text!r}", code="LAB-02"
            )
        found[key] = int(text[:9])
    if not 0 < found["LabelValue"] <= LARGEST:
        raise LabelError(
            f"{path}: the segment {name!r} should have a label value from 1 to {LARGEST}, but has "
            f"{found['LabelValue']}",
            code="LAB-02",
        )
    return Segment(name, found["Layer"], found["LabelValue"], _code(keys.get(f"Segment{number}_Tags", "")))


def _table(path: Path, segments: Sequence[Segment], values: Sequence[int]) -> Labels:
    """A table whose names differ."""
    table = {"background": 0}
    codes = {}
    ignore = None
    for segment, value in zip(segments, values, strict=True):
        name = segment.name
        if name == IGNORE_NAME and ignore is None:
            ignore = value
            continue
        unique = name if name not in table else f"{name}_{value}"
        if unique != name:
            checks.notice("LAB-04", f"{path}: two segments are called {name!r}; the one of {value} becomes {unique!r}")
        table[unique] = value
        if segment.code is not None and segment.code != code_of(unique):
            codes[unique] = segment.code
    return Labels(table, ignore, codes=codes)
