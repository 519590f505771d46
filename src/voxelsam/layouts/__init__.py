"""Folders on disk to cases.

The module is the plug-in: each module of this folder reads one layout and offers the names of ``Layout``. Label files
are read only where nothing else says which values there are, and no images, but for one picture where nothing else says
how many channels there are.
"""

from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from voxelsam import plugins
from voxelsam.errors import InputError
from voxelsam.layouts._dataset import Case, Dataset, Split
from voxelsam.layouts._split import default_split

__all__ = ["Case", "Dataset", "Layout", "Split", "default_split", "open_dataset"]


@runtime_checkable
class Layout(Protocol):
    """What a layout module offers."""

    EXPECTS: str
    """The structure in one line, for messages."""

    def recognises(self, root: Path) -> bool:
        """Whether a folder (or file) looks like this layout, be it complete or not."""
        ...

    def read(self, root: Path) -> Dataset:
        """The data set; all that is wrong with it is told in one InputError."""
        ...


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
    modules = {name: cast("Layout", plugins.load("layouts", name)) for name in plugins.names("layouts")}
    if layout is not None:
        return cast("Layout", plugins.load("layouts", layout)).read(path)
    found = [name for name, module in modules.items() if module.recognises(path)]
    if len(found) == 1:
        return modules[found[0]].read(path)
    listed = "\n".join(f"  {name}: {modules[name].EXPECTS}" for name in found or modules)
    if found:
        raise InputError(f"{path}: looks like several layouts; name the one that is meant:\n{listed}")
    raise InputError(f"{path}: no known layout; expected one of\n{listed}")
