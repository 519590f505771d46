"""Folders on disk to cases.

The module is the plug-in: each module of this folder reads one layout and offers the names of ``Layout``. Label files
are read only where nothing else says which values there are, and no images, but for one picture where nothing else says
how many channels there are.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from voxelsam import formats, plugins
from voxelsam.errors import InputError
from voxelsam.layouts._dataset import Case, Choice, Dataset, Split
from voxelsam.layouts._split import default_split, kfold
from voxelsam.volumes import LabelMap, Labels

__all__ = ["Case", "Dataset", "Layout", "Split", "default_split", "kfold", "open_dataset", "read_label"]


@runtime_checkable
class Layout(Protocol):
    """What a layout module offers.

    A module whose folders also look like those of more general layouts names these in ``SPECIALISES``, a tuple, and
    goes before them.
    """

    EXPECTS: str
    """The structure in one line, for messages."""

    def recognises(self, root: Path) -> bool:
        """Whether a folder (or file) looks like this layout, be it complete or not."""
        ...

    def read(self, root: Path) -> Dataset:
        """The data set; all that is wrong with it is told in one InputError."""
        ...


@runtime_checkable
class LabelReader(Protocol):
    """What a layout offers besides, if its labels are not images but contours, say."""

    def read_label(self, case: Case, labels: Labels) -> LabelMap:
        """The label map of one of its cases, on the voxels of the image."""
        ...


def read_label(case: Case, labels: Labels | None = None) -> LabelMap:
    """The label map of a case.

    Args:
        case: the files.
        labels: Table that the values must be in; None makes one from the values found.

    Raises:
        InputError: SET-01, the case has no label; else as ``formats.read_labels``.
    """
    if case.label is None:
        raise InputError(f"case {case.id} has no label", code="SET-01")
    if case.choice is not None:
        return _chosen(read_label(replace(case, choice=None), case.choice.labels), case.choice, labels)
    if case.reader:
        if labels is None:
            raise InputError(f"case {case.id}: its label can only be read with the data set's label table")
        return cast("LabelReader", _module(case.reader)).read_label(case, labels)
    return formats.read_labels(case.label, labels, case.encoding)


def _chosen(label_map: LabelMap, choice: Choice, labels: Labels | None) -> LabelMap:
    """The label map with its structures put together as chosen."""
    numbers = np.zeros(max(choice.values) + 1, np.uint16)
    numbers[list(choice.values)] = list(choice.values.values())
    data = numbers[label_map.data].astype(label_map.data.dtype)
    return replace(label_map, data=data, labels=labels or Labels.of_values({*choice.values.values()}))


def open_dataset(root: str | Path, layout: str | None = None) -> Dataset:
    """The data set in a folder.

    Args:
        root: The folder, or a CSV.
        layout: Name of the layout; None asks each layout whether it recognises the folder.

    Raises:
        ConfigError: there is no such layout.
        InputError: the folder does not exist, none or several layouts recognise it, or the data set is not sound (all
            problems at once).
    """
    path = Path(root)
    if not path.exists():
        raise InputError(f"{path}: no such folder; check the path", code="SET-01")
    modules = _modules()
    if layout is not None:
        return _module(layout).read(path)
    found = recognising(path)
    if len(found) == 1:
        return modules[found[0]].read(path)
    listed = "\n".join(f"  {name}: {modules[name].EXPECTS}" for name in found or modules)
    if found:
        raise InputError(f"{path}: looks like several layouts; name the one that is meant:\n{listed}")
    raise InputError(f"{path}: no known layout; expected one of\n{listed}")


def recognising(root: Path) -> list[str]:
    """Names of the layouts that a folder (or file) looks like; the special ones where a general one fits as well."""
    found = {name: module for name, module in _modules().items() if module.recognises(root)}
    general = {name for module in found.values() for name in getattr(module, "SPECIALISES", ())}
    return [name for name in found if name not in general]


def _module(name: str) -> Layout:
    found = _modules().get(name)
    return found or cast("Layout", plugins.load("layouts", name))


@cache
def _modules() -> dict[str, Layout]:
    return {name: cast("Layout", plugins.load("layouts", name)) for name in plugins.names("layouts")}
