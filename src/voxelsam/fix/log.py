"""What became of files, and ``fixes.json``, which says so."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from voxelsam import checks, formats
from voxelsam.checks import Finding
from voxelsam.errors import InputError, InputWarning
from voxelsam.files import write_text
from voxelsam.fix.draft import Role
from voxelsam.fix.repairs import Change
from voxelsam.fix.wishes import Wishes
from voxelsam.formats import ending_of

LOG = "fixes.json"
"""What was done; in the copy of a data set, or beside a single file as ``NAME.fixes.json``."""

FORMAT = 1
"""Of the log."""

T = TypeVar("T")


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
    """What checks still find; in a dry run nothing of files that would change."""
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


def log_beside(target: Path) -> Path:
    """Where the log of a single file lies."""
    return target.with_name(f"{target.name.removesuffix(ending_of(target))}.{LOG}")


def write_log(path: Path, wishes: Wishes, results: Sequence[Fixed]) -> None:
    """Writes the log.

    Raises:
        OutputError: it cannot be written.
    """
    record = {
        "format": FORMAT,
        "voxelsam": version("voxelsam"),
        "asked": wishes.to_json(),
        "files": [result.to_json() for result in results],
    }
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, default=list) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder that of the SHA-256 of its files in the order of their names."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def found(files: Sequence[Path], role: Role) -> tuple[Finding, ...]:
    """What the reader finds in files that were written."""
    reader = formats.read_labels if role == "label" else formats.read
    return findings(lambda: [reader(file) for file in files], files)


def findings(look: Callable[[], object], files: Sequence[Path]) -> tuple[Finding, ...]:
    """What checks say about files; the messages have their names without folders."""
    with checks.watching() as watch:
        try:
            quiet(look)
        except InputError as error:
            watch.findings.append(Finding(error.code, "error", str(error)))
    return tuple(replace(finding, message=bare(finding.message, files)) for finding in watch.findings)


def bare(message: str, files: Sequence[Path]) -> str:
    """A message with the names of files in place of their paths."""
    for file in files:
        message = message.replace(str(file), file.name)
    return message


def quiet(look: Callable[[], T]) -> T:
    """Runs without warnings about the input: what is found stands in the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return look()
