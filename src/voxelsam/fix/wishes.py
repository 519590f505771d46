"""What the user asks of a repair."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from voxelsam.errors import ConfigError, GeometryError
from voxelsam.space.orientation import opposite
from voxelsam.volumes.labels import LARGEST

REPAIRABLE = (
    "DCM-01", "GEO-01", "GEO-02", "GEO-03", "GEO-04", "GEO-05", "LAB-01", "LAB-02", "VAL-01", "VAL-05",
)  # fmt: skip
"""Codes of findings that can be repaired: those of the table in ``repairs``, and copies of slices."""


@dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Raises:
        ConfigError: a code has no repair, or a value makes no sense.
    """

    codes: frozenset[str] = frozenset()
    """Repairs to make, besides those that lose nothing."""
    resample: bool = False
    """GEO-03 by resampling onto right angles, not by turning the axes."""
    keep: Literal["sform", "qform"] | None = None
    """GEO-04: which of two transforms counts; None: the sform."""
    spacing: tuple[float, float, float] | None = None
    """GEO-05: voxel sizes in mm along i, j, k."""
    axes: str | None = None
    """GEO-05: the patient directions that i, j, k run towards, such as ``RAS``."""
    relabel: Mapping[int, int] = field(default_factory=dict)
    """LAB-02: new value of old ones."""
    channels: Literal["split", "grey"] | None = None
    """VAL-05: a file for each channel, or brightness instead of colours."""

    def __post_init__(self) -> None:
        implied = {
            "GEO-03": self.resample,
            "GEO-04": self.keep is not None,
            "GEO-05": self.spacing is not None or self.axes is not None,
            "LAB-02": bool(self.relabel),
            "VAL-05": self.channels is not None,
        }
        codes = self.codes | {code for code, given in implied.items() if given}
        object.__setattr__(self, "codes", codes)
        if strange := sorted(codes - set(REPAIRABLE)):
            raise ConfigError(f"there is no repair for {', '.join(strange)}; there are: {', '.join(REPAIRABLE)}")
        missing = {"GEO-05": "--axes, such as RAS, and --spacing", "LAB-02": "--relabel", "VAL-05": "--split or --grey"}
        for code, option in missing.items():
            if code in codes and not implied[code]:
                raise ConfigError(f"{code} needs to be told what is right: give {option}")
        if self.axes is not None:
            _checked_axes(self.axes)
        if self.spacing is not None and not all(0 < step < np.inf for step in self.spacing):
            raise ConfigError(f"--spacing is three positive distances in mm, not {self.spacing}")
        if wrong := [new for new in self.relabel.values() if not 0 <= new <= LARGEST]:
            raise ConfigError(f"label values run from 0 to {LARGEST}, but --relabel gives {wrong}")

    def to_json(self) -> dict[str, Any]:
        """The wishes as plain values."""
        return {
            "codes": sorted(self.codes),
            "resample": self.resample,
            "keep": self.keep,
            "spacing": None if self.spacing is None else list(self.spacing),
            "axes": self.axes,
            "relabel": {str(old): new for old, new in self.relabel.items()},
            "channels": self.channels,
        }


def _checked_axes(axes: str) -> None:
    try:
        opposite(axes)
    except GeometryError as error:
        raise ConfigError(f"--axes: {error}") from None
