"""What layouts of public data sets share: files named as published, splits on what is there, what is not there."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from voxelsam import checks
from voxelsam.layouts._dataset import Case, Problems, Split, some, visible


def numbered(
    folder: Path, pattern: re.Pattern[str], example: str, problems: Problems, prefix: str = ""
) -> dict[str, Path]:
    """Files of a folder by the first group of a pattern that their names match.

    Args:
        folder: where they lie; one that does not exist holds nothing.
        pattern: of a whole name, with what tells the files apart as its first group.
        example: a name as it should be, for messages.
        problems: takes note of other names, and of two files of one name (SET-01).
        prefix: goes before the names in messages.
    """
    files: dict[str, Path] = {}
    for path in visible(folder):
        if match := pattern.fullmatch(path.name):
            put(files, match[1], path, problems, prefix)
        else:
            problems.add("SET-01", f"{path}: expected a name such as {example}; move other files elsewhere")
    return files


def put(files: dict[str, Path], name: str, path: Path, problems: Problems, prefix: str = "") -> None:
    """Enters a file under its name; one that is there already is noted (SET-01), with a prefix before the name."""
    if name in files:
        problems.add("SET-01", f"{prefix}{name}: both {files[name]} and {path} have this name; keep one")
    files[name] = path


def check_twins(
    images: Mapping[str, Path], labels: Mapping[str, Path], twins: tuple[str, str], problems: Problems, prefix: str = ""
) -> None:
    """Notes (SET-01) images without a label and labels without an image.

    Args:
        images: image of each name.
        labels: label of each name.
        twins: where image and label of a name should be, with ``{}`` for the name.
        problems: takes note.
        prefix: goes before the names.
    """
    for name in sorted(images.keys() ^ labels.keys()):
        lone, lacks = (images[name], twins[1]) if name in images else (labels[name], twins[0])
        problems.add("SET-01", f"{prefix}{name}: {lone} has no twin {lacks.format(name)}; download it again")


def hold_out(cases: Sequence[Case], val: Collection[str], name: str) -> tuple[Split, ...]:
    """One split: the cases of these ids to validate on, all others to train on; none where a side would be empty."""
    chosen = tuple(case.id for case in cases if case.id in val)
    others = tuple(case.id for case in cases if case.id not in val)
    return (Split(others, chosen, name),) if chosen and others else ()


def note_absent(root: Path, expected: Collection[str], found: Collection[str], what: str) -> None:
    """Warns (SET-01) of what the published data set has and the folder has not: splits and scores differ then.

    Args:
        root: The folder.
        expected: Names of all that was published.
        found: Names of what is there.
        what: What the names stand for, in the plural.
    """
    absent = sorted(set(expected) - set(found))
    if absent:
        checks.notice(
            "SET-01",
            f"{root}: {len(absent)} of {len(set(expected))} published {what} are not here ({some(absent)}); download "
            "them, or do not compare scores with published ones",
            stacklevel=4,
        )
