"""The repairs: one small function per code, and the table that says when each is used.

A repair looks at a draft, and gives back the repaired one with a note of what it did, or None if there is nothing to do
for it. It never looks at files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from voxelsam.errors import ConfigError, GeometryError, LabelError
from voxelsam.fix.draft import Array, Draft, Role
from voxelsam.fix.wishes import Wishes
from voxelsam.space.grid import Grid
from voxelsam.space.resample import resample, resample_labels
from voxelsam.space.straighten import nearest_rotation, straightened_anyway
from voxelsam.types import Affine
from voxelsam.volumes.labels import LARGEST, count_values
from voxelsam.volumes.pair import NOTICE_MM, TOLERANCE_MM

SHEAR = 1e-4
"""Largest cosine between two axes that is left alone; ITK refuses files soon above it."""

NEARLY = 1e-3
"""Label values this close to an integer are that integer: what readers round by themselves."""

NEAR = 0.1
"""Label values further than this from an integer were interpolated; rounding would draw something else."""

_DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
_LUMA = (0.299, 0.587, 0.114)
"""Share of red, green and blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class Change:
    """What one repair did to one file."""

    code: str
    what: str
    """In words."""
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Repair:
    """One entry of the table."""

    codes: tuple[str, ...]
    """Findings that it removes."""
    apply: Callable[[Draft, Wishes, Grid | None], tuple[Draft, Change] | None]
    """Takes the draft, the wishes and the grid of the image that a label belongs to."""
    unasked: bool = False
    """Whether it is made without being asked for: it loses nothing then."""
    roles: tuple[Role, ...] = ("image", "label")

    def wanted(self, draft: Draft, wishes: Wishes) -> bool:
        """Whether to make it."""
        return draft.role in self.roles and (self.unasked or bool(wishes.codes & set(self.codes)))


def one_channel(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """VAL-05: colours to brightness, or a file for each channel.

    Raises:
        ConfigError: brightness is asked for, but there are no colours.
    """
    count = len(draft.data)
    if count == 1:
        return None
    if wishes.channels == "split":
        return replace(draft, split=True), Change("VAL-05", "a file for each channel", {"channels": count})
    if not draft.colours:
        raise ConfigError(f"{draft.path}: --grey is for colours, but this holds {count} volumes; take --split")
    grey = np.tensordot(_LUMA, draft.data.astype(np.float64), 1)[None]
    whole = np.rint(grey).astype(draft.data.dtype) if draft.data.dtype.kind in "ui" else grey
    return replace(draft, data=whole, colours=False), Change("VAL-05", "colours became brightness")


def orientation(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """GEO-05: axes and spacing as told; the middle of the scan is the origin, because its place is not known.

    Raises:
        ConfigError: the spacing is neither told nor in the file, or the axes are not.
    """
    spacing = wishes.spacing or draft.sizes
    if not all(0 < step < np.inf for step in spacing):
        raise ConfigError(f"{draft.path}: the header has voxel sizes {spacing}; give --spacing as well")
    if wishes.axes is None and not (draft.oriented and draft.affine is not None):
        raise ConfigError(f"{draft.path}: the header has no orientation; give --axes as well, such as RAS")
    affine: Affine = np.eye(4)
    if wishes.axes is None:
        columns = draft.grid.affine[:3, :3] / draft.grid.spacing
    else:
        columns = np.array([_DIRECTIONS[letter] for letter in wishes.axes], np.float64).T
    affine[:3, :3] = columns * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(draft.shape) - 1) / 2)
    said = {"axes": wishes.axes or "kept", "spacing_mm": list(spacing)}
    repaired = replace(draft, affine=affine, sform=affine, qform=affine, oriented=True, sizes=spacing)
    return repaired, Change("GEO-05", "orientation and spacing set as told, the scan's middle as origin", said)


