"""Several data sets trained together: a YAML file that names them and says which structure of theirs is which of ours.

::

    name: Abdomen
    labels: {background: 0, liver: 1, spleen: 2}
    sets:
      - {root: ../BTCV, layout: btcv, labels: {liver: liver, spleen: spleen}}
      - {root: ../LiTS, labels: {liver: liver, tumour: liver}}

Paths are relative to the file; in ``labels`` of a set their name comes first, then ours. A set without ``labels`` has
the same names. A structure of ours that a set does not map counts as not looked for in its cases (``Case.unlabelled``),
a structure of theirs that is not mapped must be declared as background with ``rest: background``, for all sets or for
one. Ids and groups get the set's name before them, ``BTCV_0001``; with ``group_prefix: false`` groups stay as they are,
so that patients whom several sets name alike stay together.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from voxelsam import config
from voxelsam.errors import ConfigError, InputError, LabelError
from voxelsam.layouts import open_dataset
from voxelsam.layouts import read_label as read_inner_label
from voxelsam.layouts._dataset import Case, Dataset, Problems, Split, stem
from voxelsam.layouts._split import check_splits
from voxelsam.volumes import LabelMap, Labels
from voxelsam.volumes.labels import Encoding

EXPECTS = "a .yaml file with the key sets: [{root: ../BTCV, labels: {their name: our name}}, …] and the key labels"
_KEY = re.compile(r"^sets\s*:", re.MULTILINE)


@dataclass(frozen=True)
class Member:
    """One of the data sets, as the file has it."""

    __pydantic_config__ = config.STRICT

    root: str
    """Folder (or file), relative to the YAML file."""
    layout: str | None = None
    """Its layout; None asks every layout."""
    name: str | None = None
    """Goes before its ids; None takes the name of the folder."""
    labels: dict[str, str] | None = None
    """Their name of each structure, or region, and ours; None where the names are the same."""
    rest: Literal["background"] | None = None
    """What structures of theirs become that are not mapped; None refuses them."""
    group_prefix: bool | None = None
    """Whether its groups get its name before them; None does as the file says for all sets."""


@dataclass(frozen=True)
class Plan:
    """The file."""

    __pydantic_config__ = config.STRICT

    labels: dict[str, Any]
    """Our table, as in nnU-Net's dataset.json."""
    sets: tuple[Member, ...]
    name: str | None = None
    """Of the data set; None takes the file's."""
    channels: tuple[str, ...] | None = None
    """Names of the channels, where the sets call them differently; None takes those of the sets."""
    rest: Literal["background"] | None = None
    """For all sets that do not say otherwise."""
    group_prefix: bool = True
    """For all sets that do not say otherwise."""


@dataclass(frozen=True)
class Joined(Case):
    """A case whose label is read by the layout that it comes from."""

    inner: Case | None = None
    """The case as its own data set has it."""
    table: Labels | None = None
    """The table of its own data set."""


