"""Label tables: which number in a label file means which structure.

Two numberings exist. *Values* are what files hold: any numbers from 0 to 65535, 0 is the background. *Classes* are
what networks see: 0, 1, 2 … without gaps, in the order of the values. A table turns one into the other and refuses
numbers it does not know. The ignore value marks voxels that nobody labelled (scribbles); it is no class.

*Regions* are names for several values at once, such as a tumour with all its parts. They may overlap; networks see the
values, evaluation also reports the regions. A value without a name of its own is named after the smallest region that
holds it: with ``disc: [1, 2], cup: 2`` the value 1 is ``disc_only``.
"""

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Integer, UInt8

from voxelsam.errors import LabelError
from voxelsam.volumes._terms import Code, code_of

LARGEST = 65535
"""Largest label value."""

IGNORE_NAME = "ignore"
"""Name of the ignore value in a data set's JSON, as in nnU-Net."""

_PALETTE = (
    (230, 75, 53), (77, 187, 213), (0, 160, 135), (243, 200, 60), (92, 107, 192), (244, 155, 127), (126, 97, 72),
    (145, 209, 194), (214, 96, 172), (110, 180, 63), (176, 156, 217), (255, 140, 0),
)  # fmt: skip
_IGNORE_COLOUR = (128, 128, 128)
_GOLDEN = 0.618033988749895
_PIECE = 1 << 22
"""Voxels counted at a time, so that no copy of a whole scan is made."""


