"""Prompts in a file (JSON, version 1), and on the command line.

A file is about one scan (``prompts``) or about several (``cases``, by name). It may say which scan it is about: name,
shape and affine are compared with the scan at hand, and a file for another one is refused. Masks are written into the
file as runs: how many voxels are false, then true, then false …, i running fastest. A file may also name a label file
beside it and the value that stands for the object.

Everything that is wrong is told at once. Paths in messages count from 1, as the numbers of prompts do.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from voxelsam.errors import InputError, PromptError
from voxelsam.files import write_text
from voxelsam.prompts.prompt import (
    LIMIT,
    Box,
    Mask,
    Point,
    Problem,
    Prompt,
    Prompts,
    Scribble,
    Space,
    Target,
    Vector,
    refuse,
    times,
    unfit,
)
from voxelsam.space import Grid
from voxelsam.volumes import LabelMap, Labels, check_grids

VERSION = 1
"""Of the format; newer ones are refused."""

ReadMask = Callable[[Path], LabelMap]
"""What reads the label files that a prompt file names, e.g. ``voxelsam.formats.read_labels``."""

_RULES: Any = {"extra": "forbid", "strict": True, "allow_inf_nan": False, "use_attribute_docstrings": True}
_APART = 0.5
"""Voxels by which corners may differ in two descriptions of one scan."""
_DIGITS = 9
"""Digits of an affine in a file."""
_SHOWN = 60
"""Characters of a wrong value that a message repeats."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

_Label = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class PointItem:
    """A click."""

    __pydantic_config__ = _RULES

    type: Literal["point"]
    at: Vector
    """Where: i, j, k or x, y, z."""
    label: _Label
    """Name of the structure."""
    instance: _Positive = 1
    """Which object of that structure."""
    inside: bool = True
    """False: the object is not here."""
    space: Space = "voxel"
    """What the coordinates are."""

    def __post_init__(self) -> None:
        _as_complaint(self.prompt)

    def prompt(self) -> Point:
        """The prompt that is meant."""
        return Point(self.at, Target(self.label, self.instance), self.inside, self.space)


@dataclass(frozen=True, kw_only=True)
class BoxItem:
    """A box; in voxels it is half open, in millimetres it has edges."""

    __pydantic_config__ = _RULES

    type: Literal["box"]
    low: Vector
    """The corner of the lowest coordinates; in voxels the first voxel inside."""
    high: Vector
    """The corner of the highest coordinates; in voxels the first voxel beyond."""
    label: _Label
    """Name of the structure."""
    instance: _Positive = 1
    """Which object of that structure."""
    space: Space = "voxel"
    """What the coordinates are."""

    def __post_init__(self) -> None:
        _as_complaint(self.prompt)

    def prompt(self) -> Box:
        """The prompt that is meant."""
        return Box(self.low, self.high, Target(self.label, self.instance), self.space)


@dataclass(frozen=True, kw_only=True)
class ScribbleItem:
    """A line."""

    __pydantic_config__ = _RULES

    type: Literal["scribble"]
    points: Annotated[tuple[Vector, ...], Field(min_length=1, max_length=LIMIT)]
    """Corners of the line."""
    label: _Label
    """Name of the structure."""
    instance: _Positive = 1
    """Which object of that structure."""
    inside: bool = True
    """False: the object is not here."""
    space: Space = "voxel"
    """What the coordinates are."""

    def __post_init__(self) -> None:
        _as_complaint(self.prompt)

    def prompt(self) -> Scribble:
        """The prompt that is meant."""
        return Scribble(self.points, Target(self.label, self.instance), self.inside, self.space)


@dataclass(frozen=True, kw_only=True)
class MaskItem:
    """A mask on the voxels of the scan: either runs, or a label file and a value."""

    __pydantic_config__ = _RULES

    type: Literal["mask"]
    label: _Label
    """Name of the structure."""
    instance: _Positive = 1
    """Which object of that structure."""
    runs: tuple[_Count, ...] | None = None
    """How many voxels are false, then true, then false and so on; i runs fastest, then j, then k."""
    file: _Label | None = None
    """A label file; its path begins at the folder of the prompt file."""
    value: _Count | None = None
    """The value in the label file that stands for the object."""

    def __post_init__(self) -> None:
        if (self.runs is None) == (self.file is None) or (self.file is None) != (self.value is None):
            raise ValueError("a mask has either runs, or both file and value")


Item = Annotated[PointItem | BoxItem | ScribbleItem | MaskItem, Field(discriminator="type")]

_Row = tuple[float, float, float, float]
_Rows = tuple[_Row, _Row, _Row, _Row]


def _usable(affine: _Rows) -> _Rows:
    _as_complaint(lambda: Grid((1, 1, 1), np.array(affine)))
    return affine


