"""The whole examination: every case, then what shows across cases, splits and data sets."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from voxelsam import checks, examine
from voxelsam.checks import CATALOGUE, Finding
from voxelsam.doctor.look import Order, Seen, Target, look
from voxelsam.doctor.targets import Found, find
from voxelsam.errors import ConfigError, InputError
from voxelsam.examine import CaseFacts

WORTH_CASES, WORTH_BYTES = 64, 32 << 20
"""From so many cases or bytes on several processes pay; starting one takes about a second.

Where headers are enough, files count for nothing and series as if they were read.
"""


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at, and what is wrong with it."""

    what: str
    """``data set``, ``image`` or ``files``; with several paths, each once."""
    cases: int
    files: int
    findings: tuple[Finding, ...]
    """Errors first, then by code."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Findings of each ignored code, as a number."""

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def verdict(self) -> int:
        """0 clean, 1 warnings, 2 errors; the exit code of the command."""
        return 2 if self.errors else int(bool(self.findings))

    def rows(self) -> list[tuple[Finding, ...]]:
        """Findings of one code and severity together, in their order."""
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.code, finding.severity), []).append(finding)
        return [tuple(group) for group in groups.values()]

    def summary(self) -> str:
        """One line."""
        counts = Counter(finding.code for finding in self.findings)
        listed = ", ".join(f"{code} × {count}" for code, count in counts.items())
        end = f" ({listed})" if listed else ""
        ignored = f"; ignored: {', '.join(f'{c} × {n}' for c, n in self.ignored.items())}" if self.ignored else ""
        warnings = len(self.findings) - self.errors
        return (
            f"{self.what}, {_count(self.cases, 'case')}, {_count(self.files, 'file')}: "
            f"{_count(self.errors, 'error')}, {_count(warnings, 'warning')}{end}{ignored}"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values, every finding for itself with cause and fix."""
        return {
            "what": self.what,
            "cases": self.cases,
            "files": self.files,
            "errors": self.errors,
            "warnings": len(self.findings) - self.errors,
            "ignored": self.ignored,
            "findings": [
                {
                    "code": finding.code,
                    "severity": finding.severity,
                    "where": finding.where,
                    "message": finding.message,
                    "cause": CATALOGUE[finding.code].cause if finding.code in CATALOGUE else "",
                    "fix": CATALOGUE[finding.code].fix if finding.code in CATALOGUE else "",
                }
                for finding in self.findings
            ],
        }


def diagnose(
    paths: Path | Sequence[Path],
    *,
    label: Path | None = None,
    ignore: Collection[str] = (),
    fold: int | None = None,
    quick: bool = False,
    phi: bool = False,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Looks at everything under one or more paths.

    Args:
        paths: files, series, folders of files or data sets; label tables of several data sets are compared.
        label: label map of the image that the only path is.
        ignore: codes whose findings are only counted; errors that can be accepted no longer stop a case.
        fold: which declared split to judge; None: all.
        quick: headers only: no values, no content.
        phi: search names and headers for what says who the patient is.
        jobs: most processes; 0 is one per CPU. With more than one, scripts must guard their start by
            ``if __name__ == "__main__"``.
        progress: called with (done, total).

    Raises:
        ConfigError: there is no check of a code in ``ignore``.
        InputError: there is nothing to look at, no such fold, or a process was killed.
    """
    for code in ignore:
        if code not in CATALOGUE:
            raise ConfigError(f"there is no check {code}; there are {', '.join(CATALOGUE)}")
    every = [paths] if isinstance(paths, Path) else list(paths)
    if label is not None and len(every) != 1:
        raise ConfigError(f"one label map belongs to one image, but {len(every)} paths came")
    accept = frozenset(code for code in ignore if CATALOGUE[code].acceptable)
    with checks.watching(accept):
        found = [find(path, label) for path in every]
    targets = [target for one in found for target in one.targets]
    seen = _looked_at(targets, Order(accept, quick, phi), jobs, progress)
    findings = [finding for one in found for finding in one.findings]
    findings += [finding for one in seen for finding in one.findings]
    facts = iter(one.facts for one in seen)
    for path, one in zip(every, found, strict=True):
        findings += _across(path, one, [next(facts) for _ in one.targets], fold, quick)
    tables = {str(path): one.dataset.labels for path, one in zip(every, found, strict=True) if one.dataset}
    findings += examine.tables({name: table for name, table in tables.items() if table is not None})
    return _report(found, targets, findings, frozenset(ignore))


def _report(
    found: Sequence[Found], targets: Sequence[Target], findings: Sequence[Finding], ignore: frozenset[str]
) -> Diagnosis:
    order = {code: number for number, code in enumerate(CATALOGUE)}
    distinct = dict.fromkeys(findings)
    kept = [finding for finding in distinct if finding.code not in ignore]
    kept.sort(key=lambda finding: (finding.severity, order.get(finding.code, -1)))
    ignored = Counter(finding.code for finding in distinct if finding.code in ignore)
    files = sum(len(_files(target)) for target in targets)
    what = " and ".join(dict.fromkeys(one.what for one in found))
    return Diagnosis(what, len(targets), files, tuple(kept), dict(ignored))


def _looked_at(
    targets: Sequence[Target], order: Order, jobs: int, progress: Callable[[int, int], None] | None
) -> list[Seen]:
    """Every target, in order; the largest are begun first, so that no process is left alone with one at the end."""
    sizes = [sum(_size(path) for path in _files(target)) for target in targets]
    workers = min(jobs or _cpus(), len(targets))
    heavy = [size for size, one in zip(sizes, targets, strict=True) if not order.quick or _has_folder(one)]
    pays = len(heavy) >= WORTH_CASES or sum(heavy) >= WORTH_BYTES
    by_size = sorted(range(len(targets)), key=lambda number: -sizes[number])
    results: dict[int, Seen] = {}
    for number, one in (_pooled if workers > 1 and pays else _one_by_one)(targets, by_size, order, workers):
        results[number] = one
        if progress:
            progress(len(results), len(targets))
    return [results[number] for number in range(len(targets))]


def _one_by_one(
    targets: Sequence[Target], numbers: Sequence[int], order: Order, workers: int
) -> Iterator[tuple[int, Seen]]:
    for number in numbers:
        yield number, look(targets[number], order)


def _pooled(
    targets: Sequence[Target], numbers: Sequence[int], order: Order, workers: int
) -> Iterator[tuple[int, Seen]]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(look, targets[number], order): number for number in numbers}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            raise InputError(
                "a process that read the files was killed, as a rule because memory ran out; use fewer (--jobs 1)"
            ) from None


def _across(path: Path, found: Found, facts: list[CaseFacts], fold: int | None, quick: bool) -> list[Finding]:
    """Rules across the cases of one path, fold by fold."""
    if quick:
        return []
    dataset = found.dataset
    if dataset is None:
        return examine.copies(facts)
    test = [case.id for case in dataset.test]
    folds = list(range(len(dataset.splits))) if fold is None else [fold]
    if not folds:
        return examine.dataset(facts, dataset.labels, test=test, where=str(path))
    findings = []
    for number in folds:
        train, val = ([case.id for case in side] for side in dataset.split(number))
        where = f"{path}, fold {number}" if len(dataset.splits) > 1 else str(path)
        every = examine.dataset(facts, dataset.labels, train, val, test, where)
        once = [finding for finding in every if finding.code == "SET-01"]
        findings += [replace(finding, where=str(path)) for finding in once]
        findings += [finding for finding in every if finding.code != "SET-01"]
    return findings


def _files(target: Target) -> tuple[Path, ...]:
    case = target.case
    return (*case.images, *(path for path in (case.label, case.instances) if path is not None))


def _has_folder(target: Target) -> bool:
    return any(path.is_dir() for path in _files(target))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.iterdir())
    except OSError:
        return 0


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