@dataclass(frozen=True)
class Labels:
    """Names and values of a label table.

    Raises:
        LabelError: no name has the value 0, two names share a value, a value is no integer from 0 to 65535, a
            region is empty, has the name or the values of another one, or values that are no structure's, or a code
            belongs to no structure and no region.
    """

    values: Mapping[str, int]
    """Value of each name, background included, ordered by value; the ignore value is not among them."""
    ignore: int | None = None
    """Value of voxels that nobody labelled, if the table has one."""
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Values of each name that stands for several, ascending."""
    codes: Mapping[str, Code] = field(default_factory=dict)
    """Coded terms of structures and regions, where they are not what the built-in table says; see ``code``."""

    def __post_init__(self) -> None:
        every = [*self.values.items(), *([] if self.ignore is None else [(IGNORE_NAME, self.ignore)])]
        for name, value in every:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
                raise LabelError(f"label {name!r} must have an integer value from 0 to {LARGEST}, but has {value!r}")
        numbers = [value for _, value in every]
        if twice := sorted(value for value, count in Counter(numbers).items() if count > 1):
            shared = "; ".join(f"{value}: {', '.join(n for n, v in every if v == value)}" for value in twice)
            raise LabelError(f"each label needs a value of its own, but some are shared ({shared})")
        if 0 not in self.values.values():
            raise LabelError(f"a label table needs a background with the value 0, but has {dict(self.values)}")
        object.__setattr__(self, "values", dict(sorted(self.values.items(), key=lambda item: item[1])))
        regions = {name: _members(name, values) for name, values in self.regions.items()}
        object.__setattr__(self, "regions", regions)
        self._check_regions()
        self._check_codes()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the foreground, in the order of their values."""
        return tuple(name for name, value in self.values.items() if value != 0)

    @property
    def count(self) -> int:
        """Number of classes, background included."""
        return len(self.values)

    @property
    def ignore_class(self) -> int:
        """Class index that stands for "not labelled": 255, or 65535 in tables of more than 255 classes."""
        return 255 if self.count <= 255 else LARGEST

    def colour(self, value: int) -> tuple[int, int, int]:
        """Red, green, blue (0 to 255) for a value; the same in every table.

        Raises:
            LabelError: the value is not in the table.
        """
        if value == self.ignore:
            return _IGNORE_COLOUR
        if value not in self.values.values():
            raise LabelError(f"no label has the value {value}; there are {self._known()}", code="LAB-02")
        if value == 0:
            return (0, 0, 0)
        if value <= len(_PALETTE):
            return _PALETTE[value - 1]
        red, green, blue = colorsys.hls_to_rgb(value * _GOLDEN % 1.0, 0.4 + 0.1 * (value % 3), 0.7)
        return (round(255 * red), round(255 * green), round(255 * blue))

    def code(self, name: str) -> Code:
        """The coded term of a structure or region: the one given, else SNOMED CT's of the name, else a private one.

        Raises:
            LabelError: the table has no such structure or region.
        """
        if name not in self.names and name not in self.regions:
            raise LabelError(f"no structure or region is named {name!r}; there are {self._known()}")
        return self.codes.get(name) or code_of(name)

    def unexpected(self, array: Integer[np.ndarray, "..."]) -> dict[int, int]:
        """Values of an array that the table does not know, each with its number of voxels."""
        known = {*self.values.values(), self.ignore}
        return {value: count for value, count in count_values(array).items() if value not in known}

    def check(self, array: Integer[np.ndarray, "..."], where: str = "the label array") -> None:
        """Refuses an array with values outside the table.

        Args:
            array: Label values.
            where: What the message calls the array, e.g. its file.

        Raises:
            LabelError: LAB-02, with each unexpected value and its number of voxels.
        """
        strange = self.unexpected(array)
        if not strange:
            return
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:20])
        hint = "correct the file, or add the values to the table"
        if set(strange) == {255} and self.count == 2:
            wanted = max(self.values.values())
            hint = f"the file looks like a 0/255 mask: write {wanted} in place of 255, or give the label the value 255"
        elif -1 in strange:
            hint = "negative values are never labels; mark unlabelled voxels by the table's ignore value"
        raise LabelError(
            f"{where} should hold the values {self._known()}, but also holds {listed}; {hint}", code="LAB-02"
        )

    def to_classes(self, array: Integer[np.ndarray, "..."]) -> np.ndarray[Any, Any]:
        """Label values as class indices without gaps.

        Returns:
            Array of the same shape, uint8 (uint16 from 256 classes on); ignored voxels are ``ignore_class``.

        Raises:
            LabelError: LAB-02, the array holds values outside the table.
        """
        self.check(array)
        table = np.zeros(LARGEST + 1, dtype=np.uint8 if self.count <= 255 else np.uint16)
        table[list(self.values.values())] = np.arange(self.count)
        if self.ignore is not None:
            table[self.ignore] = self.ignore_class
        return np.asarray(table[array])

    def from_classes(self, array: Integer[np.ndarray, "..."]) -> np.ndarray[Any, Any]:
        """Class indices as label values; the way back from ``to_classes``.

        Returns:
            Array of the same shape, uint8 where the largest value allows, else uint16.

        Raises:
            LabelError: LAB-02, an index is no class of this table.
        """
        known = {*range(self.count), *([] if self.ignore is None else [self.ignore_class])}
        strange = {value: count for value, count in count_values(array).items() if value not in known}
        if strange:
            listed = ", ".join(f"{value} ({count} voxels)" for value, count in strange.items())
            raise LabelError(
                f"classes run from 0 to {self.count - 1}, but the array also holds {listed}", code="LAB-02"
            )
        numbers = [*self.values.values(), self.ignore or 0]
        table = np.zeros(LARGEST + 1, dtype=np.uint8 if max(numbers) <= 255 else np.uint16)
        table[: self.count] = numbers[:-1]
        if self.ignore is not None:
            table[self.ignore_class] = self.ignore
        return np.asarray(table[array])

    @classmethod
    def from_json(cls, table: Mapping[str, Any], codes: Mapping[str, Any] | None = None) -> Self:
        """A table from a data set's JSON: name to value (nnU-Net 2) or value to name (Decathlon, nnU-Net 1).

        Args:
            table: What ``to_json`` gave.
            codes: What ``codes_to_json`` gave, if any.

        Raises:
            LabelError: the table is not valid.
        """
        if not isinstance(table, Mapping):
            raise LabelError(f"labels must map names to values, but are a {type(table).__name__}")
        if table and all(isinstance(name, str) for name in table.values()):
            table = _inverted(table)
        lists = {name: _members(name, value) for name, value in table.items() if isinstance(value, list | tuple)}
        values = {name: value for name, value in table.items() if name not in lists}
        ignore = values.pop(IGNORE_NAME, None)
        regions = {name: value for name, value in lists.items() if len(value) != 1}
        values |= {name: value[0] for name, value in lists.items() if len(value) == 1}
        if not isinstance(codes, Mapping | None):
            raise LabelError(f"codes must map names to coded terms, but are a {type(codes).__name__}")
        terms = {name: Code.from_json(term) for name, term in (codes or {}).items()}
        return cls(values | _remainders(values, regions), ignore, regions, terms)

    def to_json(self) -> dict[str, Any]:
        """The table as in nnU-Net 2, regions as lists, without codes; ``from_json`` reads it back."""
        ignore = {} if self.ignore is None else {IGNORE_NAME: self.ignore}
        return {**self.values, **ignore, **{name: list(values) for name, values in self.regions.items()}}

    def codes_to_json(self) -> dict[str, dict[str, Any]]:
        """The codes given, by name; apart from ``to_json``, whose entries nnU-Net takes for values."""
        return {name: code.to_json() for name, code in self.codes.items()}

    @classmethod
    def of_values(cls, values: set[int]) -> Self:
        """A table for values without names: ``label_3`` for 3.

        Raises:
            LabelError: LAB-02, a value lies outside 0 to 65535.
        """
        if strange := sorted(value for value in values if not 0 <= value <= LARGEST):
            raise LabelError(f"label values run from 0 to {LARGEST}, but {strange[:20]} came", code="LAB-02")
        return cls({"background": 0, **{f"label_{value}": value for value in sorted(values - {0})}})

    def _check_regions(self) -> None:
        structures = set(self.values.values()) - {0}
        for name, values in self.regions.items():
            if len(values) < 2:
                raise LabelError(f"the region {name!r} stands for several values, but has {list(values)}")
            if strange := [value for value in values if value not in structures]:
                raise LabelError(f"the region {name!r} holds {strange}, but no structure has such a value")
            if name in self.values or name == IGNORE_NAME:
                raise LabelError(f"the name {name!r} stands for a region and for a value")
            if same := [other for other in self.regions if other < name and self.regions[other] == values]:
                raise LabelError(f"the regions {same[0]!r} and {name!r} have the same values {list(values)}")

    def _check_codes(self) -> None:
        if strange := [name for name in self.codes if name not in self.names and name not in self.regions]:
            raise LabelError(f"codes are given for {strange}, but no structure or region has such a name")
        if wrong := [name for name, code in self.codes.items() if not isinstance(code, Code)]:
            raise LabelError(f"the code of {wrong[0]!r} must be a Code, but is a {type(self.codes[wrong[0]]).__name__}")
        object.__setattr__(self, "codes", dict(self.codes))

    def _known(self) -> str:
        ignore = {} if self.ignore is None else {IGNORE_NAME: self.ignore}
        known = [f"{value} {name}" for name, value in (dict(self.values) | ignore).items()]
        return ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")


