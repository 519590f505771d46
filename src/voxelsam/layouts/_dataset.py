"""Cases on disk: what every layout is turned into.

A case is one scan. Its group is what must stay together when cases are split, as a rule the patient.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from voxelsam import formats
from voxelsam.errors import ConfigError, InputError, LabelError
from voxelsam.formats import picture
from voxelsam.volumes import Kind, Labels
from voxelsam.volumes.labels import Encoding

_MR = {
    "mr", "mri", "mrt", "t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t2", "t2w", "t2s", "t2star", "t2f", "flair",
    "adc", "dwi", "hbv", "swi", "pd", "pdw", "dce", "lge", "bssfp", "cine",
}  # fmt: skip
_CT = {"ct", "cta", "cect", "cbct", "ncct"}
_SUFFIX = re.compile(r"(\.nii|\.seg|\.img|\.hdr)?\.[^.]+$", re.IGNORECASE)

TABLE_FILE = "labels.json"
"""Optional file beside a layout that has no label table of its own: name to value, as in nnU-Net's dataset.json."""


@dataclass(frozen=True)
class Choice:
    """Structures chosen and put together out of a data set's own."""

    labels: Labels
    """The table that the label files are read with."""
    values: Mapping[int, int]
    """New value of every value of that table."""


@dataclass(frozen=True)
class Case:
    """The files of one scan."""

    id: str
    images: tuple[Path, ...]
    """One file per channel, or one file that holds all channels."""
    label: Path | None = None
    group: str = ""
    """What must not be on both sides of a split, as a rule the patient; the id if not given."""
    instances: Path | None = None
    """A map on the voxels of the label that numbers single objects from 1, if the data set has one."""
    encoding: Encoding | None = None
    """What the numbers or colours of the label file stand for; None: its numbers are the values of the table."""
    reader: str = ""
    """The layout whose ``read_label`` reads the label; empty where it is an image file of a known format."""
    unlabelled: tuple[str, ...] = ()
    """Structures of the table that nobody looked for in this case: their voxels are drawn as background."""
    choice: Choice | None = None
    """What becomes of the structures in the label file; None: they stay what they are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.id)


@dataclass(frozen=True)
class Split:
    """Ids of the cases to train on and to validate on."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    name: str = ""
    """What is special about it, where a data set comes with several that differ in kind."""


