"""The repair of one file, or of the folder of one DICOM series, into a new file."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from voxelsam import formats
from voxelsam.errors import GeometryError, InputError, OutputError
from voxelsam.fix.draft import Array, Draft, Role, draft
from voxelsam.fix.log import Fixed, found, log_beside, quiet, sha256, write_log
from voxelsam.fix.repairs import Change, repaired
from voxelsam.fix.series import without_copies
from voxelsam.fix.wishes import Wishes
from voxelsam.formats import ending_of
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume


def fix_file(
    source: Path,
    target: Path,
    wishes: Wishes | None = None,
    *,
    role: Role = "image",
    image: Path | None = None,
    dry_run: bool = False,
) -> Fixed:
    """Repairs one file, or the folder of one DICOM series, into a new file.

    Args:
        source: the file.
        target: new file; its ending chooses the format. With split channels ``ct.nii.gz`` becomes ``ct_0000.nii.gz``,
            ``ct_0001.nii.gz`` …
        wishes: what to do beyond that which loses nothing.
        role: whether it is an image or a label map.
        image: the image of a label map, for GEO-01 and GEO-02.
        dry_run: find out what would be done.

    Raises:
        OutputError: the target exists, or cannot be written.
        ConfigError, InputError: the file cannot be read, or not be repaired as asked.
    """
    wishes = wishes or Wishes()
    if not source.exists():
        raise InputError(f"{source}: no such file; check the path", code="SET-01")
    check_new(target)
    check_new(log_beside(target))
    if source.resolve() == target.resolve():
        raise OutputError(f"{source}: never repaired in place; give another name")
    if not formats.can_write(target):
        raise OutputError(f"{target}: repaired files cannot be written as {ending_of(target) or 'that'}; take .nii.gz")
    onto = None if image is None else quiet(lambda: formats.read(image)).grid
    if onto is not None:
        wishes = replace(wishes, codes=wishes.codes | {"GEO-02"})
    now, changes = after_repairs(source, role, wishes, onto)
    names = _names(target, now)
    for name in names:
        check_new(name)
    done = written(source, now, changes, names, dry_run)
    result = Fixed(
        source.name,
        tuple(name.name for name in names),
        role,
        "fixed" if changes else "copied",
        changes,
        found(names, role) if not dry_run else () if changes else found((source,), role),
        sha256(source),
        done,
    )
    if not dry_run:
        write_log(log_beside(target), wishes, [result])
    return result


def after_repairs(source: Path, role: Role, wishes: Wishes, onto: Grid | None) -> tuple[Draft, tuple[Change, ...]]:
    """What a file holds after all repairs that are wanted, and what they did.

    Args:
        source: the file, or the folder of a series.
        role: what it is taken for.
        wishes: what was asked for.
        onto: grid of the image, for a label map.

    Raises:
        ConfigError, InputError: it cannot be read, or not be repaired as asked.
    """
    now, first = quiet(lambda: _drafted(source, role, wishes))
    now, changes = repaired(now, wishes, onto)
    return now, (*first, *changes)


def _drafted(source: Path, role: Role, wishes: Wishes) -> tuple[Draft, tuple[Change, ...]]:
    accept = wishes.codes & {"VAL-01"}
    try:
        return draft(source, role, accept), ()
    except GeometryError as error:
        if error.code != "DCM-01":
            raise
        with tempfile.TemporaryDirectory() as name:
            if not (dropped := without_copies(source, Path(name))):
                raise
            change = Change("DCM-01", "exact copies of slices left out", {"dropped": dropped})
            return replace(draft(Path(name), role, accept), path=source), (change,)


def written(
    source: Path, now: Draft, changes: Sequence[Change], names: Sequence[Path], dry_run: bool
) -> tuple[str, ...]:
    """Writes a draft; a file without changes, and of the same kind, is copied byte by byte.

    Args:
        source: the file.
        now: what it holds after the repairs.
        changes: what they did.
        names: new files, one per channel where channels are split, else one.
        dry_run: write nothing.

    Returns:
        SHA-256 of each new file.

    Raises:
        InputError: LAB-01, label values are no integers.
        OutputError: it cannot be written.
    """
    if dry_run:
        return ()
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
    if not changes and source.is_file() and ending_of(source).lower() == ending_of(names[0]).lower():
        copy(source, names[0])
    elif now.role == "label":
        _write_labels(now, names[0])
    else:
        for name, channel in zip(names, now.data if now.split else (now.data,), strict=True):
            data = channel[None] if now.split else channel
            formats.write_volume(name, Volume(_storable(data), now.grid, now.kind))
    return tuple(sha256(name) for name in names)


def _write_labels(now: Draft, target: Path) -> None:
    values: Array = now.data[0]
    if values.dtype.kind == "f":
        raise InputError(
            f"{now.path}: label values are no integers; round them with --fix LAB-01 if they nearly are", code="LAB-01"
        )
    table = Labels.of_values(set(np.unique(values).tolist()))
    formats.write_labels(target, LabelMap(values, now.grid, table))


def _storable(data: Array) -> Array:
    """Float64 as float32, which is what images are written in."""
    return data.astype(np.float32) if data.dtype == np.float64 else data


def _names(target: Path, now: Draft) -> tuple[Path, ...]:
    if not now.split:
        return (target,)
    ending = ending_of(target)
    stem = target.name.removesuffix(ending)
    return tuple(target.with_name(f"{stem}_{number:04}{ending}") for number in range(len(now.data)))


def check_new(target: Path) -> None:
    """Refuses to replace anything.

    Raises:
        OutputError: there is something.
    """
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists already; nothing is repaired in place or replaced: give another name")


def copy(source: Path, target: Path) -> None:
    """Copies the contents of a file or folder; folders above are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)