@dataclass(frozen=True)
class Encoding:
    """How label files say what they say, where their numbers are not the values of the table.

    Raises:
        LabelError: numbers and colours are both given, or neither.
    """

    values: Mapping[int, int] | None = None
    """Value of the table for every number that a file may hold."""
    colours: Mapping[tuple[int, int, int], int] | None = None
    """Value of the table for every colour (red, green, blue) that a file may hold."""

    def __post_init__(self) -> None:
        if (self.values is None) == (self.colours is None):
            raise LabelError("a label encoding gives values to numbers or to colours, one of the two")

    def decode(self, numbers: Integer[np.ndarray, "..."], where: str = "the label array") -> np.ndarray[Any, Any]:
        """Numbers of a file as values of the table.

        Args:
            numbers: what the file holds; the encoding must be one of numbers.
            where: What the message calls the array, e.g. its file.

        Returns:
            uint16 array of the same shape.

        Raises:
            LabelError: LAB-02, numbers without a value, each with its number of voxels.
        """
        table = self.values or {}
        found = count_values(numbers)
        if strange := {number: count for number, count in found.items() if number not in table}:
            listed = ", ".join(f"{number} ({count} voxels)" for number, count in list(strange.items())[:20])
            raise LabelError(
                f"{where} should hold the numbers {', '.join(map(str, table))}, but also holds {listed}; correct the "
                "file, or say what they stand for",
                code="LAB-02",
            )
        if not found or min(found) < 0 or max(found) > LARGEST:
            values = np.zeros(numbers.shape, np.uint16)
            for number in found:
                values[numbers == number] = table[number]
            return values
        every = np.zeros(max(found) + 1, np.uint16)
        every[list(found)] = [table[number] for number in found]
        return np.asarray(every[numbers])


