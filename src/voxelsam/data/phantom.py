"""A synthetic abdominal CT data set, written as an nnU-Net raw folder.

The anatomy is a table of bent ellipsoids and tubes in patient millimetres (RAS+: x to the right, y to the front, z to
the head), the size of a small child's abdomen. Every case has its own shapes, noise and lattice: axis order, direction
and handedness of the stored array differ, and the slices are oblique. Left and right kidney are two labels, so a flip
anywhere in a pipeline costs a whole organ.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, UInt8
from scipy.ndimage import gaussian_filter

from voxelsam.errors import InputError, OutputError
from voxelsam.formats import write_labels, write_volume
from voxelsam.space.grid import Grid
from voxelsam.types import Affine
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Source, Volume

NAME = "Dataset900_Phantom"
ORGANS = ("spleen", "kidney_right", "kidney_left", "liver", "gallbladder", "aorta")
"""Names of the labels 1, 2, …; 0 is background."""

Points = Float32[np.ndarray, "3 n"]
"""Places in the body, mm; x, y, z on the first axis."""


@dataclass(frozen=True)
class Part:
    """One ellipsoid of the body, or a tube along z where the third radius is infinite."""

    hu: float
    centre: tuple[float, float, float]
    """mm from the middle of the body."""
    radii: tuple[float, float, float]
    """Half axes in mm along x, y, z."""
    organ: str = ""
    """Label name; empty for what is only there to distract."""
    bend: float = 0.0
    """How far the ends along z lie to the side of the middle, mm along x."""
    loose: float = 1.0
    """How much the position varies from case to case; 0 for the skeleton."""


TUBE = float("inf")
PARTS = (
    Part(-820, (36, 2, 66), (30, 40, 34)),  # lung bases
    Part(-820, (-36, 2, 66), (30, 40, 34)),
    Part(35, (-23, 20, 16), (17, 16, 24)),  # stomach and its air
    Part(-900, (-23, 28, 18), (9, 6, 9)),
    Part(40, (2, 22, -34), (24, 13, 15), loose=2.0),  # bowel and its gas
    Part(-700, (6, 26, -34), (5, 4, 5), loose=2.0),
    Part(45, (-32, 12, -34), (12, 14, 18), loose=2.0),
    Part(110, (30, 5, 19), (26, 30, 29), organ="liver"),
    Part(110, (4, 24, 20), (26, 15, 16), organ="liver"),
    Part(125, (-39, -12, 20), (13, 20, 24), organ="spleen"),
    Part(-95, (27, -21, -20), (16, 15, 26), bend=3, loose=0.5),  # fat around the kidneys
    Part(-95, (-26, -21, -14), (16, 15, 26), bend=-3, loose=0.5),
    Part(160, (27, -21, -20), (13, 12, 22), organ="kidney_right", bend=3, loose=0.5),
    Part(160, (-26, -21, -14), (13, 12, 22), organ="kidney_left", bend=-3, loose=0.5),
    Part(-95, (27, 25, -16), (12, 12, 16), loose=0.5),  # fat around the gallbladder
    Part(15, (27, 25, -16), (10, 10, 14), organ="gallbladder", loose=0.5),
    Part(130, (9, -9, 0), (6, 5, TUBE), loose=0.5),  # inferior vena cava
    Part(350, (0, -29, 0), (14, 10, TUBE), loose=0),  # vertebra, marrow, spinal canal
    Part(170, (0, -28, 0), (11, 7, TUBE), loose=0),
    Part(25, (0, -40, 0), (5, 4, TUBE), loose=0),
    Part(200, (-7, -10, 0), (7.5, 7.5, TUBE), organ="aorta", loose=0.5),
)
WALL = ((0.0, 40.0), (2.0, -95.0), (7.0, 55.0), (11.0, -90.0))
"""Depth below the skin in mm, and HU from there inwards: skin, fat, muscle, fat between the organs."""
BODY = (66.0, 52.0)
"""Half axes of the trunk in mm along x, y."""


def make(
    folder: Path,
    *,
    cases: int = 10,
    test_cases: int = 2,
    folds: int = 5,
    seed: int = 0,
    shape: tuple[int, int, int] = (80, 72, 30),
    spacing: tuple[float, float, float] = (1.9, 1.9, 4.0),
    noise: float = 9.0,
) -> Path:
    """Writes the data set ``Dataset900_Phantom`` and returns its folder.

    The same arguments give the same data set, and a case depends on ``seed`` and its number alone.

    Args:
        folder: where the data set's folder is put; made if missing.
        cases: labelled training cases (``imagesTr``, ``labelsTr``), at least 2.
        test_cases: further cases (``imagesTs``, ``labelsTs``).
        folds: splits in ``splits.json``, at most one per training case.
        seed: of everything random.
        shape: voxels across, front to back, and slices, before the axes are reordered.
        spacing: mm in the same order.
        noise: standard deviation of the noise in HU.

    Raises:
        InputError: too few cases, or folds that do not fit.
        OutputError: the data set's folder exists already.
    """
    if cases < 2 or test_cases < 0 or folds < 1:
        raise InputError(f"a phantom needs 2 cases and 1 fold or more; got {cases=}, {test_cases=}, {folds=}")
    target = folder / NAME
    if target.exists():
        raise OutputError(f"{target} exists already; delete it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=folder) as work:
        root = Path(work) / NAME
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (root / part).mkdir(parents=True)
        for number in range(cases + test_cases):
            side = "Tr" if number < cases else "Ts"
            image, label = make_case(number, seed=seed, shape=shape, spacing=spacing, noise=noise)
            write_volume(root / f"images{side}" / f"{case_id(number)}_0000.nii.gz", image)
            write_labels(root / f"labels{side}" / f"{case_id(number)}.nii.gz", label)
        _write_json(root / "dataset.json", _description(cases))
        _write_json(root / "splits.json", _splits(cases, min(folds, cases)))
        root.rename(target)
    return target


def make_case(
    number: int,
    *,
    seed: int = 0,
    shape: tuple[int, int, int] = (80, 72, 30),
    spacing: tuple[float, float, float] = (1.9, 1.9, 4.0),
    noise: float = 9.0,
) -> tuple[Volume, LabelMap]:
    """One scan in HU and its labels, without writing anything; arguments as for :func:`make`."""
    random = np.random.default_rng([seed, number])
    grid = _lattice(shape, spacing, random, left_handed=number % 2 == 1)
    index = np.indices(grid.shape, dtype=np.float32).reshape(3, -1)
    affine = grid.affine.astype(np.float32)
    body = _deform(affine[:3, :3] @ index + affine[:3, 3:], random)
    hu, classes = _paint(body, random)
    scan = _scan(hu.reshape(grid.shape), grid.spacing, random, noise)
    source = Source(paths=(), format="phantom")
    labels = Labels({"background": 0} | {name: value for value, name in enumerate(ORGANS, start=1)})
    return (
        Volume(scan[None], grid, "CT", source),
        LabelMap(classes.reshape(grid.shape), grid, labels, source),
    )


def case_id(number: int) -> str:
    """The name of a case; test cases are numbered after the training cases."""
    return f"phantom_{number:03d}"


def _lattice(shape: Sequence[int], spacing: Sequence[float], random: np.random.Generator, *, left_handed: bool) -> Grid:
    """A lattice around the body's middle, tilted by up to 12 degrees, with axes in any order and direction."""
    axis = random.normal(size=3)
    directions = _rotation(axis / np.linalg.norm(axis), np.deg2rad(random.uniform(3, 12)))
    order = random.permutation(3)
    step = (directions * np.asarray(spacing))[:, order] * random.choice([-1.0, 1.0], size=3)
    if (np.linalg.det(step) < 0) != left_handed:
        step[:, 0] *= -1
    size = np.asarray(shape)[order]
    affine: Affine = np.eye(4)
    affine[:3, :3] = step
    affine[:3, 3] = random.uniform(-4, 4, size=3) - step @ ((size - 1) / 2)
    return Grid((int(size[0]), int(size[1]), int(size[2])), affine)


