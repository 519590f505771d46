"""What layouts of public data sets share: published splits on the cases that are there, and what was not downloaded."""

from collections.abc import Collection, Sequence
from pathlib import Path

from voxelsam import checks
from voxelsam.layouts._dataset import Case, Split, some


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
