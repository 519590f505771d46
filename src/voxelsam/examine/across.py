"""Rules for what only shows when cases, splits or label tables are compared."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from voxelsam.checks import Finding
from voxelsam.examine.facts import CaseFacts
from voxelsam.volumes.labels import Labels

SPREAD = 20.0
"""A case whose range of values is this many times wider or narrower than the median case's is of another family."""

ENOUGH = 4
"""Cases below this number have no median worth comparing with."""

_OF_PATIENT = re.compile(r"(?P<patient>.*\d)[_-](?P<rest>[^_-]+)")


def dataset(
    facts: Sequence[CaseFacts],
    labels: Labels | None = None,
    train: Collection[str] = (),
    val: Collection[str] = (),
    test: Collection[str] = (),
    where: str = "",
) -> list[Finding]:
    """Everything that only shows across cases.

    Args:
        facts: of all cases that could be read.
        labels: the label table, where there is one.
        train: ids of the cases to train on; empty: all that have a label and are on no other side.
        val: ids of the cases to validate on.
        test: ids of the cases that are kept for a test.
        where: data set or fold, for findings that belong to no case.
    """
    others = {*val, *test}
    learnt = set(train) or {one.id for one in facts if one.label is not None and one.id not in others}
    found = copies(facts, learnt, {"validation": set(val), "test": set(test)}, where)
    found += _patients(facts, learnt, set(val), where)
    found += _intensities(facts)
    if labels is not None:
        found += _absent([one for one in facts if one.id in learnt], labels, "training", where)
        found += _absent([one for one in facts if one.id in val], labels, "validation", where)
    return found


def tables(named: Mapping[str, Labels]) -> list[Finding]:
    """LAB-04: label tables that name one value or number one name differently.

    Args:
        named: the table of each data set (or case) that is to be used together with the others.
    """
    owners = list(named)
    found = []
    for number, first in enumerate(owners):
        for second in owners[number + 1 :]:
            if clashes := list(_clashes(named[first], named[second])):
                text = f"the tables of {first} and {second} contradict each other: {'; '.join(clashes[:10])}"
                found.append(Finding("LAB-04", "error", text, second))
    return found


def _clashes(first: Labels, second: Labels) -> Iterable[str]:
    names = {value: name for name, value in second.values.items()}
    for name, value in first.values.items():
        if value and names.get(value, name) != name:
            yield f"{value} is {name!r} and {names[value]!r}"
        if second.values.get(name, value) != value:
            yield f"{name!r} is {value} and {second.values[name]}"


def copies(
    facts: Sequence[CaseFacts],
    learnt: Collection[str] = (),
    sides: Mapping[str, Collection[str]] = MappingProxyType({}),
    where: str = "",
) -> list[Finding]:
    """Equal voxels in several cases: SET-01, or SET-02 where training and another side share them.

    Args:
        facts: of the cases.
        learnt: ids of the cases to train on.
        sides: by name, ids of cases that training must not see.
        where: data set or fold; empty: the last of the copies.
    """
    found = []
    for ids in _alike((one.id, one.image.digest) for one in facts if one.image is not None and not one.image.flat):
        leaks = [name for name, side in sides.items() if set(ids) & set(learnt) and set(ids) & set(side)]
        text = f"the images of {_listed(ids)} have the same voxels"
        if leaks:
            text += f", and are used for training and {leaks[0]}"
            found.append(Finding("SET-02", "error", text, where or ids[-1]))
        else:
            found.append(Finding("SET-01", "warning", text, where or ids[-1]))
    same_image = {one.id: one.image.digest for one in facts if one.image is not None}
    for ids in _alike((one.id, one.label.digest) for one in facts if one.label is not None and not one.label.empty):
        if len({same_image.get(name, name) for name in ids}) > 1:
            text = f"the labels of {_listed(ids)} have the same voxels"
            text += ", but their images differ" if same_image.keys() >= set(ids) else ""
            found.append(Finding("SET-01", "warning", text, where or ids[-1]))
    return found


def _alike(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    homes: dict[str, list[str]] = defaultdict(list)
    for name, digest in pairs:
        homes[digest].append(name)
    return [ids for ids in homes.values() if len(ids) > 1]


def _patients(facts: Sequence[CaseFacts], learnt: Collection[str], val: Collection[str], where: str) -> list[Finding]:
    groups = {one.id: one.group for one in facts}
    torn = sorted({groups[i] for i in learnt if i in groups} & {groups[i] for i in val if i in groups})
    found = [
        Finding("SET-02", "error", f"{group} is on both sides of the split ({_listed(_of(group, groups))})", where)
        for group in torn
    ]
    if torn or any(group != name for name, group in groups.items()):
        return found
    guessed = {name: match["patient"] for name in groups if (match := _OF_PATIENT.fullmatch(name))}
    sizes = [list(guessed.values()).count(patient) for patient in set(guessed.values())]
    if len(guessed) < len(groups) or len(sizes) < 2 or max(sizes) > max(2, len(groups) / 4):
        return found
    both = sorted({guessed[i] for i in learnt if i in guessed} & {guessed[i] for i in val if i in guessed})
    if both:
        text = (
            f"the names of cases suggest that {_listed(both)} are on both sides of the split; if they are patients, "
            "name the patient of each case"
        )
        found.append(Finding("SET-02", "warning", text, where))
    return found


def _of(group: str, groups: Mapping[str, str]) -> list[str]:
    return [name for name, home in groups.items() if home == group]


def _intensities(facts: Sequence[CaseFacts]) -> list[Finding]:
    ranges: dict[int, list[tuple[str, float, float]]] = defaultdict(list)
    for one in facts:
        for number, channel in enumerate(one.image.channels if one.image is not None else ()):
            low, _, high = channel.quantiles
            if high > low:
                ranges[number].append((one.id, low, high))
    found = []
    for number, channels in ranges.items():
        middle = float(np.median([high - low for _, low, high in channels]))
        for name, low, high in channels if len(channels) >= ENOUGH else ():
            factor = max((high - low) / middle, middle / (high - low))
            if factor > SPREAD:
                text = (
                    f"the values of channel {number} run from {low:.4g} to {high:.4g}, a range that is {factor:.0f} "
                    f"times {'wider' if high - low > middle else 'narrower'} than the median case's"
                )
                found.append(Finding("VAL-03", "warning", text, name))
    return found


def _absent(facts: Sequence[CaseFacts], labels: Labels, part: str, where: str) -> list[Finding]:
    drawn = [one for one in facts if one.label is not None]
    if not drawn:
        return []
    missing = [
        name
        for name, value in labels.values.items()
        if value and not any(one.label.counts.get(value) for one in drawn if one.label and name not in one.unlabelled)
    ]
    if not missing:
        return []
    text = f"no case of {part} shows {_listed(missing)}"
    return [Finding("LAB-03", "error" if part == "training" else "warning", text, where)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