def _rotation(axis: Float[np.ndarray, " 3"], angle: float) -> Float[np.ndarray, "3 3"]:
    """The matrix that turns by an angle (radians) about a unit axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned: Float[np.ndarray, "3 3"] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turned


def _deform(world: Points, random: np.random.Generator) -> Points:
    """Places in the standard body that a case shows at the given places: scaled, and bent by a few long waves."""
    bent = world / random.uniform(0.95, 1.05, size=(3, 1)).astype(np.float32)
    for _ in range(4):
        wave = random.normal(size=3)
        wave *= 2 * np.pi / (random.uniform(90, 150) * np.linalg.norm(wave))
        phase = np.sin(wave.astype(np.float32) @ world + np.float32(random.uniform(0, 2 * np.pi)))
        bent += random.normal(scale=0.9, size=(3, 1)).astype(np.float32) * phase
    return bent


def _paint(body: Points, random: np.random.Generator) -> tuple[Float32[np.ndarray, " n"], UInt8[np.ndarray, " n"]]:
    """HU and label of every place; later parts lie over earlier ones."""
    radius = np.hypot(body[0] / BODY[0], body[1] / BODY[1])
    depth = (1 - radius) * np.float32(min(BODY))
    hu = np.full(body.shape[1], -1000, dtype=np.float32)
    for beneath, value in WALL:
        hu[depth > beneath] = value
    inside = depth > WALL[-1][0]
    hu[_ribs(body, depth)] = 300
    classes = np.zeros(body.shape[1], dtype=np.uint8)
    shades = {name: random.normal(scale=3) for name in ("", *ORGANS)}
    shifts = {name: random.normal(scale=1.8, size=3) for name in ORGANS}
    for part in PARTS:
        size = random.uniform(0.93, 1.07, size=3)
        shift = shifts.get(part.organ, np.zeros(3)) + random.normal(scale=0.5, size=3)
        covered = _covers(part, body, size, shift) & inside
        hu[covered] = part.hu + shades[part.organ]
        classes[covered] = ORGANS.index(part.organ) + 1 if part.organ else 0
    return hu, classes


def _ribs(body: Points, depth: Float32[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Where the muscle wall holds bone: slanting rings that leave the belly free."""
    slant = body[2] + 0.35 * body[1]
    ribs: Bool[np.ndarray, " n"] = (depth > 7.5) & (depth < 11) & (np.sin(slant * 0.28) > 0.6) & (body[1] < 30)
    return ribs


