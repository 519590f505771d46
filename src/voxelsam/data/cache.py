"""Cases prepared once and cut many times.

A prepared case lies in a folder of its own: ``image.npy`` with axes (k, channels, j, i) and ``label.npy`` with axes
(k, j, i), both in the canonical grid and with the slice axis first, so that a stack is one contiguous read of a
memory-mapped file; ``instance.npy`` is like ``label.npy``, where the data set numbers single objects; ``shown.npy``
says for each slice which classes it shows. Values stay what they were in the source; intensities are scaled when a
stack is cut.

A folder appears whole or not at all, also when two processes prepare the same case at once: the first one to finish
wins. ``record.json`` holds the sizes of the files; a folder that does not have them is damaged and is prepared anew
from the same source files.
"""

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from voxelsam import config
from voxelsam.errors import InputWarning, LabelError, OutputError
from voxelsam.formats import read_channels, read_numbers
from voxelsam.layouts import Case, read_label
from voxelsam.stacks.intensity import Intensity, Scale
from voxelsam.stacks.plan import StackPlan
from voxelsam.types import LabelArray
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import check_grids, check_pair
from voxelsam.volumes.volume import LabelMap, Volume

IMAGE, LABEL, INSTANCE, SHOWN = "image.npy", "label.npy", "instance.npy", "shown.npy"
RECORD = "record.json"

FORMAT = 2
"""Of a prepared case; one of another format is prepared anew."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One labelled case in the canonical grid, memory-mapped."""

    id: str
    image: Shaped[np.ndarray, "channels i j k"]
    label: UInt8[np.ndarray, "i j k"]
    """Class indices; 255 is ignored."""
    scale: Scale
    spacing: tuple[float, float, float]
    """Millimetres along i, j and k."""
    shown: Bool[np.ndarray, "k classes"]
    """Which classes each slice shows, background included."""
    instances: Integer[np.ndarray, "i j k"] | None = None
    """Numbers of single objects, 0 where there is none; None where the data set does not tell them apart."""
    unlabelled: Bool[np.ndarray, " classes"] | None = None
    """Classes that nobody looked for in this case; None where all were looked for."""

    @property
    def slices(self) -> int:
        """Number of slices."""
        return int(self.label.shape[2])