_Affine = Annotated[_Rows, AfterValidator(_usable)]


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The prompts of one scan, and which scan that is."""

    __pydantic_config__ = _RULES

    image: str | None = None
    """Name of the scan's file; compared where the name of the scan at hand is known."""
    shape: tuple[_Positive, _Positive, _Positive] | None = None
    """Voxels along i, j, k."""
    affine: _Affine | None = None
    """Index of a voxel centre to millimetres, RAS+; corners may differ by half a voxel."""
    prompts: Annotated[tuple[Item, ...], Field(max_length=LIMIT)]


@dataclass(frozen=True, kw_only=True)
class OneScan(Scan):
    """A file about one scan."""

    __pydantic_config__ = _RULES

    version: Literal[1]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A file about several scans."""

    __pydantic_config__ = _RULES

    version: Literal[1]
    cases: dict[str, Scan]
    """By the name of the case."""


@dataclass(frozen=True)
class PromptFile:
    """A valid prompt file that has been read; no scan has been compared yet."""

    path: Path
    scans: Mapping[str, Scan]
    """By the name of the case; a file about one scan has the name ``""`` only."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases; none in a file about one scan."""
        return tuple(name for name in self.scans if name)

    def prompts(
        self, grid: Grid, *, case: str = "", image: str | None = None, read_mask: ReadMask | None = None
    ) -> Prompts:
        """The prompts of one scan.

        Args:
            grid: of the scan at hand.
            case: its name in a file about several scans.
            image: name of its file, folders do not matter; None: not compared.
            read_mask: what reads label files; None: they are refused.

        Raises:
            PromptError: PRM-08, the file is about another scan or does not know the case; PRM-07, a mask cannot be
                read; PRM-06, a mask has another shape than the scan.
        """
        where = f"{self.path}, case {case}" if case else str(self.path)
        scan = self._scan(case)
        refuse(f"{where} is about another scan", list(_differences(scan, grid, image)))
        items: list[Prompt] = []
        problems: list[Problem] = []
        for number, item in enumerate(scan.prompts, 1):
            try:
                items.append(
                    _mask(item, grid, self.path.parent, read_mask) if isinstance(item, MaskItem) else item.prompt()
                )
            except InputError as error:
                problems.append((error.code or "PRM-07", f"prompt {number} (mask of {item.label}): {error}"))
        refuse(f"{where}: masks cannot be used", problems)
        return Prompts(tuple(items))

    def _scan(self, case: str) -> Scan:
        if case in self.scans:
            return self.scans[case]
        if not self.cases:
            raise PromptError(
                f"{self.path} is about one scan and knows no cases, but {case!r} was asked for; a file about several "
                'scans has {"cases": {NAME: ...}}',
                code="PRM-08",
            )
        asked = f"nothing about the case {case!r}" if case else "prompts of several cases, and none was chosen"
        raise PromptError(f"{self.path} has {asked}; its cases are {', '.join(self.cases)}", code="PRM-08")


def load(path: Path) -> PromptFile:
    """Reads a prompt file and checks its form.

    Raises:
        PromptError: PRM-07, the file cannot be read, is not valid JSON, or is no valid prompt file: every unknown or
            missing key and every wrong value with its path.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text, parse_constant=_no_number, object_pairs_hook=_each_key_once)
    except OSError as error:
        raise PromptError(f"cannot read the prompts {path}: {error.strerror}", code="PRM-07") from None
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{path} is not valid JSON: {error}", code="PRM-07") from None
    if not isinstance(values, dict):
        raise PromptError(
            f'{path} must hold {{"version": {VERSION}, "prompts": [...]}}, but holds a {type(values).__name__}',
            code="PRM-07",
        )
    version = values.get("version")
    if isinstance(version, int) and version > VERSION:
        raise PromptError(
            f"{path} has version {version} of the format, which is newer than {VERSION}; use a newer voxelsam",
            code="PRM-07",
        )
    form: type[OneScan | Cohort] = Cohort if "cases" in values else OneScan
    try:
        read_ = TypeAdapter[OneScan | Cohort](form).validate_json(text)
    except ValidationError as error:
        problems = [("PRM-07", _complaint(item)) for item in error.errors()]
        refuse(f"{path} is no valid prompt file", problems)
        raise
    return PromptFile(path, read_.cases if isinstance(read_, Cohort) else {"": read_})


def read(
    path: Path, grid: Grid, *, case: str = "", image: str | None = None, read_mask: ReadMask | None = None
) -> Prompts:
    """The prompts of one scan in a file, see :meth:`PromptFile.prompts`.

    Raises:
        PromptError: as :func:`load` and :meth:`PromptFile.prompts`.
    """
    return load(path).prompts(grid, case=case, image=image, read_mask=read_mask)


def write(path: Path, prompts: Prompts, image: str, grid: Grid) -> None:
    """Writes the prompts of one scan, whole or not at all; :func:`read` gives them back as they are.

    Args:
        path: an existing file is replaced.
        prompts: what was said.
        image: name of the scan's file (several: separated by commas); folders are left out.
        grid: of the scan.

    Raises:
        PromptError: PRM-06, a mask has another shape than the scan.
        OutputError: the file cannot be written.
    """
    refuse("the prompts cannot be written", list(_unfit(prompts, grid)))
    write_text(path, _text({"version": VERSION, **_scan_record(prompts, image, grid)}) + "\n")


def write_cohort(path: Path, cases: Mapping[str, tuple[Prompts, str, Grid]]) -> None:
    """Writes the prompts of several scans, whole or not at all.

    Args:
        path: an existing file is replaced.
        cases: for the name of each case the prompts, the name of the scan's file, and the scan's grid.

    Raises:
        PromptError: PRM-06, a mask has another shape than its scan; PRM-08, a case has no name.
        OutputError: the file cannot be written.
    """
    if "" in cases:
        raise PromptError("a case needs a name, but one has none", code="PRM-08")
    problems = [
        (code, f"case {name}, {text}")
        for name, (prompts, _, grid) in cases.items()
        for code, text in _unfit(prompts, grid)
    ]
    refuse("the prompts cannot be written", problems)
    record = {"version": VERSION, "cases": {name: _scan_record(*case) for name, case in cases.items()}}
    write_text(path, _text(record) + "\n")


def schema() -> dict[str, Any]:
    """The JSON schema of prompt files, as published in ``docs/reference``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "voxelsam prompts",
        **TypeAdapter[OneScan | Cohort](OneScan | Cohort).json_schema(),
    }