def count_values(array: Integer[np.ndarray, "..."]) -> dict[int, int]:
    """Number of voxels of each value in an array of integers, in the order of the values."""
    flat = array.ravel(order="K")
    if not flat.size:
        return {}
    low, high = int(flat.min()), int(flat.max())
    if high - low > LARGEST or high > np.iinfo(np.int64).max:
        found, counts = np.unique(flat, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))
    every = np.zeros(high - low + 1, np.int64)
    for start in range(0, flat.size, _PIECE):
        every += np.bincount(flat[start : start + _PIECE].astype(np.int64) - low, minlength=len(every))
    return {low + int(place): int(every[place]) for place in np.flatnonzero(every)}


def colours_to_labels(
    picture: UInt8[np.ndarray, "... 3"],
    colours: Mapping[tuple[int, int, int], int],
    unknown: Literal["background", "error"] = "error",
) -> np.ndarray[Any, Any]:
    """Label values from a picture whose colours stand for structures.

    Args:
        picture: Red, green, blue from 0 to 255 in the last axis.
        colours: Label value of each colour.
        unknown: What a colour without a value becomes: label 0, or an error.

    Returns:
        uint16 array without the last axis.

    Raises:
        LabelError: LAB-02, colours without a value, each with its number of pixels.
    """
    packed = _packed(picture)
    labels = np.zeros(packed.shape, dtype=np.uint16)
    known = np.zeros(packed.shape, dtype=bool)
    for colour, value in colours.items():
        here = packed == _packed(np.array(colour))
        labels[here] = value
        known |= here
    if unknown == "error" and not known.all():
        found, counts = np.unique(packed[~known], return_counts=True)
        most = sorted(zip(counts, found, strict=True), reverse=True)[:10]
        listed = ", ".join(f"({c >> 16}, {c >> 8 & 255}, {c & 255}): {count} pixels" for count, c in most)
        raise LabelError(
            f"{len(found)} colours have no label value: {listed}; name them, or let unknown colours be background",
            code="LAB-02",
        )
    return labels


def _packed(colours: Integer[np.ndarray, "... 3"]) -> np.ndarray[Any, Any]:
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    packed: np.ndarray[Any, Any] = red << 16 | green << 8 | blue
    return packed


def _members(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    """The values of a region, ascending."""
    if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        raise LabelError(f"the region {name!r} must list integer values, but has {list(values)}")
    return tuple(sorted(set(values)))


def _remainders(values: Mapping[str, Any], regions: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Names for the values that occur in regions only: ``disc_only``, or ``disc_only_1`` where there are several."""
    nameless = sorted({value for members in regions.values() for value in members} - set(values.values()))
    homes = {value: min((len(m), name) for name, m in regions.items() if value in m)[1] for value in nameless}
    alone = {value: list(homes.values()).count(home) == 1 for value, home in homes.items()}
    names = {value: f"{home}_only" if alone[value] else f"{home}_only_{value}" for value, home in homes.items()}
    if taken := sorted({*names.values()} & {*values, *regions}):
        raise LabelError(
            f"the table needs a name for a value of a region alone, but {taken[0]!r} is taken; give it one"
        )
    return {name: value for value, name in names.items()}


def _inverted(table: Mapping[str, str]) -> dict[str, Any]:
    inverted: dict[str, Any] = {}
    for value, name in table.items():
        if not str(value).isdecimal():
            raise LabelError(f"labels map names to values or values to names, but {value!r}: {name!r} is neither")
        if name in inverted:
            raise LabelError(f"the label name {name!r} stands for {inverted[name]} and for {value}")
        inverted[name] = int(value)
    return inverted
