"""What a model says about one volume."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from voxelsam.formats import write_labels
from voxelsam.volumes.volume import LabelMap, Volume

Progress = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""


@dataclass(frozen=True)
class Prediction:
    """A label map and the volume that it belongs to."""

    labels: LabelMap
    """In exactly the lattice of the volume."""
    volume: Volume

    def save(self, path: str | Path) -> None:
        """Writes the label map with the shape and affine of the volume.

        Raises:
            FormatError: the suffix of ``path`` names no format that holds label maps.
            OutputError: the file cannot be written; nothing is left behind.
        """
        write_labels(path, self.labels, like=self.volume)
