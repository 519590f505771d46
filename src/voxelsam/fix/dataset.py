"""The copy of a whole data set with its files repaired: whole or not at all, and all names stay."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from voxelsam import formats
from voxelsam.checks import Finding
from voxelsam.errors import ConfigError, InputError, OutputError
from voxelsam.fix.draft import Role
from voxelsam.fix.file import after_repairs, check_new, copy, written
from voxelsam.fix.log import LOG, Fixed, bare, findings, found, quiet, sha256, write_log
from voxelsam.fix.wishes import Wishes
from voxelsam.layouts import Case, Dataset, open_dataset, read_label
from voxelsam.space.grid import Grid
from voxelsam.volumes import Labels

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


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
        InputError: the folder is no data set; SET-01, it is a file that only lists a data set.
        OutputError: the target exists, lies within the source, or cannot be written.
    """
    wishes = wishes or Wishes()
    if wishes.channels == "split":
        raise ConfigError("split the channels of one file after the other; a data set would need new names")
    if not source.is_dir():
        raise InputError(f"{source}: only lists what lies elsewhere; repair the folder of each data set", code="SET-01")
    check_new(target)
    if target.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"{target}: the copy of a data set cannot lie within it")
    dataset = quiet(lambda: open_dataset(source))
    if dry_run:
        with tempfile.TemporaryDirectory() as nowhere:
            return tuple(_files(dataset, _Work(source, Path(nowhere), wishes, dry_run), progress))
    with _whole(target) as folder:
        results = tuple(_files(dataset, _Work(source, folder, wishes, dry_run), progress))
        write_log(folder / LOG, wishes, results)
    return results


def _files(dataset: Dataset, work: "_Work", progress: Progress | None) -> Iterator[Fixed]:
    """Every file once: what belongs to no case, then the cases."""
    cases = (*dataset.train, *dataset.test)
    known = {
        path.resolve()
        for case in cases
        for path in (*case.images, case.label, case.instances)
        if path is not None
    }  # fmt: skip
    every = (path for path in sorted(work.source.rglob("*")) if path.is_file())
    others = [path for path in every if known.isdisjoint({path.resolve(), *path.resolve().parents})]
    each = chain(
        (work.copied(path, "other") for path in others),
        *(_case(case, dataset.labels, work) for case in cases),
    )
    for number, result in enumerate(each, 1):
        if progress:
            progress(number, len(others) + len(known))
        yield result


def _case(case: Case, labels: Labels | None, work: "_Work") -> Iterator[Fixed]:
    """Files of a case; one that another case has as well, such as a list of contours, is passed over then."""
    grid = None
    for path in work.new(*case.images):
        result, place = work.file(path, "image", None, lambda file: found((file,), "image"))
        grid = grid or place
        yield result
    for path in work.new(case.label):
        if case.reader:
            yield work.copied(path, "label")
        elif case.encoding is not None and case.encoding.colours is not None:
            yield work.copied(path, "label", partial(_found_in, case, labels))
        else:
            yield work.file(path, "label", grid, partial(_found_in, case, labels))[0]
    for path in work.new(case.instances):
        yield work.unnamed.file(path, "label", grid, lambda file: found((file,), "label"))[0]


@dataclass
class _Work:
    """The files of one data set on their way."""

    source: Path
    folder: Path
    wishes: Wishes
    dry_run: bool
    seen: set[Path] = field(default_factory=set)

    @property
    def unnamed(self) -> "_Work":
        """The same work on numbers that no label table names: their values stay."""
        return replace(self, wishes=replace(self.wishes, codes=self.wishes.codes - {"LAB-02"}, relabel={}))

    def new(self, *paths: Path | None) -> Iterator[Path]:
        """Those of some paths that did not come before."""
        for path in paths:
            if path is not None and path not in self.seen:
                self.seen.add(path)
                yield path

    def file(
        self, path: Path, role: Role, onto: Grid | None, look: Callable[[Path], tuple[Finding, ...]]
    ) -> tuple[Fixed, Grid | None]:
        """One file and, if it can be read, where its voxels are now."""
        target = self._target(path)
        if path.is_dir() or not formats.can_write(target):
            return self.copied(path, role, look), None
        try:
            now, changes = after_repairs(path, role, self.wishes, onto)
            if changes and len(now.data) > 1:
                raise InputError(
                    f"{path}: holds {len(now.data)} channels, which are not written as one file; split or grey first",
                    code="VAL-05",
                )
            grid = now.grid
        except InputError as error:
            failed = self.copied(path, role, look)
            told = Finding(error.code, "error", bare(str(error), (path,)))
            same = any(left.code == error.code for left in failed.left)
            return replace(failed, status="failed", left=failed.left if same else (*failed.left, told)), None
        done = written(path, now, changes, (target,), self.dry_run)
        left = look(target) if not self.dry_run else () if changes else look(path)
        status: Literal["fixed", "copied"] = "fixed" if changes else "copied"
        name = self._name(path)
        return Fixed(name, (name,), role, status, changes, left, sha256(path), done), grid

    def copied(
        self,
        path: Path,
        role: Role | Literal["other"],
        look: Callable[[Path], tuple[Finding, ...]] | None = None,
    ) -> Fixed:
        """One file as it is."""
        target, name, before = self._target(path), self._name(path), sha256(path)
        if not self.dry_run:
            copy(path, target)
        left = look(path) if look else ()
        return Fixed(name, (name,), role, "copied", (), left, before, () if self.dry_run else (before,))

    def _name(self, path: Path) -> str:
        inside = path.is_relative_to(self.source)
        if not inside:
            raise InputError(f"{path}: lies outside {self.source}, so the data set cannot be copied", code="SET-01")
        return path.relative_to(self.source).as_posix()

    def _target(self, path: Path) -> Path:
        return self.folder / self._name(path)


def _found_in(case: Case, labels: Labels | None, file: Path) -> tuple[Finding, ...]:
    return findings(lambda: read_label(replace(case, label=file), labels), (file,))


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
