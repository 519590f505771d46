"""What a model says about one volume."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from voxelsam.errors import OutputError
from voxelsam.formats import write_labels, write_volume
from voxelsam.infer.quality import Quality
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Kind, LabelMap, Volume

Progress = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""


@dataclass
class Work:
    """What was computed for an answer."""

    stacks: int = 0
    """Stacks that the network, or every network of an ensemble, was shown."""
    repeated: int = 0
    """Stacks that it was not shown, because an equal one came before and has the same answer."""

    def count(self, repeated: bool) -> None:
        """Adds a stack."""
        self.stacks += not repeated
        self.repeated += repeated


@dataclass(frozen=True)
class Prediction:
    """A label map and the volume that it belongs to."""

    labels: LabelMap
    """In exactly the lattice of the volume."""
    volume: Volume
    probabilities: UInt8[np.ndarray, "structures i j k"] | None = None
    """Of each structure in the order of the label table, 255 is certain; None where they were not asked for."""
    quality: Quality | None = None
    """How far the masks can be trusted; None for an answer to prompts."""
    work: Work | None = None
    """What was computed; None for an answer to prompts."""

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


class Model(Protocol):
    """What segments volumes without prompts: one trained model, or several that are averaged."""

    @property
    def labels(self) -> Labels:
        """Names and values of the structures."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that a volume must have, in order."""

    @property
    def kind(self) -> Kind:
        """Modality of the training scans."""

    @property
    def depth(self) -> int:
        """Slices of a stack; the most that a member has."""

    def check_prompt_free(self) -> None:
        """Refuses a model that always needs a prompt.

        Raises:
            ConfigError: the model was trained with prompts only.
        """

    def __call__(self, volume: Volume, progress: Progress | None = None, *, probabilities: bool = False) -> Prediction:
        """Segments a volume.

        Args:
            volume: with the channels that the model takes.
            progress: told after every finished slice.
            probabilities: keep those of each structure too, one byte per voxel.

        Raises:
            InputError: the volume has another number of channels.
        """