def _covers(
    part: Part, body: Points, size: Float[np.ndarray, " 3"], shift: Float[np.ndarray, " 3"]
) -> Bool[np.ndarray, " n"]:
    """Which places a part takes up in a case; only a box around it is computed."""
    centre = (np.asarray(part.centre) + part.loose * shift).astype(np.float32)
    radii = (np.asarray(part.radii) * size).astype(np.float32)
    covered = np.zeros(body.shape[1], dtype=bool)
    reach = radii[0] + abs(part.bend)
    near = np.flatnonzero((np.abs(body[0] - centre[0]) < reach) & (np.abs(body[1] - centre[1]) < radii[1]))
    x, y, z = body[:, near] - centre[:, None]
    along = z / radii[2]
    covered[near] = ((x + part.bend * along**2) / radii[0]) ** 2 + (y / radii[1]) ** 2 + along**2 < 1
    return covered


def _scan(
    hu: Float32[np.ndarray, "i j k"], spacing: Sequence[float], random: np.random.Generator, noise: float
) -> Int16[np.ndarray, "i j k"]:
    """What a scanner makes of it: partial volume, grainy and fine noise, whole HU."""
    smooth = gaussian_filter(hu, [1.0 / mm for mm in spacing])
    fine = random.standard_normal(hu.shape, dtype=np.float32)
    grain = gaussian_filter(random.standard_normal(hu.shape, dtype=np.float32), [2.0 / mm for mm in spacing])
    grain *= 1 / grain.std()
    scan = smooth + np.float32(noise) * (np.float32(0.8) * fine + np.float32(0.6) * grain)
    whole: Int16[np.ndarray, "i j k"] = np.clip(np.rint(scan), -1024, 3071).astype(np.int16)
    return whole


def _description(cases: int) -> dict[str, object]:
    return {
        "name": "Phantom",
        "description": "Synthetic abdominal CT made by voxelsam; no patient is in it",
        "licence": "CC0-1.0",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {name: value for value, name in enumerate(ORGANS, start=1)},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }


def _splits(cases: int, folds: int) -> list[dict[str, list[str]]]:
    """Fold f keeps every folds-th case, from the f-th on, for validation; with one fold, a fifth."""
    step = folds if folds > 1 else min(5, cases)
    return [
        {
            "train": [case_id(number) for number in range(cases) if number % step != fold],
            "val": [case_id(number) for number in range(cases) if number % step == fold],
        }
        for fold in range(folds)
    ]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
