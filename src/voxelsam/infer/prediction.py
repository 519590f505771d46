"""What a model says about one volume."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from voxelsam.errors import OutputError
from voxelsam.formats import write_labels, write_volume
from voxelsam.volumes.volume import LabelMap, Volume

Progress = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""


@dataclass(frozen=True)
class Prediction:
    """A label map and the volume that it belongs to."""

    labels: LabelMap
    """In exactly the lattice of the volume."""
    volume: Volume
    probabilities: UInt8[np.ndarray, "structures i j k"] | None = None
    """Of each structure in the order of the label table, 255 is certain; None where they were not asked for."""

    def save(self, path: str | Path) -> None:
        """Writes the label map with the shape and affine of the volume.

        Raises:
            FormatError: the suffix of ``path`` names no format that holds label maps.
            OutputError: the file cannot be written; nothing is left behind.
        """
        write_labels(path, self.labels, like=self.volume)

    def save_probabilities(self, bare: Path) -> tuple[Path, ...]:
        """Writes one NIfTI per structure, ``CASE_liver.nii.gz``, from 0 to 1 in steps of 1/255.

        Args:
            bare: folder and name of the case, without an ending.

        Raises:
            OutputError: there are no probabilities, or a file cannot be written.
        """
        if self.probabilities is None:
            raise OutputError(f"{bare.name}: no probabilities were kept; ask for them when predicting")
        paths = self.maps(bare)
        for path, values in zip(paths.values(), self.probabilities, strict=True):
            scaled = (values / np.float32(255)).astype(np.float32)
            write_volume(path, Volume(scaled[None], self.volume.grid, source=self.volume.source))
        return tuple(paths.values())

    def maps(self, bare: Path) -> dict[str, Path]:
        """Where ``save_probabilities`` writes the map of each structure.

        Args:
            bare: folder and name of the case, without an ending.
        """
        return {
            name: bare.with_name(f"{bare.name}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.nii.gz")
            for name in self.labels.labels.names
        }