def point_of(text: str, labels: Labels, grid: Grid, *, space: Space = "voxel", inside: bool = True) -> Point:
    """A point as typed on the command line: ``x,y,z[,label]``, in a single picture also ``x,y[,label]``.

    Args:
        text: the coordinates and, unless there is one structure only, the structure.
        labels: the structures that can be prompted.
        grid: of the scan.
        space: what the coordinates are.
        inside: False: the object is not here.

    Raises:
        PromptError: PRM-01, the text is no point; PRM-03, the structure is missing.
    """
    (at,), label = _typed("point", text, ("x,y", "x,y,z"), labels, grid, space)
    return Point(_padded(at, 0), Target(label), inside, space)


def box_of(text: str, labels: Labels, grid: Grid, *, space: Space = "voxel") -> Box:
    """A box as typed on the command line: ``x0,y0,z0,x1,y1,z1[,label]``, in a picture also ``x0,y0,x1,y1[,label]``.

    Args:
        text: the low corner, the high corner and, unless there is one structure only, the structure.
        labels: the structures that can be prompted.
        grid: of the scan.
        space: what the coordinates are.

    Raises:
        PromptError: PRM-01, the text is no box; PRM-03, the structure is missing.
    """
    (low, high), label = _typed("box", text, ("x0,y0,x1,y1", "x0,y0,z0,x1,y1,z1"), labels, grid, space)
    return Box(_padded(low, 0), _padded(high, 1), Target(label), space)


def _typed(
    what: str, text: str, forms: tuple[str, str], labels: Labels, grid: Grid, space: Space
) -> tuple[list[list[float]], str]:
    """The corners, of two or three coordinates each, and the structure."""
    fields = [field.strip() for field in text.split(",")]
    flat, full = (form.count(",") + 1 for form in forms)
    count = 0
    while count < min(full, len(fields)) and _NUMBER.fullmatch(fields[count]):
        count += 1
    two = grid.shape[2] == 1 and space == "voxel"
    if count != full and not (two and count == flat):
        wanted = " or ".join(f"{form}[,label]" for form in (forms if two else forms[1:]))
        hint = "" if two or count != flat else "; two coordinates are enough in a single picture and in voxels only"
        raise PromptError(f"a {what} here is {wanted}, but {text!r} came{hint}", code="PRM-01")
    numbers = [float(field) for field in fields[:count]]
    axes = 3 if count == full else 2
    label = ",".join(text.split(",")[count:]).strip()
    if not label and len(labels.names) != 1:
        raise PromptError(
            f"{what} {text!r}: say which structure is meant, as {forms[axes - 2]},label with one of "
            f"{', '.join(labels.names)}",
            code="PRM-03",
        )
    return [numbers[begin : begin + axes] for begin in range(0, count, axes)], label or labels.names[0]


def _padded(corner: list[float], last: float) -> Vector:
    """Three coordinates, the third one filled in where there are two."""
    x, y, z = (*corner, last)[:3]
    return x, y, z


def _as_complaint(make: Callable[[], object]) -> None:
    """Turns a refusal into a complaint about its place in the file."""
    try:
        make()
    except InputError as error:
        raise ValueError(str(error)) from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"the key {', '.join(twice)} occurs twice in one place")
    return dict(pairs)


