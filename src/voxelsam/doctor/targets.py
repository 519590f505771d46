"""What there is to look at under a path."""

import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from voxelsam import checks, formats, layouts
from voxelsam.checks import Finding
from voxelsam.doctor.look import Target
from voxelsam.errors import InputError, VoxelSamError
from voxelsam.formats import dicom, video
from voxelsam.formats._video_folder import SIDECAR as FRAMES
from voxelsam.layouts import Case, Dataset

_PROBLEM = re.compile(r"^  ([A-Z]{3}-\d\d): (.+)$", re.MULTILINE)
_MASKS = ("label", "mask", "seg", "instance", "scribble")
_ONLY_LABELS = ("dicom_seg", "dicom_rt")


@dataclass(frozen=True)
class Found:
    """What a path holds."""

    what: str
    """``data set``, ``image`` or ``files``."""
    targets: tuple[Target, ...]
    findings: tuple[Finding, ...] = ()
    """What opening it has shown."""
    dataset: Dataset | None = None


def find(path: Path, label: Path | None = None) -> Found:
    """What to look at.

    A data set is one where a layout recognises the folder; if it is broken, its problems are findings, and its files
    are looked at one by one. A folder that a format knows (a DICOM series, frames) is one image.

    Args:
        path: a file, a series, a folder of files, or a data set.
        label: label map of the image that ``path`` is.

    Raises:
        InputError: SET-01, there is nothing at the path, or no file that could be an image.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path", code="SET-01")
    if label is None and layouts.recognising(path):
        return _data_set(path)
    if path.is_file() or label is not None:
        return Found("image", (_alone(path, path.name, False, label),))
    if _is_image(path):
        targets, findings = _series(path, path.name)
        return Found("image", targets, findings)
    targets, findings = _files(path)
    if not targets and not findings:
        known = ", ".join(dict.fromkeys(formats.endings()))
        raise InputError(f"{path}: no image file in this folder ({known})", code="SET-01")
    return Found("files", targets, findings)


def _data_set(path: Path) -> Found:
    with warnings.catch_warnings(), checks.watching() as watch:
        warnings.simplefilter("ignore")
        try:
            dataset = layouts.open_dataset(path)
        except InputError as error:
            listed = _PROBLEM.findall(str(error)) or [(error.code or "SET-01", str(error))]
            problems = [Finding(code, "error", text, str(path)) for code, text in listed]
            files, more = _files(path) if path.is_dir() else ((), ())
            return Found("data set", files, (*watch.findings, *problems, *more))
    targets = (Target(case, dataset.labels, len(dataset.channels), dataset.kind) for case in _cases(dataset))
    return Found("data set", tuple(targets), tuple(watch.findings), dataset)


def _cases(dataset: Dataset) -> tuple[Case, ...]:
    return (*dataset.train, *dataset.test)


def _files(root: Path) -> tuple[tuple[Target, ...], tuple[Finding, ...]]:
    """Images and series under a folder, in the order of their names; what looks like a mask by its folder is one."""
    targets: list[Target] = []
    findings: list[Finding] = []
    for place, folders, names in os.walk(root):
        folder = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if folder != root and _is_image(folder):
            folders.clear()
            series, listed = _series(folder, folder.relative_to(root).as_posix())
            targets += series
            findings += listed
            continue
        is_mask = folder != root and folder.name.lower().startswith(_MASKS)
        shown = [folder / name for name in sorted(names) if _is_file(name)]
        targets += [_alone(path, path.relative_to(root).as_posix(), is_mask) for path in shown]
    return tuple(targets), tuple(findings)


def _is_file(name: str) -> bool:
    return name.lower().endswith(formats.endings()) and not name.startswith(".")


def _alone(path: Path, name: str, is_mask: bool, label: Path | None = None) -> Target:
    with suppress(InputError):
        is_mask = is_mask or formats.family(path) in _ONLY_LABELS
    return Target(Case(name, (), path)) if is_mask else Target(Case(name, (path,), label))


def _is_image(folder: Path) -> bool:
    """Whether a folder is one image (or several series) without any doubt.

    A folder of DICOM files is one if no file of another format is in it, numbered pictures if a file beside them says
    that they are a film.
    """
    family = formats.family(folder)
    if family == video.NAME:
        return (folder / FRAMES).is_file()
    if family != dicom.NAME:
        return family is not None and family not in _ONLY_LABELS
    own = tuple(dicom.ENDINGS)
    others = (_is_file(name) and not name.lower().endswith(own) for _, _, names in os.walk(folder) for name in names)
    return not any(others)


def _series(folder: Path, name: str) -> tuple[tuple[Target, ...], tuple[Finding, ...]]:
    """One target per DICOM series; one target for any other image."""
    listed: tuple[dicom.Series, ...] = ()
    with suppress(VoxelSamError):
        listed = dicom.list_series(folder) if formats.family(folder) == dicom.NAME else ()
    if len(listed) < 2:
        return (Target(Case(name, (folder,))),), ()
    text = f"{len(listed)} series in one folder; each was looked at, but other commands need one of them"
    targets = (Target(Case(f"{name}, series {one.number}", (folder,)), series=one.key) for one in listed)
    return tuple(targets), (Finding("DCM-03", "warning", text, str(folder)),)
