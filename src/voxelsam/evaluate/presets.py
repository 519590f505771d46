"""What is measured, and by which definitions: sets of choices that published tables were made with.

Two tables can only be compared where metric, unit, rule for absent structures and treatment of the scan's faces are the
same. A preset fixes all of them and says where they come from. It fixes nothing else: predictions are scored in the
lattice of the reference, while some papers scored on the network's lattice (the notes say so).
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from voxelsam.errors import ConfigError
from voxelsam.evaluate.lesions import Match
from voxelsam.evaluate.metrics import Empty
from voxelsam.evaluate.surface import Faces

Metric = Literal[
    "Dice", "IoU", "HD", "HD95", "HD95_pooled", "ASSD", "ASD", "NSD", "RVE", "RAVD", "VD", "lesions", "multi_threshold"
]
"""What can be asked for; ``metrics`` of docs/explanation says what each one is. Dice and IoU are always there."""

Penalty = Literal["none", "diagonal"]
"""Distance of a structure that exactly one mask has: none at all, or the diagonal of the scan."""

Units = Literal["mm", "voxel"]
"""What distances count: mm (pixels where a picture has no size), or voxels whatever their size."""


def metrics_of(names: Iterable[str]) -> tuple[Metric, ...]:
    """Metrics by their names, in whatever case, each once.

    Raises:
        ConfigError: there is no such metric.
    """
    known: dict[str, Metric] = {name.lower(): name for name in get_args(Metric)}
    strange = [name for name in names if name.lower() not in known]
    if strange:
        raise ConfigError(f"there is no metric {', '.join(map(repr, strange))}; there are: {', '.join(known.values())}")
    return tuple(dict.fromkeys(known[name.lower()] for name in names))


@dataclass(frozen=True)
class Preset:
    """The choices behind a table of scores.

    Raises:
        ConfigError: a metric, unit or rule that there is not, or a tolerance, size or IoU out of range.
    """

    name: str
    metrics: tuple[Metric, ...]
    """Beside Dice and IoU."""
    empty: Empty = "nan"
    """Score of a structure that neither mask has."""
    penalty: Penalty = "none"
    units: Units = "mm"
    tolerance: float = 2.0
    """Of NSD, in the unit of the distances."""
    faces: Faces = "closed"
    match: Match = "overlap"
    match_iou: float = 0.1
    """Least IoU of a pair, where ``match`` is ``iou``."""
    smallest_lesion: float = 0.0
    """Parts below this size are no lesions; mm³, pixels on pictures."""
    notes: tuple[str, ...] = ()
    """Where the choices come from, and what differs from the code behind the published numbers."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("empty", Empty),
            ("penalty", Penalty),
            ("units", Units),
            ("faces", Faces),
            ("match", Match),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(f"{name}: one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}")
        object.__setattr__(self, "metrics", metrics_of(self.metrics))
        if not (0 <= self.tolerance < math.inf):
            raise ConfigError(f"tolerance: a distance of 0 or more, not {self.tolerance}")
        if not (0 <= self.smallest_lesion < math.inf):
            raise ConfigError(f"smallest lesion: a size of 0 or more, not {self.smallest_lesion}")
        if not 0 < self.match_iou <= 1:
            raise ConfigError(f"IoU of lesions: above 0 and at most 1, not {self.match_iou}")

    def plain(self) -> dict[str, Any]:
        """Every choice, ready for JSON."""
        return asdict(self)


DEFAULT = Preset(
    "default",
    ("HD95", "NSD", "ASSD", "RVE", "VD"),
    notes=(
        "HD95 and NSD as in Metrics Reloaded (arXiv 2206.01653) and the Medical Segmentation Decathlon",
        "2 mm is a common tolerance and suits no structure in particular: choose it as far as two readers differ",
    ),
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        DEFAULT,
        Preset(
            "ma_sam",
            ("HD95_pooled",),
            empty="one",
            units="voxel",
            notes=(
                "MA-SAM (arXiv 2309.08842), released code: Dice only, 1 where both masks lack the structure, 0 where "
                "one does",
                "its table's column HD has no code; the older code under it calls medpy's hd95 without a spacing, "
                "that is both directions pooled, in voxels; 0 where both lack it, undefined where one does",
                "released code scores on the network's lattice, this on the scan's",
            ),
        ),
        Preset(
            "med_sa",
            ("multi_threshold",),
            notes=(
                "Med-SA (arXiv 2304.12620), released code: mean over the thresholds 0.1, 0.3, 0.5, 0.7 and 0.9 and "
                "over slices, each smoothed, so that an empty slice scores 1",
                "needs the maps of predict --save-probabilities; a mask without one counts as certain",
                "released code scores the class that was clicked on each slice, this every class by itself",
            ),
        ),
        Preset(
            "nnunet",
            (),
            notes=("nnU-Net v2, evaluate_predictions.py: Dice and IoU, left out where both masks lack the structure",),
        ),
        Preset(
            "samed",
            ("HD95_pooled",),
            empty="zero",
            units="voxel",
            notes=(
                "SAMed (arXiv 2304.13785), utils.py, as in TransUNet: medpy's dc and hd95 without a spacing",
                "released code gives Dice 1 and distance 0 to a structure that only the prediction has, and distance 0 "
                "where it is missed; here Dice is 0 and the distance undefined",
            ),
        ),
        Preset(
            "left_atrium",
            ("ASD", "HD95_pooled"),
            units="voxel",
            notes=(
                "the tables on the 2018 atrial set since UA-MT (arXiv 1907.07034), test_util.py: medpy's dc, jc, asd "
                "and hd95 without a spacing; asd runs from the prediction to the reference only",
                "released code gives 0 for everything where the prediction is empty; here distances are undefined",
            ),
        ),
        Preset(
            "chaos",
            ("RAVD", "ASSD", "HD"),
            faces="open",
            notes=(
                "CHAOS challenge (arXiv 2001.06535), the organisers' evaluation: DICE, RAVD, ASSD, MSSD (here HD)",
                "a structure that the scan's end cuts off has no surface there",
            ),
        ),
    )
}  # fmt: skip
"""Every preset by its name."""


def changed(preset: Preset, **choices: Any) -> Preset:
    """The preset with other choices; None leaves a choice as it is.

    Args:
        preset: what to start from.
        choices: fields of a preset.

    Raises:
        ConfigError: a value is out of range.
    """
    other = {name: value for name, value in choices.items() if value is not None}
    result = replace(preset, **other)
    return preset if result == preset else replace(result, name=f"{preset.name}, changed")


def preset_of(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
