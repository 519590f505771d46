"""DDTI: nodules of the thyroid in ultrasound; ``1.xml`` holds the contours of the pictures ``1_1.jpg``, ``1_2.jpg``.

Each ``mark`` of the XML names a picture and lists polygons as JSON in its element ``svg``. A file is a patient, and its
pictures are one group. Pictures on which nobody drew a contour are test cases: whether they show a nodule is not known.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw

from voxelsam import checks, formats
from voxelsam.errors import InputError, LabelError
from voxelsam.layouts import _xml
from voxelsam.layouts._dataset import Case, Dataset, Problems, channels_in, some, visible
from voxelsam.layouts._pictures import by_name
from voxelsam.volumes import LabelMap, Labels, Source

EXPECTS = "1.xml with contours, beside its pictures 1_1.jpg, 1_2.jpg …"
_LABELS = Labels({"background": 0, "nodule": 1})
_PICTURE = re.compile(r"(?P<patient>\d+)_(?P<number>\d+)")

Polygon = tuple[tuple[float, float], ...]


def recognises(root: Path) -> bool:
    """Whether a numbered XML lies beside a picture of the same number."""
    names = {path.name.lower() for path in visible(root)}
    return any(re.fullmatch(r"\d+\.xml", name) and f"{name[:-4]}_1.jpg" in names for name in names)


def read(root: Path) -> Dataset:
    """The data set in a folder; all contours are read.

    Raises:
        InputError: all that is wrong, at once: SET-01 pictures without an XML, XML without pictures, contours of
            pictures that do not exist; SET-03 broken XML; LAB-01 contours that are no polygons.
    """
    problems = Problems(root)
    images = {name: path for name, path in by_name(root, problems).items() if _PICTURE.fullmatch(name)}
    files = {path.stem: path for path in visible(root) if re.fullmatch(r"\d+\.xml", path.name, re.IGNORECASE)}
    patients = {name: name.partition("_")[0] for name in images}
    for name in sorted(images):
        if patients[name] not in files:
            problems.add("SET-01", f"{name}: {images[name]} has no {patients[name]}.xml")
    drawn = _drawn(files, images, problems)
    known = [name for name in sorted(images, key=_order) if patients[name] in files]
    train = [Case(name, (images[name],), files[patients[name]], patients[name], reader="ddti") for name in known]
    train = [case for case in train if case.id in drawn]
    test = [Case(name, (images[name],), None, patients[name]) for name in known if name not in drawn]
    if not train and not test:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    problems.stop()
    if test:
        listed = some([case.id for case in test], 5)
        checks.notice(
            "LAB-03", f"{root}: nobody drew a contour on {len(test)} pictures ({listed}); they are test cases"
        )
    channels, kind = channels_in((*train, *test), ("image",))
    return Dataset(root, "ddti", "DDTI", _LABELS, channels, kind, tuple(train), tuple(test))


def _drawn(files: Mapping[str, Path], images: Mapping[str, Path], problems: Problems) -> set[str]:
    """Names of the pictures that have contours, by the XML of each patient."""
    drawn: set[str] = set()
    for patient, path in sorted(files.items()):
        if not any(name.startswith(f"{patient}_") for name in images):
            problems.add("SET-01", f"{patient}: {path} has no picture {patient}_1.jpg")
        try:
            contours = _contours(path)
        except InputError as error:
            problems.add(error.code, str(error))
            continue
        for number, polygons in contours.items():
            if f"{patient}_{number}" not in images:
                problems.add("SET-01", f"{patient}: {path} has contours of {patient}_{number}.jpg, which is not there")
            elif polygons:
                drawn.add(f"{patient}_{number}")
    return drawn


def read_label(case: Case, labels: Labels) -> LabelMap:
    """The filled contours of a picture, outline included, on its pixels (i the column, j the row).

    Args:
        case: one of this layout's.
        labels: its table.

    Raises:
        FormatError: the picture cannot be read.
        InputError: SET-03, the XML cannot be read.
        LabelError: LAB-01, contours that are no polygons; LAB-03, no contour lies on the picture.
    """
    if case.label is None:
        raise InputError(f"case {case.id} has no label", code="SET-01")
    grid = formats.read(case.images[0]).grid
    match = _PICTURE.fullmatch(case.images[0].stem)
    polygons = _contours(case.label).get(match["number"], ()) if match else ()
    canvas = Image.new("L", grid.shape[:2])
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon(polygon, fill=labels.values["nodule"])
    data = rearrange(np.asarray(canvas), "j i -> i j 1")
    if not data.any():
        raise LabelError(
            f"{case.label}: no contour lies on {case.images[0].name} ({grid.shape[0]} × {grid.shape[1]} pixels); "
            "is it the picture that the contours were drawn on?",
            code="LAB-03",
        )
    return LabelMap(np.ascontiguousarray(data), grid, labels, Source((case.label,), "ddti"))


def _contours(path: Path) -> dict[str, tuple[Polygon, ...]]:
    """Polygons by the number of the picture, whose marks add up.

    Raises:
        InputError: SET-03, the XML cannot be read.
        LabelError: LAB-01, a mark is no list of polygons.
    """
    found: dict[str, tuple[Polygon, ...]] = {}
    for mark in _xml.parse(path).iter("mark"):
        number = str(int(text)) if (text := _text(mark, "image")).isdecimal() else text
        found[number] = (*found.get(number, ()), *_polygons(_text(mark, "svg"), f"{path}, picture {number!r}"))
    return found


def _polygons(text: str, where: str) -> tuple[Polygon, ...]:
    if not text:
        return ()
    try:
        return tuple(_polygon(shape) for shape in json.loads(text))
    except (ValueError, TypeError, KeyError):
        raise LabelError(
            f'{where}: expected contours such as [{{"points": [{{"x": 10, "y": 10}}, …]}}] of three points or more, '
            f"but it holds {text[:60]}",
            code="LAB-01",
        ) from None


def _polygon(shape: Any) -> Polygon:
    points = tuple((float(point["x"]), float(point["y"])) for point in shape["points"])
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError("a polygon has three points or more")
    return points


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _order(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split("_"))
