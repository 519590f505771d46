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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from voxelsam import config
from voxelsam.errors import ConfigError, InputError, LabelError
from voxelsam.layouts import open_dataset
from voxelsam.layouts import read_label as read_inner_label
from voxelsam.layouts._dataset import Case, Dataset, Problems, Split, stem
from voxelsam.layouts._joining import Joined, Taken, targets_of
from voxelsam.layouts._split import check_splits
from voxelsam.volumes import LabelMap, Labels

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
        raise InputError(str(error), code="SET-03") from None
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
    targets = targets_of(name, member.labels, member.rest or plan.rest, (theirs, ours), problems)
    prefixed = plan.group_prefix if member.group_prefix is None else member.group_prefix
    taken = Taken(name, prefixed, theirs, ours, targets)
    return _Part(
        tuple(taken.case(case) for case in dataset.train),
        tuple(taken.case(case) for case in dataset.test),
        tuple(
            Split(tuple(taken.id(case) for case in split.train), tuple(taken.id(case) for case in split.val))
            for split in dataset.splits
        ),
    )
