"""Cases prepared once and cut many times.

A prepared case lies in a folder of its own: ``image.npy`` with axes (k, channels, j, i) and ``label.npy`` with axes
(k, j, i), both in the canonical grid and with the slice axis first, so that a stack is one contiguous read of a
memory-mapped file; ``instance.npy`` is like ``label.npy``, where the data set numbers single objects. Values stay what
they were in the source; intensities are scaled when a stack is cut.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from voxelsam import config
from voxelsam.errors import LabelError
from voxelsam.formats import read_channels, read_numbers
from voxelsam.layouts import Case, read_label
from voxelsam.stacks.intensity import Intensity, Scale
from voxelsam.stacks.plan import StackPlan
from voxelsam.types import LabelArray
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import check_grids, check_pair
from voxelsam.volumes.volume import LabelMap, Volume

IMAGE, LABEL, INSTANCE, RECORD = "image.npy", "label.npy", "instance.npy", "record.json"


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
        """The prepared case; it is prepared first if it is not there yet.

        Raises:
            InputError: the case cannot be used; the message names the file and what is wrong with it.
        """
        place = self.folder / f"{case.id}-{self._key(case)}"
        if not place.is_dir():
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
            instances=None if instances is None else instances.transpose(2, 1, 0),
            unlabelled=self._unlabelled(case),
        )

    def _prepare(self, case: Case, place: Path) -> None:
        volume, label_map, instances = read_case(case, self.labels, len(self.channels))
        placement = self.plan.placement(volume.grid)
        image = placement.bring(volume.data)
        label = placement.bring_labels(self.labels.to_classes(label_map.data))
        scale = self.intensity.measure(image)
        with _beside(place) as folder:
            np.save(folder / IMAGE, np.ascontiguousarray(image.transpose(3, 0, 2, 1)))
            np.save(folder / LABEL, np.ascontiguousarray(label.transpose(2, 1, 0)).astype(np.uint8))
            if instances is not None:
                np.save(folder / INSTANCE, np.ascontiguousarray(placement.bring_labels(instances).transpose(2, 1, 0)))
            record = {"scale": config.plain(scale), "spacing": list(placement.target.spacing)}
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
            [_state(file) for path in paths for file in _files(path)],
            [self.plan.plane, self.plan.spacing],
            config.plain(self.intensity),
            self.labels.to_json(),
            None if case.encoding is None else repr(case.encoding),
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


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``place`` once everything in it is written."""
    folder = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    try:
        yield folder
        if place.is_dir():
            return
        folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
