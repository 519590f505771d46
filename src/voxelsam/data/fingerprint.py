"""What a data set looks like, and the plan that follows from it.

A fingerprint is measured once on the training cases. ``suggest`` turns it into the parts of a recipe that depend on
the data, each with its reason; whatever the user states goes before it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from voxelsam import checks, examine
from voxelsam.backbones import NONE, SEEDED
from voxelsam.checks import Finding
from voxelsam.data.cache import read_case
from voxelsam.errors import InputError
from voxelsam.layouts import Case, Dataset
from voxelsam.nn.backbone import Variant
from voxelsam.space.orientation import PLANES, Plane, plane_of
from voxelsam.space.placement import canonical
from voxelsam.stacks import ranges
from voxelsam.stacks.ranges import Quantiles
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Kind

DEPTH = 5
"""Slices per stack (MA-SAM's number)."""

WHOLE_DEPTH = 32
"""Most slices per stack of a whole network (its networks halve a stack up to five times)."""

LONGEST_SIDE = 512
"""Most pixels on the longer side of the model's input (MA-SAM's image size); smaller backbones take their own."""


@dataclass(frozen=True)
class CaseFacts:
    """Measured on one case, in the plane its own spacing asks for."""

    id: str
    plane: Plane
    sizes: dict[str, tuple[int, int, int]]
    """Per plane: columns, rows and slices of the canonical volume."""
    spacings: dict[str, tuple[float, float, float]]
    """Per plane: millimetres between columns, rows and slices."""
    intensity: tuple[tuple[float, float, float], ...]
    """Per channel: 0.5 %, 50 % and 99.5 % quantile of the labelled foreground (of all voxels without foreground)."""
    voxels: dict[str, int]
    """Per structure: labelled voxels."""
    kind: Kind = "UNKNOWN"
    """What the files themselves say; pictures of 8 bits are the ones whose values run from 0 to 255."""
    alone: bool = False
    """A lone picture, not a volume."""
    image: Quantiles = ()
    """Per channel: quantiles of all voxels, at ``voxelsam.stacks.ranges.LEVELS``."""
    itemsize: int = 4
    """Bytes of one value of the image as it is read."""


@dataclass(frozen=True)
class Fingerprint:
    """Measured on the training cases of a data set."""

    cases: tuple[CaseFacts, ...]
    examined: tuple[examine.CaseFacts, ...] = ()
    """What the checks across cases judge; not kept."""

    @property
    def plane(self) -> Plane:
        """The plane that most cases ask for."""
        return Counter(case.plane for case in self.cases).most_common(1)[0][0]

    @property
    def pictures(self) -> bool:
        """Whether every case is a lone picture."""
        return all(case.alone for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """The cases as plain values."""
        return {"cases": [asdict(case) for case in self.cases]}


def measure(
    cases: Sequence[Case],
    labels: Labels,
    channels: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    *,
    kind: Kind = "UNKNOWN",
    depth: int = DEPTH,
) -> Fingerprint:
    """Reads every case once, checks it, and measures it.

    Args:
        cases: labelled cases.
        labels: the label table.
        channels: names of the channels of each case.
        progress: called with (done, total).
        kind: modality that the data set states.
        depth: slices that a stack will have; scans with fewer are told.

    Raises:
        InputError: one or more cases cannot be used; every one is listed, and the code is that of the first.
    """
    facts, examined = [], []
    told: list[Finding] = []
    problems: list[Finding] = []
    for number, case in enumerate(cases):
        try:
            with checks.watching(where=case.id):
                fact, about = _facts(case, labels, channels, kind)
            found = examine.case(about, labels, depth, told=examine.READING)
            facts.append(fact)
            examined.append(about)
            problems += [one for one in found if checks.stops(one)]
            told += [one for one in found if not checks.stops(one)]
        except InputError as error:
            problems.append(Finding(error.code, "error", str(error), case.id))
        if progress:
            progress(number + 1, len(cases))
    checks.settle(told)
    if problems:
        lost = len({one.where for one in problems})
        listed = "\n".join(f"  {one.where}: {': '.join(filter(None, (one.code, one.message)))}" for one in problems)
        raise InputError(f"{lost} of {len(cases)} cases cannot be used:\n{listed}", code=problems[0].code)
    return Fingerprint(tuple(facts), tuple(examined))


def suggest(dataset: Dataset, fingerprint: Fingerprint, variant: Variant) -> tuple[dict[str, Any], dict[str, str]]:
    """The parts of a recipe that follow from the data, and for each, by its dotted path, the reason.

    Args:
        dataset: for its modality.
        fingerprint: of the training cases.
        variant: the backbone that will be used.
    """
    plane = fingerprint.plane
    size = _size(fingerprint, plane, variant)
    spacing = np.median([case.spacings[plane] for case in fingerprint.cases], axis=0)
    slices = [case.sizes[plane][2] for case in fingerprint.cases]
    whole = variant.name == NONE
    middle = int(np.ceil(np.median(slices)))
    depth = 1 if fingerprint.pictures else min(WHOLE_DEPTH, middle) if whole else DEPTH
    reasons = {
        "stack.plane": f"plane {plane}: slices {spacing[2]:.3g} mm apart, "
        f"pixels {spacing[0]:.3g} × {spacing[1]:.3g} mm (median)",
        "stack.size": f"size {size[0]} × {size[1]}: the shape of the median slice, "
        f"longer side {max(size)} for {variant.name}",
        "stack.depth": f"depth {depth}: as in MA-SAM; cases have {min(slices)} to {max(slices)} slices",
    }
    if whole:
        reasons["stack.size"] = f"size {size[0]} × {size[1]}: the median slice as it is, longer side at most 512"
        reasons["stack.depth"] = (
            f"depth {depth}: the median case of {middle} slices, at most {WHOLE_DEPTH}, for a network of 3 dimensions"
        )
    if fingerprint.pictures:
        reasons["stack.plane"] = f"plane {plane}: pictures as they are shown, first row at the top"
        reasons["stack.size"] = (
            f"size {size[0]} × {size[1]}: near the median picture, at most what {variant.name} takes"
        )
        reasons["stack.depth"] = f"depth {depth}: every case is a single picture"
    if all(case.kind == "PICTURE" for case in fingerprint.cases):
        intensity: dict[str, Any] = {"kind": "unit", "low": 0.0, "high": 255.0}
        reasons["intensity"] = "intensity 0..255: pictures of 8 bits, all on one scale"
    elif dataset.window is not None:
        low, high = dataset.window
        intensity = {"kind": "window", "low": low, "high": high}
        reasons["intensity"] = f"intensity {low:g}..{high:g}: the window of the data set's published protocol"
    elif dataset.kind == "CT":
        low = float(np.median([case.intensity[0][0] for case in fingerprint.cases]))
        high = float(np.median([case.intensity[0][2] for case in fingerprint.cases]))
        margin = 0.25 * (high - low)
        low, high = float(np.floor(low - margin)), float(np.ceil(high + margin))
        intensity = {"kind": "window", "low": low, "high": high}
        reasons["intensity"] = (
            f"intensity {low:g}..{high:g} HU: the labelled structures' 0.5..99.5 % range and a quarter more"
        )
    else:
        intensity = {"kind": "percentile", "low": 0.5, "high": 99.5}
        reasons["intensity"] = "intensity: each volume's own 0.5..99.5 % range, for values without a fixed unit"
    channels = {1: "copy", 3: "rgb"}.get(len(dataset.channels), "mean")
    reasons["stack.channels"] = f"channels {channels}: how {len(dataset.channels)} of the data become the model's three"
    suggestion = {
        "stack": {"plane": plane, "size": list(size), "depth": depth, "channels": channels},
        "intensity": intensity,
    }
    if variant.name in SEEDED:
        suggestion["train"] = {"lr": 1e-3, "power": 0.9, "horizon": 1.0}
        reasons["train.lr"] = (
            "rate 1e-3, decaying almost linearly: on a random backbone everything is learnt in this run"
        )
    if whole:
        suggestion["train"] = {"lr": 1e-3, "power": 0.9, "horizon": 1.0, "weight_decay": 3e-5}
        reasons["train.lr"] = (
            "rate 1e-3, decaying almost linearly, with nnU-Net's weight decay: the network is learnt from scratch"
        )
    return suggestion, reasons


def _size(fingerprint: Fingerprint, plane: Plane, variant: Variant) -> tuple[int, int]:
    columns, rows = np.median([case.sizes[plane][:2] for case in fingerprint.cases], axis=0)
    longest, step = min(max(variant.image_size), LONGEST_SIDE), 2 * variant.patch
    if fingerprint.pictures or variant.name == NONE:
        longest = min(longest, int(np.ceil(max(columns, rows) / step)) * step)
    height, width = (
        max(step, int(np.ceil(side / max(columns, rows) * longest / step)) * step) for side in (rows, columns)
    )
    return height, width


def _facts(case: Case, labels: Labels, channels: Sequence[str], kind: Kind) -> tuple[CaseFacts, examine.CaseFacts]:
    volume, label_map, _ = read_case(case, labels, len(channels))
    about = examine.measure(case.id, volume, label_map, group=case.group, kind=kind, unlabelled=case.unlabelled)
    classes = labels.to_classes(label_map.data)
    inside = (classes > 0) & (classes < 255)
    values = [channel[inside] if inside.any() else channel.ravel() for channel in volume.data]
    planes = PLANES if volume.grid.along_k == "space" else (plane_of(volume.grid),)
    placements = {plane: canonical(volume.grid, plane) for plane in planes}
    counts = np.bincount(classes[inside], minlength=labels.count)
    facts = CaseFacts(
        id=case.id,
        plane=plane_of(volume.grid),
        sizes={plane: placement.target.shape for plane, placement in placements.items()},
        spacings={plane: placement.target.spacing for plane, placement in placements.items()},
        intensity=tuple(_quantiles(one) for one in values),
        voxels={name: int(counts[index + 1]) for index, name in enumerate(labels.names)},
        kind=volume.kind,
        alone=volume.grid.along_k == "single",
        image=ranges.measure(volume.data),
        itemsize=volume.data.itemsize,
    )
    return facts, about


def _quantiles(values: Shaped[np.ndarray, " voxels"]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.005, 0.5, 0.995))
    return float(low), float(middle), float(high)