def recognises(root: Path) -> bool:
    """Whether a path is a YAML file with the key ``sets``."""
    if root.suffix.lower() not in (".yaml", ".yml") or not root.is_file():
        return False
    try:
        return _KEY.search(root.read_text(encoding="utf-8-sig")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def read(root: Path) -> Dataset:
    """The cases of all sets, with one table.

    Splits are joined fold by fold, as many as every set has; there are none where a set has none.

    Args:
        root: the YAML file.

    Raises:
        InputError: all that is wrong, at once: SET-03 the file is no such YAML; what each set has to complain of;
            SET-01 sets of the same name; SET-02 groups on both sides of a split; VAL-06 channels that differ; LAB-02
            the table; LAB-04 names that no table has, structures of a set that are neither mapped nor background.
    """
    problems = Problems(root)
    plan = _plan(root, problems)
    ours = _table(plan, problems)
    members = [(member, _name(member, root), _opened(member, root, problems)) for member in plan.sets]
    for name in sorted({name for _, name, _ in members if [other for _, other, _ in members].count(name) > 1}):
        problems.add("SET-01", f"several sets are called {name}; give each a name of its own (key 'name')")
    opened = [(member, name, dataset) for member, name, dataset in members if dataset is not None]
    channels = _channels(plan, [(name, dataset) for _, name, dataset in opened], problems)
    joined = [
        _joined(member, name, dataset, plan, ours, problems) for member, name, dataset in opened if ours is not None
    ]
    train = tuple(case for part in joined for case in part.train)
    test = tuple(case for part in joined for case in part.test)
    if not plan.sets:
        problems.add("SET-01", f"no sets, so no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    splits = tuple(
        Split(tuple(n for split in folds for n in split.train), tuple(n for split in folds for n in split.val))
        for folds in zip(*(part.splits for part in joined), strict=False)
    )
    check_splits(splits, str(root), train, problems)
    problems.stop()
    kinds, windows = ({getattr(dataset, what) for _, _, dataset in opened} for what in ("kind", "window"))
    return Dataset(
        root,
        "joint",
        plan.name or root.stem,
        ours,
        channels,
        kinds.pop() if len(kinds) == 1 else "UNKNOWN",
        train,
        test,
        splits,
        windows.pop() if len(windows) == 1 else None,
    )


def read_label(case: Case, labels: Labels) -> LabelMap:
    """The label of a case that its own layout reads, in the values of our table.

    Args:
        case: one of this layout's.
        labels: our table.

    Raises:
        InputError: as the layout that the case comes from.
        LabelError: LAB-02, values that the set's table does not have.
    """
    if not isinstance(case, Joined) or case.inner is None or case.encoding is None:
        raise InputError(f"case {case.id} is no case of several data sets")
    own = read_inner_label(case.inner, case.table)
    values = case.encoding.decode(own.data, str(case.label))
    return LabelMap(values, own.grid, labels, own.source)


def _plan(root: Path, problems: Problems) -> Plan:
    try:
        values = config.read(root)
    except ConfigError as error:
        raise InputError(f"{root}: {error}", code="SET-03") from None
    for complaint in config.complaints(Plan, values):
        problems.add("SET-03", complaint.strip())
    problems.stop()
    return config.parse(Plan, values, where=str(root))


def _table(plan: Plan, problems: Problems) -> Labels | None:
    try:
        return Labels.from_json(plan.labels)
    except LabelError as error:
        problems.add("LAB-02", f"labels: {error}")
        return None


def _name(member: Member, root: Path) -> str:
    path = (root.parent / member.root).resolve()
    return member.name or (stem(path) if path.is_file() else path.name)


def _opened(member: Member, root: Path, problems: Problems) -> Dataset | None:
    path = root.parent / member.root
    if member.layout == "joint" or recognises(path):
        problems.add("SET-03", f"{member.root} is a list of data sets itself; name its sets here")
        return None
    try:
        return open_dataset(path, member.layout)
    except (InputError, ConfigError) as error:
        problems.add(error.code or "SET-01", f"{member.root}: {error}")
        return None


def _channels(plan: Plan, opened: list[tuple[str, Dataset]], problems: Problems) -> tuple[str, ...]:
    wanted = plan.channels or next((dataset.channels for _, dataset in opened), ())
    for name, dataset in opened:
        if len(dataset.channels) != len(wanted):
            problems.add(
                "VAL-06",
                f"{name} has {len(dataset.channels)} channels ({', '.join(dataset.channels)}), but there should be "
                f"{len(wanted)} ({', '.join(wanted)})",
            )
        elif not plan.channels and [c.lower() for c in dataset.channels] != [c.lower() for c in wanted]:
            problems.add(
                "VAL-06",
                f"{name} calls its channels {', '.join(dataset.channels)}, but {opened[0][0]} calls them "
                f"{', '.join(wanted)}; if they are the same, say so with channels: [{', '.join(wanted)}]",
            )
    return wanted


@dataclass(frozen=True)
class _Part:
    """What a set brings."""

    train: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    splits: tuple[Split, ...] = ()


def _joined(member: Member, name: str, dataset: Dataset, plan: Plan, ours: Labels, problems: Problems) -> _Part:
    theirs = dataset.labels
    if theirs is None:
        problems.add("LAB-02", f"{name} says nowhere which label values mean what")
        return _Part()
    targets = _targets(name, member, theirs, ours, member.rest or plan.rest, problems)
    prefixed = plan.group_prefix if member.group_prefix is None else member.group_prefix
    taken = _Taken(name, prefixed, theirs, ours, targets)
    return _Part(
        tuple(taken.case(case) for case in dataset.train),
        tuple(taken.case(case) for case in dataset.test),
        tuple(
            Split(tuple(taken.id(case) for case in split.train), tuple(taken.id(case) for case in split.val))
            for split in dataset.splits
        ),
    )


@dataclass(frozen=True)
class _Taken:
    """How cases of a set become ours."""

    name: str
    prefixed: bool
    theirs: Labels
    ours: Labels
    targets: Mapping[int, int]
    """Our value for each of theirs."""

    def id(self, theirs: str) -> str:
        return f"{self.name}_{theirs}"

    def case(self, case: Case) -> Case:
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


def _targets(
    name: str, member: Member, theirs: Labels, ours: Labels, rest: str | None, problems: Problems
) -> dict[int, int]:
    """Our value for each of their values; what is wrong with the names is noted, and then background stands in."""
    known = {**theirs.regions, **{structure: (value,) for structure, value in theirs.values.items()}}
    said = member.labels
    if said is None:
        said = {structure: structure for structure in known if structure in ours.values}
    for their, our in said.items():
        if their not in known:
            problems.add("LAB-04", f"{name}: it has no structure {their!r}{_hint(their, known)}")
        if our in ours.regions:
            problems.add("LAB-04", f"{name}: {their!r} cannot become {our!r}, a region: name one of its structures")
        elif our not in ours.values:
            problems.add(
                "LAB-04", f"{name}: {their!r} cannot become {our!r}, not in our table{_hint(our, ours.values)}"
            )
    targets = {0: 0}
    for their in sorted((one for one in said if one in known), key=lambda one: -len(known[one])):
        targets |= {value: ours.values.get(said[their], 0) for value in known[their] if value}
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


def _hint(name: str, known: Iterable[str]) -> str:
    by_small = {one.lower(): one for one in known}
    near = [by_small[one] for one in get_close_matches(name.lower(), by_small, n=1)]
    return f" (did you mean {near[0]!r}?)" if near and near[0] != name else ""
