"""Repairs of files and of whole data sets: into a copy, with a log, whole or not at all."""

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from voxelsam import checks, formats
from voxelsam.checks import Finding
from voxelsam.errors import ConfigError, GeometryError, InputError, InputWarning, OutputError
from voxelsam.files import write_text
from voxelsam.fix.draft import Array, Draft, Role, draft
from voxelsam.fix.repairs import Change, Wishes, repaired
from voxelsam.fix.series import without_copies
from voxelsam.formats import ending_of
from voxelsam.layouts import Case, Dataset, open_dataset, read_label
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

LOG = "fixes.json"
"""What was done; in the copy of a data set, or beside a single file as ``NAME.fixes.json``."""

FORMAT = 1
"""Of the log."""

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


@dataclass(frozen=True)
class Fixed:
    """What became of one file."""

    file: str
    """Its path within the source."""
    output: tuple[str, ...]
    """Within the target: several where channels were split."""
    role: Role | Literal["other"]
    status: Literal["fixed", "copied", "failed"]
    """``failed``: copied as it was in a data set, not written otherwise."""
    changes: tuple[Change, ...] = ()
    left: tuple[Finding, ...] = ()
    """What checks still find."""
    before: str = ""
    """SHA-256 of the source; for a folder that of the SHA-256 of its files in the order of their names."""
    after: tuple[str, ...] = ()
    """SHA-256 of what was written; nothing in a dry run."""

    @property
    def broken(self) -> bool:
        """Whether it cannot be used as it is now."""
        return any(finding.severity == "error" for finding in self.left)

    def to_json(self) -> dict[str, Any]:
        """The entry of the log."""
        return {
            "file": self.file,
            "output": list(self.output),
            "role": self.role,
            "status": self.status,
            "changes": [vars(change) for change in self.changes],
            "left": [
                {"code": left.code, "severity": left.severity, "message": left.message} for left in self.left
            ],
            "sha256_before": self.before,
            "sha256_after": list(self.after),
        }  # fmt: skip


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
    _check_new(target)
    _check_new(_log_beside(target))
    if source.resolve() == target.resolve():
        raise OutputError(f"{source}: never repaired in place; give another name")
    if not formats.can_write(target):
        raise OutputError(f"{target}: repaired files cannot be written as {ending_of(target) or 'that'}; take .nii.gz")
    onto = None if image is None else _quiet(lambda: formats.read(image)).grid
    if onto is not None:
        wishes = replace(wishes, codes=wishes.codes | {"GEO-02"})
    now, changes = _repaired(source, role, wishes, onto)
    names = _names(target, now)
    for name in names:
        _check_new(name)
    done = _written(source, now, changes, names, dry_run)
    result = Fixed(
        source.name,
        tuple(name.name for name in names),
        role,
        "fixed" if changes else "copied",
        changes,
        () if dry_run else _found(names, role),
        _sha256(source),
        done,
    )
    if not dry_run:
        _write_log(_log_beside(target), wishes, [result])
    return result


def fix_dataset(
    source: Path,
    target: Path,
    wishes: Wishes | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> tuple[Fixed, ...]:
    """Copies a data set, repairs the files that need it, and logs what was done in ``fixes.json``.

    All files keep their names, so the copy has the layout of the source. The target appears when it is whole.

    Args:
        source: folder of the data set.
        target: new folder.
        wishes: what to do beyond that which loses nothing.
        dry_run: find out what would be done.
        progress: told after every file.

    Raises:
        ConfigError: channels cannot be split in a data set.
        InputError: the folder is no data set.
        OutputError: the target exists, lies within the source, or cannot be written.
    """
    wishes = wishes or Wishes()
    if wishes.channels == "split":
        raise ConfigError("split the channels of one file after the other; a data set would need new names")
    _check_new(target)
    if target.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"{target}: the copy of a data set cannot lie within it")
    dataset = _quiet(lambda: open_dataset(source))
    if dry_run:
        with tempfile.TemporaryDirectory() as nowhere:
            return tuple(_files(dataset, source, Path(nowhere), wishes, True, progress))
    with _whole(target) as folder:
        results = tuple(_files(dataset, source, folder, wishes, False, progress))
        _write_log(folder / LOG, wishes, results)
    return results


def _files(
    dataset: Dataset, source: Path, folder: Path, wishes: Wishes, dry_run: bool, progress: Progress | None
) -> Iterator[Fixed]:
    cases = (*dataset.train, *dataset.test)
    known = {path.resolve() for case in cases for path in (*case.images, case.label) if path is not None}
    every = sorted(path for path in source.rglob("*") if path.is_file())
    others = [path for path in every if not any(path.resolve().is_relative_to(one) for one in known)]
    total = len(others) + sum(len(case.images) + (case.label is not None) for case in cases)
    results = _each(dataset, cases, others, source, folder, wishes, dry_run)
    for number, result in enumerate(results, 1):
        if progress:
            progress(number, total)
        yield result