def _complaint(item: Any) -> str:
    """One line about one thing that is wrong, with its path."""
    path = _path(item["loc"])
    if item["type"] == "unexpected_keyword_argument":
        return f"{path}: unknown key"
    if item["type"] == "missing":
        return f"{path}: missing"
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"{path}.type: one of point, box, scribble, mask"
    if item["type"] == "value_error":
        return f"{path}: {item['ctx']['error']}"
    shown = repr(item["input"])
    return f"{path}: {item['msg']} (got {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''})"


def _path(location: tuple[int | str, ...]) -> str:
    """Numbers count from 1; the type of a prompt, which comes after its number, is left out."""
    parts = []
    for place, part in enumerate(location):
        before = location[max(place - 2, 0) : place]
        if len(before) == 2 and before[0] == "prompts" and isinstance(before[1], int):
            continue
        parts.append(str(part + 1) if isinstance(part, int) else part)
    return ".".join(parts)


def _differences(scan: Scan, grid: Grid, image: str | None) -> Iterator[Problem]:
    if scan.image and image and _names(scan.image) != _names(image):
        yield "PRM-08", f"it was written for {_names(scan.image)}, but {_names(image)} came"
    if scan.shape is not None and scan.shape != grid.shape:
        yield "PRM-08", f"it was written for {times(scan.shape)} voxels, but the scan has {times(grid.shape)}"
    elif scan.affine is not None:
        other = Grid(grid.shape, np.array(scan.affine), grid.along_k)
        apart = np.abs(grid.to_index(other.corners()) - grid.to_index(grid.corners())).max()
        if apart > _APART:
            yield "PRM-08", f"it was written for a scan in another place: corners lie {apart:.3g} voxels apart"


def _mask(item: MaskItem, grid: Grid, folder: Path, read_mask: ReadMask | None) -> Mask:
    target = Target(item.label, item.instance)
    if item.runs is not None:
        return Mask(_of_runs(item.runs, grid), target)
    name = str(item.file)
    if read_mask is None:
        raise PromptError(f"it names the label file {name}, but label files cannot be read here", code="PRM-07")
    found = read_mask(folder / name)
    check_grids(grid, found.grid, "the scan", name)
    return Mask(np.asarray(found.data == item.value), target)


def _of_runs(runs: tuple[int, ...], grid: Grid) -> Bool[np.ndarray, "i j k"]:
    if sum(runs) != math.prod(grid.shape):
        raise PromptError(
            f"its runs cover {sum(runs)} voxels, but the scan has {times(grid.shape)} = {math.prod(grid.shape)}",
            code="PRM-06",
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(grid.shape, order="F")


def _to_runs(mask: Bool[np.ndarray, "i j k"]) -> list[int]:
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    runs: list[int] = np.diff(ends, prepend=0).tolist()
    return runs


def _unfit(prompts: Prompts, grid: Grid) -> Iterator[Problem]:
    for number, prompt in enumerate(prompts.items, 1):
        if isinstance(prompt, Mask):
            for code, text in unfit(prompt, grid):
                yield code, f"prompt {number} ({prompt}): {text}"


def _scan_record(prompts: Prompts, image: str, grid: Grid) -> dict[str, Any]:
    affine = [[float(f"{value:.{_DIGITS}g}") for value in row] for row in grid.affine.tolist()]
    return {
        "image": _names(image) or None,
        "shape": list(grid.shape),
        "affine": affine,
        "prompts": [_record(prompt) for prompt in prompts.items],
    }


def _record(prompt: Prompt) -> dict[str, Any]:
    about = {"label": prompt.target.label, "instance": prompt.target.instance}
    match prompt:
        case Point():
            return {"type": "point", "at": prompt.at, **about, "inside": prompt.inside, "space": prompt.space}
        case Box():
            return {"type": "box", "low": prompt.low, "high": prompt.high, **about, "space": prompt.space}
        case Scribble():
            rest = {"inside": prompt.inside, "space": prompt.space}
            return {"type": "scribble", "points": prompt.points, **about, **rest}
        case Mask():
            return {"type": "mask", **about, "runs": _to_runs(prompt.data)}


def _text(value: Any, depth: int = 0) -> str:
    """JSON with one line for each prompt."""
    inner, outer = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict) and value and "type" not in value:
        lines = (f"{json.dumps(key, ensure_ascii=False)}: {_text(part, depth + 1)}" for key, part in value.items())
        return "{" + inner + f",{inner}".join(lines) + outer + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[" + inner + f",{inner}".join(_text(part, depth + 1) for part in value) + outer + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _names(image: str) -> str:
    """Names of files without their folders."""
    return ", ".join(PurePath(path.strip()).name for path in image.split(","))
