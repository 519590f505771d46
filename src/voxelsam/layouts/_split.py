"""Splits that keep what belongs together on one side."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from voxelsam import checks
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


def kfold(cases: Sequence[Case], folds: int, seed: int) -> tuple[Split, ...]:
    """Cross-validation: every case is validated on once, and groups stay together.

    Groups go to the smallest fold so far, the largest groups first; among groups of one size the seed decides, by a
    hash of their names. So no two folds differ by more cases than the largest group has.

    Args:
        cases: Labelled cases.
        folds: How many, 2 or more.
        seed: Another seed gives other folds.

    Raises:
        InputError: SET-02, fewer than two folds, or fewer groups than folds.
    """
    members: dict[str, list[str]] = {}
    for case in cases:
        members.setdefault(case.group, []).append(case.id)
    if not 2 <= folds <= len(members):
        raise InputError(
            f"cases of {len(members)} patients can make 2 to {len(members)} folds, but {folds} were asked for",
            code="SET-02",
        )
    held: list[set[str]] = [set() for _ in range(folds)]
    for group in sorted(members, key=lambda name: (-len(members[name]), sha256(f"{seed}:{name}".encode()).digest())):
        min(held, key=len).update(members[group])
    return tuple(
        Split(
            tuple(case.id for case in cases if case.id not in out), tuple(case.id for case in cases if case.id in out)
        )
        for out in held
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
            _leak(f"{where}: cases on both sides: {', '.join(both)}", problems)
        for group, members in _torn(split, groups).items():
            _leak(f"{where}: {group} is on both sides ({', '.join(members)})", problems)


def _leak(message: str, problems: Problems) -> None:
    """Notes SET-02, as a warning where it is accepted."""
    if checks.accepted("SET-02"):
        checks.refuse("SET-02", message)
    else:
        problems.add("SET-02", message)


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
