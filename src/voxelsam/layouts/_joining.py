"""How the cases of a data set become those of a joint one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

from voxelsam.layouts._dataset import Case, Problems
from voxelsam.volumes import Labels
from voxelsam.volumes.labels import Encoding


@dataclass(frozen=True)
class Joined(Case):
    """A case whose label is read by the layout that it comes from."""

    inner: Case | None = None
    """The case as its own data set has it."""
    table: Labels | None = None
    """The table of its own data set."""


@dataclass(frozen=True)
class Taken:
    """How cases of a set become ours."""

    name: str
    prefixed: bool
    theirs: Labels
    ours: Labels
    targets: Mapping[int, int]
    """Our value for each of theirs."""

    def id(self, theirs: str) -> str:
        """Our id of a case."""
        return f"{self.name}_{theirs}"

    def case(self, case: Case) -> Case:
        """Our case; numbers of single objects are given up where some of the objects become background."""
        group = f"{self.name}_{case.group}" if self.prefixed else case.group
        moved = replace(case, id=self.id(case.id), group=group)
        if case.label is None:
            return moved
        whole = all(target for value, target in self.targets.items() if value)
        encoding = Encoding(values=self.targets) if case.reader else self._encoding(case.encoding)
        moved = replace(
            moved,
            encoding=encoding,
            unlabelled=self._unlabelled(case.unlabelled),
            instances=case.instances if whole else None,
        )
        if not case.reader:
            return moved
        said = {field.name: getattr(moved, field.name) for field in fields(Case)} | {"reader": "joint"}
        return Joined(**said, inner=case, table=self.theirs)

    def _encoding(self, own: Encoding | None) -> Encoding:
        if own is None:
            return Encoding(values=self.targets)
        if own.colours is not None:
            return Encoding(colours={colour: self.targets[value] for colour, value in own.colours.items()})
        return Encoding(values={number: self.targets[value] for number, value in (own.values or {}).items()})

    def _unlabelled(self, theirs: Iterable[str]) -> tuple[str, ...]:
        """Structures of ours that nobody looked for: those the set does not map, and what becomes of its own such."""
        looked = set(self.targets.values()) - {self.targets[self.theirs.values[name]] for name in theirs}
        return tuple(name for name in self.ours.names if self.ours.values[name] not in looked)


def targets_of(
    name: str, said: Mapping[str, str] | None, rest: str | None, tables: tuple[Labels, Labels], problems: Problems
) -> dict[int, int]:
    """Our value for each of their values; background stands in where the names are wrong.

    Args:
        name: of the set, for messages.
        said: their name of each structure, or region, and ours; None where the names are the same.
        rest: what structures of theirs become that are not mapped; None refuses them.
        tables: theirs and ours.
        problems: takes note of names that no table has and of structures that are left (LAB-04).
    """
    theirs, ours = tables
    known = {**theirs.regions, **{structure: (value,) for structure, value in theirs.values.items() if value}}
    if said is None:
        said = {structure: structure for structure in known if structure in ours.values}
    for their in [one for one, our in said.items() if theirs.values.get(one) == 0 != ours.values.get(our)]:
        problems.add("LAB-04", f"{name}: {their!r} is its background and cannot become {said[their]!r}")
    said = {their: our for their, our in said.items() if theirs.values.get(their) != 0}
    _check_names(name, known, said, ours, problems)
    targets = {0: 0}
    for their in sorted((one for one in said if one in known), key=lambda one: -len(known[one])):
        targets |= dict.fromkeys(known[their], ours.values.get(said[their], 0))
    left = [structure for structure, value in theirs.values.items() if value not in targets]
    if left and rest is None:
        hints = [f"{structure}{_hint(structure, ours.values)}" for structure in left]
        problems.add(
            "LAB-04",
            f"{name}: not mapped: {', '.join(hints)}; name what they are in our table (key 'labels'), or declare them "
            "as background (rest: background)",
        )
    targets |= {theirs.values[structure]: 0 for structure in left}
    if theirs.ignore is not None:
        if ours.ignore is None:
            problems.add("LAB-04", f"{name}: it has an ignore value, so our table needs one as well (ignore: 255)")
        targets[theirs.ignore] = ours.ignore or 0
    return targets


def _check_names(
    name: str, known: Mapping[str, tuple[int, ...]], said: Mapping[str, str], ours: Labels, problems: Problems
) -> None:
    for their, our in said.items():
        if their not in known:
            problems.add("LAB-04", f"{name}: it has no structure {their!r}{_hint(their, known)}")
        if our in ours.regions:
            problems.add("LAB-04", f"{name}: {their!r} cannot become {our!r}, a region: name one of its structures")
        elif our not in ours.values:
            problems.add(
                "LAB-04", f"{name}: {their!r} cannot become {our!r}, not in our table{_hint(our, ours.values)}"
            )


def _hint(name: str, known: Iterable[str]) -> str:
    by_small = {one.lower(): one for one in known}
    near = [by_small[one] for one in get_close_matches(name.lower(), by_small, n=1)]
    return f" (did you mean {near[0]!r}?)" if near and near[0] != name else ""