@dataclass(frozen=True)
class Dataset:
    """A data set on disk; nothing of its images has been read."""

    root: Path
    layout: str
    """Name of the layout plug-in."""
    name: str
    labels: Labels | None
    """None where no case is labelled and no table is given."""
    channels: tuple[str, ...]
    kind: Kind
    train: tuple[Case, ...]
    """Cases with a label, those for validation included."""
    test: tuple[Case, ...]
    splits: tuple[Split, ...] = ()
    window: tuple[float, float] | None = None
    """Intensities (HU in CT) from black to white of the data set's published protocol, if it states them."""

    def split(self, fold: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """Cases to train on and to validate on.

        Raises:
            InputError: the data set declares no such fold.
        """
        if not 0 <= fold < len(self.splits):
            hint = (
                f"folds 0 to {len(self.splits) - 1}"
                if self.splits
                else "no splits; leave the fold out (the split of a training lies in its folder, as split.json)"
            )
            raise InputError(f"{self.root}: fold {fold} was asked for, but the data set declares {hint}")
        chosen = self.splits[fold]
        return tuple(self.case(name) for name in chosen.train), tuple(self.case(name) for name in chosen.val)

    def with_channels(self, names: Sequence[str]) -> Self:
        """The data set with some of its channels, in the order asked for.

        Args:
            names: Out of ``channels``, each once.

        Raises:
            ConfigError: no name, a name twice, or one that is no channel.
            InputError: VAL-06, a case has all its channels in one file, so that they cannot be told apart.
        """
        chosen = tuple(names)
        strange = [name for name in chosen if name not in self.channels]
        if not chosen or strange or len(set(chosen)) < len(chosen):
            raise ConfigError(
                f"channels to choose from are {', '.join(self.channels)}, each at most once; "
                f"asked for were {', '.join(chosen) or 'none'}"
            )
        if chosen == self.channels:
            return self
        whole = [case.id for case in (*self.train, *self.test) if len(case.images) != len(self.channels)]
        if whole:
            raise InputError(
                f"{self.root}: channels can be chosen where each is a file of its own, but the cases "
                f"{some(whole)} have {len(self.channels)} channels in fewer files; write the channels to files",
                code="VAL-06",
            )
        places = [self.channels.index(name) for name in chosen]

        def pick(cases: Sequence[Case]) -> tuple[Case, ...]:
            return tuple(replace(case, images=tuple(case.images[place] for place in places)) for case in cases)

        kind = kind_of(chosen) if self.kind == "UNKNOWN" else self.kind
        return replace(self, channels=chosen, kind=kind, train=pick(self.train), test=pick(self.test))

    def with_structures(self, wanted: Mapping[str, Sequence[str]]) -> Self:
        """The data set with other structures: some of its own, or several of them as one; the rest is background.

        They get the values 1, 2, … in the order given, and an ignore value stays one.

        Args:
            wanted: for each new structure the names of structures or regions that make it up.

        Raises:
            ConfigError: nothing is wanted, a name is unknown, or a structure would belong to two.
            InputError: the data set has no label table, or was changed in this way before.
        """
        table = self.labels
        if table is None or any(case.choice for case in (*self.train, *self.test)):
            raise InputError(f"{self.root}: structures are chosen once, out of a label table; there is none")
        values = {name: _values_of(names, table) for name, names in wanted.items()}
        taken = [value for members in values.values() for value in members]
        if not taken or len(set(taken)) < len(taken):
            raise ConfigError(
                f"each structure of {self.root} goes into one chosen structure at most, and there is at least one; "
                f"asked for were {', '.join(f'{name} of {list(names)}' for name, names in wanted.items()) or 'none'}"
            )
        numbers = dict.fromkeys(table.values.values(), 0)
        for new, members in enumerate(values.values(), 1):
            numbers |= dict.fromkeys(members, new)
        ignore = None
        if table.ignore is not None:
            ignore = numbers[table.ignore] = len(values) + 1
        kept = {name: table.codes[name] for name in values if name in table.codes}
        labels = Labels({"background": 0} | {name: number for number, name in enumerate(values, 1)}, ignore, codes=kept)
        names = {value: name for name, value in table.values.items()}

        def changed(cases: Sequence[Case]) -> tuple[Case, ...]:
            return tuple(
                replace(
                    case,
                    choice=Choice(table, numbers),
                    unlabelled=tuple(
                        new
                        for new, members in values.items()
                        if any(names[value] in case.unlabelled for value in members)
                    ),
                )
                for case in cases
            )

        return replace(self, labels=labels, train=changed(self.train), test=changed(self.test))

    def case(self, id: str) -> Case:  # noqa: A002 - the field's name
        """The case of that id.

        Raises:
            InputError: there is none.
        """
        for case in (*self.train, *self.test):
            if case.id == id:
                return case
        raise InputError(f"{self.root}: no case {id!r} among {len(self.train)} + {len(self.test)} cases")


def _values_of(names: Sequence[str], table: Labels) -> tuple[int, ...]:
    """Values of structures and regions."""
    found: list[int] = []
    for name in names:
        if name in table.regions:
            found += table.regions[name]
        elif name in table.names:
            found.append(table.values[name])
        else:
            known = ", ".join((*table.names, *table.regions))
            raise ConfigError(f"no structure or region is named {name!r}; there are {known}")
    return tuple(found)


@dataclass
class Problems:
    """Everything that is wrong with a data set, to be told at once."""

    root: Path
    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, code: str, message: str) -> None:
        """Notes a problem under a code, e.g. ``SET-01``."""
        self.found.append((code, message))

    def missing(self, paths: Iterable[Path], owner: str) -> None:
        """Notes each file that does not exist."""
        for path in paths:
            if not path.is_file():
                self.add("SET-01", f"{owner}: {path} does not exist")

    def check_ids(self, cases: Sequence[Case]) -> None:
        """Notes ids and files that occur in several cases, and ids that cannot name a file of results."""
        seen: dict[str, str] = {}
        for case in cases:
            if case.id.startswith(".") or re.search(r"[/\\\0]", case.id):
                self.add("SET-01", f"id {case.id!r}: results are named after it, so it must be a plain file name")
            for key in (f"id {case.id}", *(f"file {path}" for path in case.images)):
                if key in seen:
                    self.add("SET-01", f"{key} occurs twice (cases {seen[key]} and {case.id})")
                seen[key] = case.id

    def stop(self) -> None:
        """Ends reading if anything was noted.

        Raises:
            InputError: all problems, one per line; its code is that of the first.
        """
        if self.found:
            lines = "\n".join(f"  {code}: {message}" for code, message in self.found)
            raise InputError(
                f"{self.root}: the data set cannot be used (problems: {len(self.found)}):\n{lines}",
                code=self.found[0][0],
            )


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: SET-03, it cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", code="SET-03") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})", code="SET-03") from None