class Store:
    """Prepared cases of one data set under one plan.

    Args:
        folder: where prepared cases are kept; one that was prepared from the same files in the same way is used again.
        labels: the label table of the data set.
        channels: names of the channels of each case.
        plan: which plane becomes the slice, and whether volumes are resampled.
        intensity: how volumes are scaled.
    """

    def __init__(
        self, folder: Path, labels: Labels, channels: Sequence[str], plan: StackPlan, intensity: Intensity
    ) -> None:
        self.folder = folder
        self.labels = labels
        self.channels = channels
        self.plan = plan
        self.intensity = intensity

    def open(self, case: Case) -> Prepared:
        """The prepared case; it is prepared first if it is not there yet, or damaged.

        Raises:
            InputError: the case cannot be used; the message names the file and what is wrong with it.
            OutputError: the prepared case cannot be written.
        """
        place = self.folder / f"{case.id}-{self._key(case)}"
        if place.is_dir() and (damage := damage_of(place)):
            warnings.warn(f"{place}: {damage}; the case is prepared again", InputWarning, stacklevel=2)
            self._prepare(case, place)
        elif not place.is_dir():
            self._prepare(case, place)
        image = np.load(place / IMAGE, mmap_mode="r")
        label = np.load(place / LABEL, mmap_mode="r")
        instances = np.load(place / INSTANCE, mmap_mode="r") if case.instances else None
        record = json.loads((place / RECORD).read_text("utf-8"))
        return Prepared(
            id=case.id,
            image=image.transpose(1, 3, 2, 0),
            label=label.transpose(2, 1, 0),
            scale=config.parse(Scale, record["scale"]),
            spacing=tuple(record["spacing"]),
            shown=np.load(place / SHOWN),
            instances=None if instances is None else instances.transpose(2, 1, 0),
            unlabelled=self._unlabelled(case),
        )

    def _prepare(self, case: Case, place: Path) -> None:
        volume, label_map, instances = read_case(case, self.labels, len(self.channels))
        placement = self.plan.placement(volume.grid)
        image = placement.bring(volume.data)
        label = placement.bring_labels(self.labels.to_classes(label_map.data))
        scale = self.intensity.measure(image)
        files = {
            IMAGE: image.transpose(3, 0, 2, 1),
            LABEL: label.transpose(2, 1, 0).astype(np.uint8),
            SHOWN: classes_shown(label, self.labels.count),
        }
        if instances is not None:
            files[INSTANCE] = placement.bring_labels(instances).transpose(2, 1, 0)
        with _beside(place) as folder:
            sizes = {name: _write(folder / name, values) for name, values in files.items()}
            record = {"scale": config.plain(scale), "spacing": list(placement.target.spacing), "bytes": sizes}
            (folder / RECORD).write_text(json.dumps(record), "utf-8")

    def _unlabelled(self, case: Case) -> Bool[np.ndarray, " classes"] | None:
        if strange := [name for name in case.unlabelled if name not in self.labels.names]:
            raise LabelError(
                f"{case.id}: {', '.join(strange)} count as not looked for, but are no structures", code="LAB-04"
            )
        if not case.unlabelled:
            return None
        return np.array([name in case.unlabelled for name in self.labels.values])

    def _key(self, case: Case) -> str:
        paths = [path for path in (*case.images, case.label, case.instances) if path]
        facts = [
            FORMAT,
            [_state(file) for path in paths for file in _files(path)],
            [self.plan.plane, self.plan.spacing],
            config.plain(self.intensity),
            self.labels.to_json(),
            None if case.encoding is None else repr(case.encoding),
            None if case.choice is None else repr(case.choice),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    """A file, or those of a folder (a series), whose own date says nothing about what is in them."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _state(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns


def read_case(case: Case, labels: Labels, channels: int) -> tuple[Volume, LabelMap, LabelArray | None]:
    """Image, label map and numbers of single objects of a labelled case; they lie on the same voxels.

    Args:
        case: the files.
        labels: the label table of the data set.
        channels: number of channels to expect.

    Raises:
        InputError: there is no label, a file cannot be read, or the files do not belong together.
    """
    label_map = read_label(case, labels)
    volume = read_channels(case.images, channels)
    check_pair(volume, label_map)
    return volume, label_map, None if case.instances is None else _instances(case.instances, label_map)


def _instances(path: Path, label_map: LabelMap) -> LabelArray:
    """Numbers of single objects as uint16 (int32 where there are more), 0 exactly where the label is background."""
    numbers = read_numbers(path)
    check_grids(label_map.grid, numbers.grid, str(label_map.source), str(path))
    values, drawn = numbers.data[0], label_map.data != 0
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise LabelError(f"{path}: objects are numbered from 1, but there is {values.min()} to {values.max()}")
    said = np.ones(drawn.shape, bool) if label_map.labels.ignore is None else label_map.data != label_map.labels.ignore
    nameless, strange = np.count_nonzero(drawn & (values == 0) & said), np.count_nonzero(~drawn & (values > 0))
    if nameless or strange:
        raise LabelError(
            f"{path}: every labelled voxel needs the number of its object and no other voxel may have one, but "
            f"{nameless} labelled voxels of {label_map.source} have none, and {strange} numbered voxels are background "
            "there",
            code="LAB-02",
        )
    small: LabelArray = values.astype(np.uint16 if values.max() <= np.iinfo(np.uint16).max else np.int32)
    return small


def classes_shown(label: Integer[np.ndarray, "i j k"], classes: int) -> Bool[np.ndarray, "k classes"]:
    """Which classes each slice shows; ignored pixels show none.

    Args:
        label: class indices; 255 is ignored.
        classes: how many there are, background included.
    """
    slices = (np.bincount(label[:, :, k].ravel(), minlength=256) for k in range(label.shape[2]))
    return np.array([counts[:classes] > 0 for counts in slices])


def damage_of(place: Path) -> str:
    """What is wrong with the folder of a prepared case; empty where every file has the size that was written."""
    try:
        sizes = json.loads((place / RECORD).read_text("utf-8"))["bytes"]
        found = {name: (place / name).stat().st_size for name in sizes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{RECORD} or a file that it names is missing or cannot be read ({type(error).__name__})"
    wrong = [f"{name} has {found[name]} bytes, not {sizes[name]}" for name in sizes if found[name] != sizes[name]]
    return ", ".join(wrong)


def _write(path: Path, values: Shaped[np.ndarray, "..."]) -> int:
    """Writes an array through to the disk; gives the size of the file in bytes."""
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(values))
        file.flush()
        os.fsync(file.fileno())  # or a power failure could leave a file of the right size with nothing in it
        return file.tell()


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``place`` once everything in it is written.

    A whole folder that is there by then stays, and a damaged one makes room.

    Raises:
        OutputError: something cannot be written; nothing is left of it.
    """
    folder = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")
    try:
        folder.mkdir(parents=True)
        yield folder
        _settle(folder, place)
    except OSError as error:
        raise OutputError(
            f"cannot write the prepared case {place}: {error.strerror or error}; free space on that disk, or put the "
            "run folder on another one"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settle(folder: Path, place: Path) -> None:
    """Renames a whole folder to its place, unless another process has filled it meanwhile."""
    if place.is_dir() and damage_of(place):
        damaged = folder.with_name(f"{folder.name}.damaged")
        place.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        folder.rename(place)
    except OSError:
        if not place.is_dir():
            raise
