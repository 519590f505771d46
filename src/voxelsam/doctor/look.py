"""One case: read, measured and judged; runs in a process of its own where there are many."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np

from voxelsam import checks, examine, formats, plugins
from voxelsam.checks import Finding
from voxelsam.doctor import privacy
from voxelsam.errors import InputError, InputWarning, VoxelSamError
from voxelsam.examine import CaseFacts, ImageFacts
from voxelsam.layouts import Case, read_label
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume, check_grids, count_values
from voxelsam.volumes.volume import Kind

_CODE = re.compile(r"\b[A-Z]{3}-\d\d\b")
_READERS_TOO = {"GEO-08", "VAL-02"}
"""Codes that readers give as well as rules do."""


@dataclass(frozen=True)
class Target:
    """One case to look at."""

    case: Case
    """A file of its own is a case with an image and no label, a mask of its own one with a label and no image."""
    labels: Labels | None = None
    channels: int | None = None
    kind: Kind = "UNKNOWN"
    series: str | None = None
    """Key of a DICOM series of the only image."""


@dataclass(frozen=True)
class Order:
    """How to look."""

    accept: frozenset[str] = frozenset()
    quick: bool = False
    """Headers only."""
    phi: bool = False
    """Whether names and headers are searched for what says who the patient is."""


@dataclass(frozen=True)
class Seen:
    """What was found in one case."""

    facts: CaseFacts
    findings: tuple[Finding, ...]


def look(target: Target, order: Order) -> Seen:
    """Reads a case and judges it; whatever is wrong with it is a finding, never an exception."""
    case = target.case
    with warnings.catch_warnings(record=True) as caught, checks.watching(order.accept) as watch:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", InputWarning)
        facts = CaseFacts(case.id, group=case.group, unlabelled=case.unlabelled)
        errors: list[Finding] = []
        if order.quick:
            judged = _headers(target, errors)
        else:
            volume, label_map = _image(target, errors), _label(target, errors)
            facts = examine.measure(
                case.id, volume, label_map, group=case.group, kind=target.kind, unlabelled=case.unlabelled
            )
            judged = examine.case(facts, target.labels)
        private = privacy.findings(_paths(case)) if order.phi else []
    noticed = (*watch.findings, *_warned([str(one.message) for one in caught], watch.findings))
    told = [_placed(finding, target) for finding in (*noticed, *errors)]
    return Seen(facts, (*_merged(told, judged), *private))


def _warned(texts: list[str], known: list[Finding]) -> list[Finding]:
    """Warnings with a code of formats that do not tell ``checks``, such as those of other packages."""
    said = {f"{finding.code}: {finding.message}" for finding in known}
    coded = ((text, _CODE.search(text)) for text in texts if text not in said)
    return [Finding(code[0], "warning", text.replace(f"{code[0]}: ", "", 1)) for text, code in coded if code]


def _paths(case: Case) -> tuple[Path, ...]:
    return (*case.images, *(path for path in (case.label, case.instances) if path is not None))


@contextmanager
def _noting(errors: list[Finding]) -> Iterator[None]:
    try:
        yield
    except VoxelSamError as error:
        errors.append(Finding(error.code or "SET-03", "error", str(error)))


def _image(target: Target, errors: list[Finding]) -> Volume | None:
    if target.case.images:
        with _noting(errors):
            return formats.read_channels(target.case.images, target.channels, series=target.series)
    return None


def _label(target: Target, errors: list[Finding]) -> LabelMap | None:
    if target.case.label is not None:
        with _noting(errors):
            try:
                return read_label(target.case, target.labels)
            except InputError as error:
                raise InputError(f"{error}{_proposal(target, error)}", code=error.code) from None
    return None


def _proposal(target: Target, error: InputError) -> str:
    """What the values outside the table may stand for, as the end of a message."""
    case, labels = target.case, target.labels
    if error.code != "LAB-02" or labels is None or case.label is None or case.encoding is not None or case.reader:
        return ""
    proposed = examine.mapping(count_values(formats.read_numbers(case.label).data), labels)
    if not proposed:
        return ""
    return "; proposed map: " + ", ".join(f"{old} to {new}" for old, new in proposed.items())


def _headers(target: Target, errors: list[Finding]) -> list[Finding]:
    """Rules on what headers say; formats that cannot tell a grid from the header are only opened.

    Headers of one of several series have been read already, when the series were listed.
    """
    if target.series is not None:
        return []
    grids: list[tuple[Path, Grid]] = []
    drawn = replace(target.case, label=None) if target.case.reader else target.case
    for path in _paths(drawn):
        with _noting(errors):
            if (grid := _grid(path)) is not None:
                grids.append((path, grid))
    for path, grid in grids[1:]:
        with _noting(errors):
            check_grids(grids[0][1], grid, str(grids[0][0]), str(path))
    if not grids or not target.case.images:
        return []
    return examine.image(ImageFacts(grids[0][1], target.kind, str(np.dtype(np.void)), ()), target.case.id)


def _grid(path: Path) -> Grid | None:
    name = formats.family(path)
    reads = None if name is None else _grid_reader(name)
    if reads is None:
        formats.frames(path)
        return None
    return reads(path)


@cache
def _grid_reader(name: str) -> Callable[[Path], Grid] | None:
    """What tells a grid from the header, if a format can; looked up once, because that takes longer than a header."""
    return cast("Callable[[Path], Grid] | None", getattr(plugins.load("formats", name), "grid", None))


def _placed(finding: Finding, target: Target) -> Finding:
    """The file is the place where the message begins with it, else the case."""
    for path in _paths(target.case):
        if finding.message.startswith(f"{path}: "):
            where = str(path) if target.series is None else target.case.id
            return replace(finding, where=where, message=finding.message.removeprefix(f"{path}: "))
    return replace(finding, where=finding.where or target.case.id)


def _merged(told: list[Finding], judged: list[Finding]) -> list[Finding]:
    """Findings of readers and of rules without those that say the same; the worse one stays."""
    worse = {finding.code for finding in judged if finding.severity == "error"}
    said = {finding.code for finding in told} & _READERS_TOO
    kept = [finding for finding in told if not (finding.code in worse & _READERS_TOO and finding.severity == "warning")]
    return [*kept, *(finding for finding in judged if finding.code not in said or finding.severity == "error")]
