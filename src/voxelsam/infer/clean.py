"""What is taken out of a label map after prediction: parts of a structure that cannot be it.

Parts are connected if voxels touch, if only at a corner. Nothing is added, and nothing is moved from one structure to
another: what is taken out becomes background.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from voxelsam.errors import ConfigError
from voxelsam.volumes.volume import LabelMap


@dataclass(frozen=True)
class Clean:
    """Which parts stay.

    Raises:
        ConfigError: a volume below 0.
    """

    largest: bool = False
    """Only the largest part of each structure; of equal ones the first in the array."""
    smallest: float = 0.0
    """Only parts of at least so many cubic millimetres."""

    def __post_init__(self) -> None:
        if not 0 <= self.smallest < np.inf:
            raise ConfigError(f"the smallest part that stays has 0 mm³ or more, not {self.smallest}")

    def __call__(self, label_map: LabelMap) -> LabelMap:
        """A label map without the other parts; the one that came in stays as it is."""
        if not self.largest and not self.smallest:
            return label_map
        voxel = abs(float(np.linalg.det(label_map.grid.affine[:3, :3])))
        data = label_map.data.copy()
        for value in label_map.labels.values.values():
            if value == 0:
                continue
            parts, _ = ndimage.label(label_map.data == value, np.ones((3, 3, 3)))
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            stays = sizes * voxel >= self.smallest
            if self.largest:
                stays &= np.arange(len(sizes)) == sizes.argmax()
            stays[0] = True  # what is not this structure is not touched
            data[~stays[parts]] = 0
        return LabelMap(data, label_map.grid, label_map.labels, label_map.source, label_map.author)


EVERYTHING = Clean()
"""Takes nothing out."""
