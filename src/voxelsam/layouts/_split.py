"""Splits that keep what belongs together on one side."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from voxelsam.errors import InputError
from voxelsam.layouts._dataset import Case, Problems, Split


def default_split(cases: Sequence[Case], seed: int, share: float = 0.2) -> Split:
    """A split for data sets that declare none: groups in an order that the seed shuffles, until the share is reached.

    The order of a group depends on its name and the seed only, so that a case added later moves few others.

    Args:
        cases: Labelled cases.
        seed: Another seed gives another split.
        share: Part of the cases to validate on, above 0 and below 1.

    Raises:
        InputError: the share is out of range, or there are not two groups to share out.
    """
    if not 0 < share < 1:
        raise InputError(f"the share of validation cases must lie between 0 and 1, but is {share}")
    groups = sorted({case.group for case in cases}, key=lambda name: sha256(f"{seed}:{name}".encode()).digest())
    if len(groups) < 2:
        raise InputError(
            f"a split needs cases of at least two patients, but all {len(cases)} cases are of {len(groups)}",
            code="SET-02",
        )
    chosen: set[str] = set()
    for group in groups[:-1]:
        if sum(case.group in chosen for case in cases) >= share * len(cases):
            break
        chosen.add(group)
    return Split(
        tuple(case.id for case in cases if case.group not in chosen),
        tuple(case.id for case in cases if case.group in chosen),
    )


def declared_splits(value: Any, source: str, cases: Iterable[Case], problems: Problems) -> tuple[Split, ...]:
    """Splits in nnU-Net's form, a list of ``{"train": ids, "val": ids}``; what is wrong with them is noted."""
    if not isinstance(value, list) or not all(_is_fold(fold) for fold in value):
        problems.add("SET-02", f'{source}: expected a list of folds, each {{"train": [ids], "val": [ids]}}')
        return ()
    splits = tuple(Split(tuple(fold["train"]), tuple(fold["val"])) for fold in value)
    check_splits(splits, source, cases, problems)
    return splits


def check_splits(splits: Sequence[Split], source: str, cases: Iterable[Case], problems: Problems) -> None:
    """Notes SET-01 for ids that do not exist and empty sides, SET-02 for cases or groups on both sides."""
    groups = {case.id: case.group for case in cases}
    for number, split in enumerate(splits):
        where = f"{source}, fold {number}"
        for side, ids in (("train", split.train), ("val", split.val)):
            if not ids:
                problems.add("SET-01", f"{where}: no case in {side}")
            if unknown := sorted(set(ids) - set(groups)):
                problems.add("SET-01", f"{where}: {side} names cases that are not labelled here: {', '.join(unknown)}")
            if twice := sorted({name for name in ids if ids.count(name) > 1}):
                problems.add("SET-01", f"{where}: {side} names cases twice: {', '.join(twice)}")
        if both := sorted(set(split.train) & set(split.val)):
            problems.add("SET-02", f"{where}: cases on both sides: {', '.join(both)}")
        for group, members in _torn(split, groups).items():
            problems.add("SET-02", f"{where}: {group} is on both sides ({', '.join(members)})")


def _torn(split: Split, groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Groups with different cases on both sides."""
    train = {groups[name] for name in split.train if name in groups and name not in split.val}
    val = {groups[name] for name in split.val if name in groups and name not in split.train}
    members = [*split.train, *split.val]
    return {group: sorted({name for name in members if groups.get(name) == group}) for group in sorted(train & val)}


def _is_fold(fold: Any) -> bool:
    return isinstance(fold, dict) and all(
        isinstance(fold.get(side), list) and all(isinstance(name, str) for name in fold[side])
        for side in ("train", "val")
    )