def one_transform(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """GEO-04: the header says one thing only; the other transform is dropped.

    Raises:
        GeometryError: GEO-04, the transform to keep is not there.
    """
    transforms = {"sform": draft.sform, "qform": draft.qform}
    kept = wishes.keep or ("sform" if draft.sform is not None else "qform")
    affine = transforms[kept]
    if affine is None:
        if wishes.keep is None:
            return None
        raise GeometryError(f"{draft.path}: the {kept} is to be kept, but the header has none", code="GEO-04")
    grid = Grid(draft.shape, affine)
    others = {name: other for name, other in transforms.items() if name != kept and other is not None}
    apart = max((grid.displacement(Grid(draft.shape, other)) for other in others.values()), default=0.0)
    sizes_off = float(np.max(np.abs(np.array(draft.sizes) - grid.spacing) * (np.array(draft.shape) - 1)))
    if max(apart, sizes_off) <= TOLERANCE_MM:
        return None
    repaired = replace(draft, affine=affine, sform=affine, qform=None, sizes=grid.spacing)
    moved = draft.grid.displacement(grid)
    numbers = {"transforms_apart_mm": _mm(apart), "moved_mm": _mm(moved), "kept": kept}
    return repaired, Change("GEO-04", f"the {kept} is now the only statement of place", numbers)


def finite(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """VAL-01: the smallest finite value of its channel takes the place of each voxel that is no number."""
    if draft.data.dtype.kind != "f" or (usable := np.isfinite(draft.data)).all():
        return None
    data = draft.data.copy()
    for channel, good in zip(data, usable, strict=True):
        channel[~good] = channel[good].min() if good.any() else 0
    numbers = {
        "nan": int(np.isnan(draft.data).sum()),
        "infinite": int(np.isinf(draft.data).sum()),
        "replaced_by": sorted({float(channel[~good][0]) for channel, good in zip(data, usable, strict=True)
                               if not good.all()}),
    }  # fmt: skip
    return replace(draft, data=data), Change("VAL-01", "voxels that are no numbers replaced", numbers)


def integers(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """LAB-01: labels stored as fractions become integers; unasked only where they are integers but for rounding.

    Raises:
        LabelError: LAB-01, rounding was asked for, but values lie too far from integers; VAL-04, values beyond 32 bits.
    """
    if draft.data.dtype.kind != "f" or not np.isfinite(draft.data).all():
        return None
    rounded = np.rint(draft.data)
    furthest = float(np.abs(draft.data - rounded).max())
    if furthest > NEARLY and "LAB-01" not in wishes.codes:
        return None
    if furthest > NEAR:
        raise LabelError(
            f"{draft.path}: label values lie up to {furthest:.3g} from an integer (at most {NEAR} is rounded): the "
            "file was interpolated or scaled, and rounding would draw something else; make it again",
            code="LAB-01",
        )
    if (largest := float(np.abs(rounded).max())) > np.iinfo(np.int32).max:
        raise LabelError(
            f"{draft.path}: label values end at {LARGEST}, but {largest:.4g} came; is this an image?", code="VAL-04"
        )
    numbers = {"rounded": int((draft.data != rounded).sum()), "furthest": furthest}
    whole = rounded.astype(np.int64)
    return replace(draft, data=whole), Change("LAB-01", "fractions stored as integers", numbers)


def relabelled(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """LAB-02: values changed as told, all at once, so that two can change places.

    Raises:
        LabelError: LAB-01, the values are no integers yet.
    """
    if draft.data.dtype.kind == "f":
        raise LabelError(f"{draft.path}: label values must be integers before they can change", code="LAB-01")
    counts = {old: int((draft.data == old).sum()) for old in wishes.relabel}
    if not any(counts.values()):
        return None
    data = draft.data.astype(np.int64)
    for old, new in wishes.relabel.items():
        data[draft.data == old] = new
    changed = {f"{old}={wishes.relabel[old]}": count for old, count in counts.items() if count}
    return replace(draft, data=data), Change("LAB-02", "label values changed", {"voxels": changed})


def right_angles(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """GEO-03: axes at right angles, around the middle of the scan; or voxels resampled onto such axes."""
    grid = draft.grid
    if grid.shear <= SHEAR:
        return None
    if wishes.resample:
        straight = straightened_anyway(grid)
        repaired = _onto(draft, straight)
        numbers = {"shear": _mm(grid.shear), "shape": list(straight.shape)}
        return repaired, Change("GEO-03", "resampled onto right angles; nothing moved", numbers)
    affine: Affine = np.eye(4)
    affine[:3, :3] = nearest_rotation(grid)
    middle = (np.array([draft.shape]) - 1) / 2
    affine[:3, 3] = grid.to_world(middle)[0] - affine[:3, :3] @ middle[0]
    turned = Grid(draft.shape, affine)
    numbers = {"shear": _mm(grid.shear), "displacement_mm": _mm(grid.displacement(turned))}
    repaired = replace(draft, affine=affine, sform=affine, qform=affine)
    return repaired, Change("GEO-03", "axes turned to the nearest right angles; voxels were not touched", numbers)


def onto_image(draft: Draft, wishes: Wishes, onto: Grid | None) -> tuple[Draft, Change] | None:
    """GEO-01, GEO-02: a label map on the voxels of its image, each with the value of the nearest voxel.

    Raises:
        GeometryError: GEO-02, label map and image have no place in common.
    """
    if onto is None or (apart := draft.grid.displacement(onto)) <= NOTICE_MM:
        return None
    code = "GEO-01" if draft.shape != onto.shape else "GEO-02"
    covered = _onto(replace(draft, data=np.ones_like(draft.data, np.uint8)), onto).data
    if not covered.any():
        raise GeometryError(
            f"{draft.path}: the label map has no place in common with its image; one of the headers is wrong, and "
            "resampling would leave nothing",
            code="GEO-02",
        )
    repaired = _onto(draft, onto)
    before, after = ((part.data[0] != 0).sum() * part.grid.voxel_volume for part in (draft, repaired))
    numbers = {
        "apart_mm": _mm(apart) if np.isfinite(apart) else None,
        "image_covered": round(float(covered.mean()), 4),
        "labelled_volume_kept": round(float(after / before), 4) if before else None,
        "values_lost": sorted(set(count_values(draft.data)) - set(count_values(repaired.data)) - {0}),
    }
    return repaired, Change(code, "label map resampled onto its image, nearest voxel", numbers)


REPAIRS = (
    Repair(("VAL-05",), one_channel, roles=("image",)),
    Repair(("GEO-05",), orientation),
    Repair(("GEO-04",), one_transform),
    Repair(("VAL-01",), finite),
    Repair(("LAB-01",), integers, unasked=True, roles=("label",)),
    Repair(("LAB-02",), relabelled, roles=("label",)),
    Repair(("GEO-03",), right_angles),
    Repair(("GEO-01", "GEO-02"), onto_image, roles=("label",)),
)
"""In the order in which they are made: what there is, where it is, what the numbers are, where they go."""


def repaired(draft: Draft, wishes: Wishes, onto: Grid | None = None) -> tuple[Draft, tuple[Change, ...]]:
    """A draft after all repairs that are wanted, and what they did.

    Args:
        draft: what the file holds.
        wishes: what was asked for.
        onto: grid of the image, for a label map.

    Raises:
        ConfigError, GeometryError, LabelError: as the repairs.
    """
    changes = []
    for repair in REPAIRS:
        if repair.wanted(draft, wishes) and (result := repair.apply(draft, wishes, onto)):
            draft, change = result
            changes.append(change)
    return draft, tuple(changes)


def _onto(draft: Draft, grid: Grid) -> Draft:
    if draft.role == "label":
        data: Array = resample_labels(draft.data[0], draft.grid, grid)[None]
    else:
        data = resample(draft.data, draft.grid, grid)
    return replace(draft, data=data, affine=grid.affine, sform=grid.affine, qform=None, sizes=grid.spacing)


def _mm(value: float) -> float:
    return float(f"{value:.4g}")