def read_table(path: Path) -> dict[str, Any]:
    """``read_json`` for files that must hold keys and values.

    Raises:
        InputError: SET-03, it cannot be read, is no JSON, or holds something else.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, but it holds a {type(values).__name__}", code="SET-03")
    return values


def stem(path: Path) -> str:
    """File name without its suffix, ``.nii.gz`` counting as one."""
    return _SUFFIX.sub("", path.name)


def visible(folder: Path) -> list[Path]:
    """Files of a folder in the order of their names, without hidden ones; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def folders(root: Path) -> list[Path]:
    """Folders in a folder in the order of their names, without hidden ones; empty if there is no such folder."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def some(names: Sequence[str], most: int = 10) -> str:
    """Names for a message, e.g. ``a, b and 3 more``."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def kind_of(channels: Iterable[str]) -> Kind:
    """CT or MR if the names of all channels say so, else UNKNOWN."""
    kinds: set[Kind] = {_kind(name) for name in channels}
    return kinds.pop() if len(kinds) == 1 else "UNKNOWN"


def channels_in(cases: Sequence[Case], files: Sequence[str]) -> tuple[tuple[str, ...], Kind]:
    """Names of the channels, and kind, where no description says them: one channel per file, but three in a picture.

    Args:
        cases: all cases; if each is one picture, the first is read.
        files: names of the files of a case.

    Raises:
        InputError: the picture cannot be read.
    """
    first = cases[0].images[0]
    if len(files) > 1 or not picture.named_so(first):
        return tuple(files), "UNKNOWN"
    return ("red", "green", "blue") if picture.read(first).channels == 3 else tuple(files), "PICTURE"


def labels_of(values: dict[str, Any], source: Path, problems: Problems) -> Labels | None:
    """The label table under the key ``labels``; what is wrong with it is noted."""
    if "labels" not in values:
        problems.add("SET-01", f"{source} has no label table (key 'labels')")
        return None
    try:
        return Labels.from_json(values["labels"], values.get("codes"))
    except LabelError as error:
        problems.add("LAB-02", f"{source}: {error}")
        return None


def channels_of(values: dict[str, Any], source: Path, problems: Problems) -> tuple[str, ...]:
    """Channel names under ``channel_names`` (nnU-Net 2) or ``modality`` (nnU-Net 1, Decathlon), in their order."""
    table = values.get("channel_names", values.get("modality"))
    numbers = [str(number) for number in range(len(table))] if isinstance(table, dict) else []
    if not numbers or not isinstance(table, dict) or set(table) != set(numbers):
        problems.add(
            "VAL-06",
            f'{source}: \'channel_names\' must number the channels from 0, such as {{"0": "CT"}}, but are {table!r}',
        )
        return ()
    return tuple(str(table[number]) for number in numbers)


def found_labels(root: Path, cases: Iterable[Case], problems: Problems) -> Labels | None:
    """The table in ``labels.json``, else one made from the values in all label files (which are read).

    Raises:
        InputError: the table or label files cannot be used; all of them are named.
    """
    if (root / TABLE_FILE).is_file():
        return Labels.from_json(read_table(root / TABLE_FILE))
    values: set[int] = set()
    for case in cases:
        try:
            if case.label is not None:
                values |= set(formats.read_labels(case.label).labels.values.values())
        except InputError as error:
            problems.add(error.code, str(error))
    problems.stop()
    return Labels.of_values(values) if values else None


def _kind(name: str) -> Kind:
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & _CT and not words & _MR:
        return "CT"
    if words & _MR and not words & _CT:
        return "MR"
    return "UNKNOWN"