def _each(
    dataset: Dataset,
    cases: Sequence[Case],
    others: Sequence[Path],
    source: Path,
    folder: Path,
    wishes: Wishes,
    dry_run: bool,
) -> Iterator[Fixed]:
    work = _Work(source, folder, wishes, dry_run)
    for path in others:
        yield work.copied(path, "other")
    for case in cases:
        grid = None
        for path in case.images:
            result, found = work.file(path, "image", None, lambda file: _found((file,), "image"))
            grid = grid or found
            yield result
        if case.label is None:
            continue
        if case.reader:
            yield work.copied(case.label, "label")
            continue
        yield work.file(case.label, "label", grid, partial(_found_in, case, dataset.labels))[0]


@dataclass
class _Work:
    """The files of one data set on their way."""

    source: Path
    folder: Path
    wishes: Wishes
    dry_run: bool

    def file(
        self, path: Path, role: Role, onto: Grid | None, look: Callable[[Path], tuple[Finding, ...]]
    ) -> tuple[Fixed, Grid | None]:
        """One file and, if it can be read, where its voxels are now."""
        target = self._target(path)
        if path.is_dir() or not formats.can_write(target):
            return self.copied(path, role, look), None
        try:
            now, changes = _repaired(path, role, self.wishes, onto)
            if changes and len(now.data) > 1:
                raise InputError(
                    f"{path}: holds {len(now.data)} channels, which are not written as one file; split or grey first",
                    code="VAL-05",
                )
            grid = now.grid
        except InputError as error:
            failed = self.copied(path, role, look)
            told = Finding(error.code, "error", _bare(str(error), (path,)))
            same = any(left.code == error.code for left in failed.left)
            return replace(failed, status="failed", left=failed.left if same else (*failed.left, told)), None
        done = _written(path, now, changes, (target,), self.dry_run)
        left = () if self.dry_run else look(target)
        status: Literal["fixed", "copied"] = "fixed" if changes else "copied"
        name = self._name(path)
        return Fixed(name, (name,), role, status, changes, left, _sha256(path), done), grid

    def copied(
        self,
        path: Path,
        role: Role | Literal["other"],
        look: Callable[[Path], tuple[Finding, ...]] | None = None,
    ) -> Fixed:
        """One file as it is."""
        target, name, before = self._target(path), self._name(path), _sha256(path)
        if not self.dry_run:
            _copy(path, target)
        left = look(path) if look else ()
        return Fixed(name, (name,), role, "copied", (), left, before, () if self.dry_run else (before,))

    def _name(self, path: Path) -> str:
        inside = path.is_relative_to(self.source)
        if not inside:
            raise InputError(f"{path}: lies outside {self.source}, so the data set cannot be copied", code="SET-01")
        return path.relative_to(self.source).as_posix()

    def _target(self, path: Path) -> Path:
        return self.folder / self._name(path)


def _repaired(source: Path, role: Role, wishes: Wishes, onto: Grid | None) -> tuple[Draft, tuple[Change, ...]]:
    now, first = _quiet(lambda: _drafted(source, role, wishes))
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


def _written(
    source: Path, now: Draft, changes: Sequence[Change], names: Sequence[Path], dry_run: bool
) -> tuple[str, ...]:
    """Writes a draft; a file without changes, and of the same kind, is copied byte by byte."""
    if dry_run:
        return ()
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
    if not changes and source.is_file() and ending_of(source).lower() == ending_of(names[0]).lower():
        _copy(source, names[0])
    elif now.role == "label":
        _write_labels(now, names[0])
    else:
        for name, channel in zip(names, now.data if now.split else (now.data,), strict=True):
            data = channel[None] if now.split else channel
            formats.write_volume(name, Volume(_storable(data), now.grid, now.kind))
    return tuple(_sha256(name) for name in names)


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


def _found(files: Sequence[Path], role: Role) -> tuple[Finding, ...]:
    """What the reader finds in files that were written."""
    reader = formats.read_labels if role == "label" else formats.read
    return _findings(lambda: [reader(file) for file in files], files)


def _found_in(case: Case, labels: Labels | None, file: Path) -> tuple[Finding, ...]:
    return _findings(lambda: read_label(replace(case, label=file), labels), (file,))


def _findings(look: Callable[[], object], files: Sequence[Path]) -> tuple[Finding, ...]:
    """What checks say about files; the messages have their names without folders."""
    with checks.watching() as watch:
        try:
            _quiet(look)
        except InputError as error:
            watch.findings.append(Finding(error.code, "error", str(error)))
    return tuple(replace(finding, message=_bare(finding.message, files)) for finding in watch.findings)


def _bare(message: str, files: Sequence[Path]) -> str:
    for file in files:
        message = message.replace(str(file), file.name)
    return message


def _quiet(look: Callable[[], T]) -> T:
    """Runs without warnings about the input: what is found stands in the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return look()


def _check_new(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists already; nothing is repaired in place or replaced: give another name")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        beside.chmod(0o755)
        yield beside
        beside.rename(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}); nothing was left") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)


def _log_beside(target: Path) -> Path:
    return target.with_name(f"{target.name.removesuffix(ending_of(target))}.{LOG}")


def _write_log(path: Path, wishes: Wishes, results: Sequence[Fixed]) -> None:
    record = {
        "format": FORMAT,
        "voxelsam": version("voxelsam"),
        "asked": wishes.to_json(),
        "files": [result.to_json() for result in results],
    }
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, default=list) + "\n")


def _sha256(path: Path) -> str:
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("".join(map(_sha256, files)).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
