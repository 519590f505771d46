"""What a run was started with, and what is no longer so when it goes on.

``origin.json`` in the run folder holds the recipe, the label table, the split, the identity of the backbone, and for
each case size, date and content hash of its files. A run that went on with other data or another recipe would give a
model that its own records do not describe, so every difference is named and the run refused, except for keys that do
not change the result (``FREE``).
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxelsam import config, record
from voxelsam.errors import ConfigError, InputError, InputWarning, OutputError, VoxelSamError, WeightsError
from voxelsam.files import write_text
from voxelsam.layouts import Case
from voxelsam.train.recipe import Recipe, parse
from voxelsam.volumes.labels import Labels

FILE = "origin.json"

FREE = (
    "backbone.weights", "data.root", "train.checkpointing", "train.device", "train.devices", "train.loggers",
    "train.nodes", "train.save_every", "train.shard", "train.workers",
)  # fmt: skip
"""Keys of a recipe that may change when a run goes on: where things lie and how the work is done. That data and
backbone are the same is checked by their contents."""

PACKAGES = ("voxelsam", "torch", "lightning", "monai", "numpy")
"""Packages of which another version is worth a warning."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case."""

    __pydantic_config__ = config.STRICT

    files: tuple[tuple[str, int, int], ...]
    """Name, size in bytes, and date in nanoseconds of each file."""
    sha256: str
    """Over the contents of all of them."""
    side: str
    """``train`` or ``val``."""
    unlabelled: tuple[str, ...] = ()
    """Structures that nobody looked for."""


