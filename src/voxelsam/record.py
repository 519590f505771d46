"""What a command did, for whoever must answer for it: ``run.json`` beside everything that a command writes.

It names versions, hashes of inputs, model and settings, what checks found and which were accepted, times and memory.
Cases appear by their ids only: no paths, no header values. A command that goes on with earlier work adds its run to the
file; ``made_by`` says what made all results beside it, so that results of different makers are never mixed.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

from voxelsam import checks
from voxelsam.checks import Finding, Watch
from voxelsam.errors import OutputError
from voxelsam.files import write_text

FILE = "run.json"
"""Name of the record in a folder of results."""

FORMAT = 1
"""Of the file; a reader refuses newer ones."""

PACKAGES = (
    "voxelsam", "torch", "numpy", "scipy", "nibabel", "SimpleITK", "Pillow", "pydicom", "highdicom", "av", "lightning",
    "safetensors",
)  # fmt: skip
"""Packages that can change a result."""


@dataclass
class Run:
    """One command, from its start to its end."""

    command: str
    settings: Mapping[str, Any]
    """What the user chose; no paths."""
    watch: Watch
    made_by: Mapping[str, Any] | None = None
    """What a command that goes on must share with this one: model and settings that change results."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Whatever else should stand in the record, such as the model."""
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per case id: status, hashes of its files, seconds, codes of findings."""
    status: str = "running"
    path: Path | None = None
    """Where ``save`` writes, see ``path_for``."""
    id: str = field(default_factory=lambda: uuid4().hex[:8])
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=perf_counter)

    def case(self, name: str, status: str, findings: Iterable[Finding] = (), **facts: Any) -> None:
        """Notes what became of a case.

        Args:
            name: its id.
            status: ``done``, ``kept``, ``failed``.
            findings: of the checks.
            **facts: more, such as ``seconds`` or ``sha256``.
        """
        found = [{"code": finding.code, "severity": finding.severity} for finding in dict.fromkeys(findings)]
        self.cases[name] = {"status": status, **facts, **({"findings": found} if found else {})}

    def to_json(self) -> dict[str, Any]:
        """The run as plain values."""
        titles = {code: check.title for code, check in checks.CATALOGUE.items()}
        found: dict[str, dict[str, Any]] = {}
        for finding in dict.fromkeys(self.watch.findings):  # what was read twice was found once
            entry = found.setdefault(
                finding.code,
                {"title": titles.get(finding.code, ""), "severity": finding.severity, "times": 0, "cases": []},
            )
            entry["times"] += 1
            if finding.where and finding.where not in entry["cases"]:
                entry["cases"].append(finding.where)
        return {
            "id": self.id,
            "command": self.command,
            "status": self.status,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(perf_counter() - self._clock, 2),
            "peak_memory_mb": peak_memory(),
            "versions": versions(),
            "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
            "settings": dict(self.settings),
            "checks": {"accepted": sorted(self.watch.accepted), "found": found},
            **self.facts,
            "cases": self.cases,
        }

    def save(self, status: str | None = None) -> None:
        """Writes the record to its path, if it has one; runs that stand in the file already stay.

        Args:
            status: how the run stands now; None leaves it.

        Raises:
            OutputError: the file cannot be written, or holds something else.
        """
        self.status = status or self.status
        if self.path is None:
            return
        there = read(self.path)
        earlier = [run for run in there.get("runs", []) if run["id"] != self.id]
        made_by = there.get("made_by") if self.made_by is None else self.made_by
        value = {"format": FORMAT, "made_by": made_by, "runs": [*earlier, self.to_json()]}
        write_text(self.path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def recording(command: str, settings: Mapping[str, Any] | None = None, accept: Collection[str] = ()) -> Iterator[Run]:
    """The record of a command; checks inside the block report to it.

    Args:
        command: its name.
        settings: what the user chose; no paths.
        accept: codes of checks whose errors become warnings.

    Raises:
        ConfigError: a code is unknown or cannot be accepted.
    """
    with checks.watching(accept) as watch:
        yield Run(command, settings or {}, watch)


def read(path: Path) -> dict[str, Any]:
    """What a record holds; empty if there is none.

    Raises:
        OutputError: the file is no record, or one of a newer version.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} is not a record of a run ({error}): move it away") from None
    if not isinstance(value, dict) or not isinstance(value.get("runs"), list):
        raise OutputError(f"{path} is not a record of a run: move it away")
    if value.get("format", 0) > FORMAT:
        raise OutputError(f"{path} was written by a newer voxelsam (format {value['format']}, this one reads {FORMAT})")
    return value


def path_for(output: Path, *, folder: bool) -> Path:
    """Where the record of results lies: ``run.json`` in their folder, ``NAME.run.json`` beside a single file."""
    return output / FILE if folder else output.with_name(f"{output.name.split('.')[0]}.{FILE}")


def digest(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, and of all files of folders in the order of their names."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(_of_file(file))
    return total.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int | None:
    """Most memory that this process has held, in MB; None where the system does not tell (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1_000_000 if sys.platform == "darwin" else most * 1024 // 1_000_000


def _of_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