@dataclass(frozen=True)
class Origin:
    """The contents of ``origin.json``."""

    __pydantic_config__ = config.STRICT

    recipe: dict[str, Any]
    labels: dict[str, Any]
    backbone: dict[str, str]
    """``name`` and ``sha256``."""
    cases: dict[str, CaseFiles] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes it into a run folder.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(folder / FILE, json.dumps(config.plain(self), indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> Origin | None:
    """What a run was started with; None for runs of versions that did not write it.

    Raises:
        OutputError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return config.parse(Origin, json.loads(path.read_text("utf-8")), where=str(path))
    except (OSError, ValueError, ConfigError) as error:
        raise OutputError(f"{path} does not say what the run was started with ({error}): bring it back") from None


def taken(
    train: Sequence[Case],
    validation: Sequence[Case],
    recipe: Recipe,
    labels: Labels,
    backbone: Mapping[str, str],
    progress: Progress | None = None,
) -> Origin:
    """What a run is started with; reads every file once.

    Args:
        train: training cases.
        validation: the other side of the split.
        recipe: resolved.
        labels: label table of the data set.
        backbone: its name and SHA-256.
        progress: told about the cases, as (done, total).
    """
    cases = {}
    for number, (case, side) in enumerate(_sides(train, validation)):
        cases[case.id] = CaseFiles(_states(case), record.digest(_paths(case)), side, tuple(case.unlabelled))
        if progress:
            progress(number + 1, len(train) + len(validation))
    versions = {name: text for name, text in record.versions().items() if name in PACKAGES}
    return Origin(config.plain(recipe), labels.to_json(), dict(backbone), cases, versions)


def compare(
    origin: Origin,
    folder: Path,
    train: Sequence[Case],
    validation: Sequence[Case],
    recipe: Recipe,
    labels: Labels,
) -> None:
    """Whether the run may go on with what is there now; the backbone is checked by ``compare_backbone``.

    Files of the same name, size and date count as the same; others are read and compared by content.

    Args:
        origin: what the run was started with.
        folder: of the run, for messages.
        train: training cases as they are now.
        validation: the other side of the split.
        recipe: of the run folder as it is now.
        labels: label table as it is now.

    Raises:
        InputError: cases, the split or the label table changed; every change is listed.
        ConfigError: the recipe changed, and nothing else.
    """
    data = [*_of_cases(origin, train, validation), *_of_labels(origin, labels)]
    settings = list(_of_recipe(config.plain(parse(origin.recipe, where=FILE)), config.plain(recipe)))
    if data:
        raise _refusal(folder, [*data, *settings], InputError, code="SET-01")
    if settings:
        raise _refusal(folder, settings, ConfigError)
    _notice_versions(origin)


def compare_backbone(origin: Origin, folder: Path, backbone: Mapping[str, str]) -> None:
    """Whether the frozen weights are those of the start.

    Raises:
        WeightsError: they are not.
    """
    if dict(backbone) != dict(origin.backbone):
        then, now = (f"{one['name']} {one['sha256'][:16]}…" for one in (origin.backbone, backbone))
        raise _refusal(folder, [f"backbone: {then} → {now}"], WeightsError, code="WEI-01")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _of_cases(origin: Origin, train: Sequence[Case], validation: Sequence[Case]) -> Iterator[str]:
    now = {case.id: (case, side) for case, side in _sides(train, validation)}
    for name in origin.cases.keys() - now.keys():
        yield f"case {name} ({origin.cases[name].side}) is gone"
    for name, (case, side) in now.items():
        then = origin.cases.get(name)
        if then is None:
            yield f"case {name} ({side}) is new"
            continue
        if then.side != side:
            yield f"case {name}: {then.side} → {side}"
        if then.unlabelled != tuple(case.unlabelled):
            before, after = _listed(then.unlabelled), _listed(case.unlabelled)
            yield f"case {name}: structures that nobody looked for: {before} → {after}"
        states = _states(case)
        if states != then.files and record.digest(_paths(case)) != then.sha256:
            yield f"case {name}: {_listed(_changed(then.files, states))} changed"


def _changed(then: Sequence[tuple[str, int, int]], now: Sequence[tuple[str, int, int]]) -> list[str]:
    return sorted({name for name, *_ in set(then) ^ set(now)})


def _of_labels(origin: Origin, labels: Labels) -> Iterator[str]:
    then, now = (flat(table) for table in (origin.labels, labels.to_json()))
    yield from _differences("label ", then, now)


def _of_recipe(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = ({key: value for key, value in flat(values).items() if key not in FREE} for values in (then, now))
    yield from _differences("", before, after)


def _differences(prefix: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*then, *now)):
        if key not in now or key not in then or then[key] != now[key]:
            yield f"{prefix}{key}: {then.get(key, 'nothing')} → {now.get(key, 'nothing')}"


def _refusal(folder: Path, changes: Sequence[str], kind: type[VoxelSamError], code: str = "") -> VoxelSamError:
    listed = "\n".join(f"  {change}" for change in changes[:20])
    more = f"\n  and {len(changes) - 20} more" if len(changes) > 20 else ""
    return kind(
        f"the run in {folder} cannot go on, because it was started with something else:\n{listed}{more}\n"
        "Bring it back, or start a new run. Only these may change: " + ", ".join(FREE),
        code=code,
    )


def _notice_versions(origin: Origin) -> None:
    now = record.versions()
    others = [f"{name} {then} → {now.get(name)}" for name, then in origin.versions.items() if now.get(name) != then]
    if others:
        text = f"the run goes on with other versions than it was started with ({', '.join(others)}): its weights may "
        warnings.warn(text + "differ in the last digits from those of an uninterrupted one", InputWarning, stacklevel=2)


def _sides(train: Sequence[Case], validation: Sequence[Case]) -> Iterator[tuple[Case, str]]:
    yield from ((case, "train") for case in train)
    yield from ((case, "val") for case in validation)


def _paths(case: Case) -> list[Path]:
    return [path for path in (*case.images, case.label, case.instances) if path]


def _states(case: Case) -> tuple[tuple[str, int, int], ...]:
    found = []
    for path in _paths(case):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                state = file.stat()
                found.append((file.name, state.st_size, state.st_mtime_ns))
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    return shown or "none"
