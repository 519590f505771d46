"""Bad input in the wild: every check of the catalogue, each situation with a fixture and its code.

A row makes a small input, odd or sound, and meets it through one door: reading, comparing, opening a data set,
training, predicting, the doctor. The odd one must give its code with its severity, its sound twin must not. Where the
error can be accepted, work goes on in the way that the row checks; otherwise accepting is refused, or changes nothing.
"""

import gzip
import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from voxelsam import adapt, backbones, bundle, checks, formats
from voxelsam.bundle import Bundle
from voxelsam.catalogue import CATALOGUE
from voxelsam.doctor import diagnose
from voxelsam.errors import ConfigError, InputWarning, VoxelSamError
from voxelsam.fix import Wishes, fix_file
from voxelsam.infer import cases, cohort
from voxelsam.infer.predictor import Predictor
from voxelsam.layouts import open_dataset
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.prompts import file as prompt_file
from voxelsam.prompts.prompt import Point, Prompts, Target
from voxelsam.space.grid import Grid
from voxelsam.stacks import ranges
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.train import job
from voxelsam.volumes import LabelMap, Labels, check_pair

SHAPE = (12, 10, 8)
TABLE = Labels({"background": 0, "liver": 1, "spleen": 2})
STRAIGHT = np.diag([1.5, 1.5, 2.0, 1.0])
GRID = Grid(SHAPE, STRAIGHT)
RECIPE = {"stack": {"size": [32, 32], "depth": 3}, "adapt": {"name": "ma_sam", "rank": 4, "width": 16}}

Make = Callable[[Path, bool], Path]
Door = Callable[["Place", Path], Any]
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Place:
    """Where a row is met: an empty folder, a model, and the codes that are accepted."""

    folder: Path
    model: Bundle
    accept: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Row:
    """One situation of one check."""

    code: str
    severity: Severity | None
    """None: read in silence."""
    door: Door
    make: Make
    goes_on: Callable[[Any], None] | None = None
    """Looks at what comes of it when its error is accepted; None: it stays an error."""
    fix: Wishes | None = None
    """Repairs the file (or the label map of a pair)."""
    role: Literal["image", "label"] = "image"
    passes: Callable[[Any], None] | None = None
    """Looks at what comes of it where it is no error."""
    deviates: str = ""
    """Why the verdict is not the one that the field's survey asks for."""

    @property
    def name(self) -> str:
        return f"{self.code}-{self.make.__name__}"


ROWS: list[Row] = []


def row(code: str, severity: Severity | None, door: Door, **more: Any) -> Callable[[Make], Make]:
    """Puts a maker of input into the table; its name is the situation."""

    def keep(make: Make) -> Make:
        ROWS.append(Row(code, severity, door, make, **more))
        return make

    return keep


# Doors


def read(place: Place, path: Path) -> Any:
    return formats.read(path)


def read_label(place: Place, path: Path) -> Any:
    return formats.read_labels(path, TABLE)


def read_pair(place: Place, folder: Path) -> Any:
    image = formats.read(folder / "image.nii.gz")
    label_map = formats.read_labels(folder / "label.nii.gz", TABLE)
    check_pair(image, label_map)
    return image, label_map


def open_set(place: Place, path: Path) -> Any:
    return open_dataset(path)


def train(place: Place, path: Path) -> Any:
    """A training run up to its first step; what is accepted stands in the recipe."""
    settings = {**RECIPE, "data": {"accept": sorted(place.accept)}, "train": {"device": "cpu"}}
    return job.start(path, place.folder / f"run{len(place.accept)}", settings)


def predict(place: Place, path: Path) -> Any:
    """The mask of a scan; a case that fails is the error that it failed with."""
    output = place.folder / f"masks{len(place.accept)}"
    todo = cases.tasks(path, output, len(place.model.description.channels), ending=".nii.gz")
    (outcome,) = cohort.run(Predictor(place.model, device="cpu", stride=3), todo)
    if outcome.status == "failed":
        raise VoxelSamError(outcome.reason, code=outcome.code)
    return formats.read_labels(outcome.output)


def doctor(place: Place, path: Path) -> Any:
    """The doctor's findings, as warnings and errors."""
    diagnosis = diagnose(path, ignore=place.accept, phi=True)
    checks.settle([replace(one, where=one.where or "here") for one in diagnosis.findings])
    return diagnosis


def prompt(place: Place, path: Path) -> Any:
    """The prompts of a file, for a scan of that grid and a model of that table."""
    said = prompt_file.read(path, GRID, image="scan.nii.gz")
    said.check(GRID, TABLE)
    return said


def load_model(place: Place, path: Path) -> Any:
    """A bundle's network, on its backbone's weights."""
    return bundle.load(path).segmenter()


def doctor_of_both(place: Place, folder: Path) -> Any:
    """What shows only when two data sets are compared."""
    checks.settle(diagnose([folder / "one", folder / "two"], ignore=place.accept | {"GEO-07"}).findings)


# Makers of plain files


def noise(shape: tuple[int, ...] = SHAPE, low: int = -900, high: int = 900, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int16)


def drawn(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Two structures."""
    label = np.zeros(shape, np.uint8)
    label[2:6, 2:5, 2:5] = 1
    label[7:11, 5:9, 3:7] = 2
    return label


def nifti(path: Path, data: np.ndarray, affine: np.ndarray = STRAIGHT, **header: Any) -> Path:
    """A NIfTI file; header fields are overwritten behind nibabel's back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1, strip_shears=True)
    block = bytearray(image.to_bytes())
    fields = nibabel.Nifti1Header(bytes(block[:348]), check=False)
    for name, value in header.items():
        fields[name] = value
    block[:348] = fields.binaryblock
    path.write_bytes(gzip.compress(bytes(block), 1) if path.suffix == ".gz" else bytes(block))
    return path


def pair(folder: Path, affine: np.ndarray = STRAIGHT, label: np.ndarray | None = None) -> Path:
    """``image.nii.gz`` and ``label.nii.gz``, which has that affine."""
    nifti(folder / "image.nii.gz", noise())
    nifti(folder / "label.nii.gz", drawn() if label is None else label, affine)
    return folder


def moved(millimetres: float) -> np.ndarray:
    affine = STRAIGHT.copy()
    affine[0, 3] = millimetres
    return affine


def sheared() -> np.ndarray:
    affine = STRAIGHT.copy()
    affine[0, 2] = 0.3
    return affine


def dataset(folder: Path, names: tuple[str, ...] = ("ada", "bob", "cleo"), **table: Any) -> Path:
    """A data set in nnU-Net's layout."""
    facts = {"channel_names": {"0": "MRI"}, "labels": dict(TABLE.values), "file_ending": ".nii.gz", **table}
    for name in names:
        number = crc32(name.encode())
        label = drawn()
        label[2, 2, 2 + number % 3] = 0
        label[7, 5, 3 + number % 4] = 0
        for channel in range(len(facts["channel_names"])):
            nifti(folder / "imagesTr" / f"{name}_{channel:04}.nii.gz", noise(seed=number + channel))
        nifti(folder / "labelsTr" / f"{name}.nii.gz", label)
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def split(root: Path, train: list[str], val: list[str]) -> Path:
    (root / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))
    return root


# What comes of it


def on_the_image(result: Any) -> None:
    image, label_map = result
    assert label_map.data.shape == image.data.shape[1:]


def finite(result: Any) -> None:
    assert np.isfinite(result.data).all()
    assert result.data[0, 3, 3, 3] == result.data.min()


def ready(result: Any) -> None:
    assert len(result.train) + len(result.validation) == 3


# GEO


@row("GEO-01", "error", read_pair, fix=Wishes(frozenset({"GEO-01"})), role="label")
def a_label_of_another_shape(folder: Path, odd: bool) -> Path:
    return pair(folder, label=drawn((12, 10, 7)) if odd else None)


@row("GEO-01", "error", train)
def a_label_of_another_shape_in_training(folder: Path, odd: bool) -> Path:
    dataset(folder)
    if odd:
        nifti(folder / "labelsTr" / "bob.nii.gz", drawn((12, 10, 7)))
    return folder


@row("GEO-02", "error", read_pair, goes_on=on_the_image, fix=Wishes(frozenset({"GEO-02"})), role="label")
def a_label_far_away(folder: Path, odd: bool) -> Path:
    return pair(folder, moved(3 if odd else 0))


@row("GEO-02", "error", train, goes_on=ready)
def a_label_far_away_in_training(folder: Path, odd: bool) -> Path:
    dataset(folder)
    nifti(folder / "labelsTr" / "bob.nii.gz", drawn(), moved(3 if odd else 0))
    return folder


@row("GEO-02", "warning", read_pair, fix=Wishes(frozenset({"GEO-02"})), role="label")
def a_label_a_little_away(folder: Path, odd: bool) -> Path:
    return pair(folder, moved(0.2 if odd else 0.0005))


def keeps_its_shear(result: Any) -> None:
    assert result.grid.shear > 0.1


@row(
    "GEO-03", "warning", read, passes=keeps_its_shear, fix=Wishes(frozenset({"GEO-03"})),
    deviates="a sheared grid is kept and straightened for the model, as for a gantry tilt; nothing is guessed",
)  # fmt: skip
def axes_at_other_than_right_angles(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), sheared() if odd else STRAIGHT, qform_code=0)


@row(
    "GEO-03", "warning", read, fix=Wishes(resample=True),
    deviates="as above",
)  # fmt: skip
def axes_at_other_than_right_angles_resampled(folder: Path, odd: bool) -> Path:
    return axes_at_other_than_right_angles(folder, odd)


def in_the_place_of_the_sform(result: Any) -> None:
    np.testing.assert_allclose(result.grid.affine, STRAIGHT, atol=1e-6)


CONTRADICTION = "the sform counts, as in nibabel, and the warning says so; the shared index asks for just that"


@row("GEO-04", "warning", read, passes=in_the_place_of_the_sform, fix=Wishes(keep="sform"), deviates=CONTRADICTION)
def sform_and_qform_disagree(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), qoffset_x=50 if odd else 0)


@row("GEO-04", "warning", read, passes=in_the_place_of_the_sform, fix=Wishes(keep="sform"), deviates=CONTRADICTION)
def voxel_sizes_contradict_the_sform(folder: Path, odd: bool) -> Path:
    sizes = np.array([1, 3, 3, 3, 1, 1, 1, 1] if odd else [1, 1.5, 1.5, 2, 1, 1, 1, 1], np.float32)
    return nifti(folder / "a.nii.gz", noise(), qform_code=0, pixdim=sizes)


TOLD = Wishes(spacing=(1.5, 1.5, 2.0), axes="RAS")


@row(
    "GEO-05", "warning", read, fix=TOLD,
    deviates="voxel sizes are known, so distances in the scan are right; the shared index asks for a warning",
)  # fmt: skip
def no_orientation_at_all(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), **({"sform_code": 0, "qform_code": 0} if odd else {}))


@row("GEO-05", "error", read, fix=TOLD)
def a_voxel_size_of_zero(folder: Path, odd: bool) -> Path:
    sizes = {"pixdim": np.zeros(8, np.float32), "sform_code": 0, "qform_code": 0}
    return nifti(folder / "a.nii.gz", noise(), **(sizes if odd else {}))


@row("GEO-05", "error", read, fix=TOLD)
def a_negative_voxel_size(folder: Path, odd: bool) -> Path:
    sizes = np.array([1, -1.5, 1.5, 2, 1, 1, 1, 1], np.float32)
    return nifti(folder / "a.nii.gz", noise(), **({"pixdim": sizes, "sform_code": 0, "qform_code": 0} if odd else {}))


@row("GEO-05", "error", read, fix=TOLD)
def a_singular_affine(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), **({"srow_z": (0, 0, 0, 0)} if odd else {}))


def is_the_straight_scan(result: Any) -> None:
    """Every voxel is where it would be in an ordinary file."""
    index = np.argwhere(np.ones(SHAPE))
    stored = np.rint(result.grid.to_index(GRID.to_world(index))).astype(int)
    np.testing.assert_array_equal(result.data[0][tuple(stored.T)], noise()[tuple(index.T)])


@row("GEO-06", None, read, passes=is_the_straight_scan)
def left_handed_axes(folder: Path, odd: bool) -> Path:
    affine = STRAIGHT @ np.diag([-1, 1, 1, 1])
    affine[0, 3] = 1.5 * (SHAPE[0] - 1)
    return nifti(folder / "a.nii.gz", noise()[::-1], affine) if odd else nifti(folder / "a.nii.gz", noise())


@row("GEO-06", None, read, passes=is_the_straight_scan)
def an_unusual_order_of_axes(folder: Path, odd: bool) -> Path:
    affine = STRAIGHT[:, [2, 0, 1, 3]]
    data = noise().transpose(2, 0, 1)
    return nifti(folder / "a.nii.gz", data, affine) if odd else nifti(folder / "a.nii.gz", noise())


def restored(result: Any) -> None:
    assert result.data.shape == (8, 12, 10)
    np.testing.assert_array_equal(result.grid.affine, STRAIGHT[:, [2, 0, 1, 3]])


@row("GEO-06", None, predict, passes=lambda mask: restored(mask) if mask.data.shape[0] == 8 else None)
def an_unusual_order_of_axes_is_restored_in_the_mask(folder: Path, odd: bool) -> Path:
    return an_unusual_order_of_axes(folder, odd)


@row("GEO-06", "warning", read, passes=lambda picture: np.testing.assert_equal(picture.data.shape, (3, 9, 7, 1)))
def a_picture_that_asks_to_be_turned(folder: Path, odd: bool) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6 if odd else 1
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3) if odd else (7, 9, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png", exif=exif)
    return folder / "a.png"


@row("GEO-07", "warning", predict)
def voxels_far_longer_than_wide(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), np.diag([1.5, 1.5, 8 if odd else 5, 1]))


def cut_across_the_thick_axis(result: Any) -> None:
    assert result.recipe.stack.plane == "coronal"


@row("GEO-07", "warning", train, passes=cut_across_the_thick_axis)
def voxels_far_longer_than_wide_and_the_plan_follows(folder: Path, odd: bool) -> Path:
    dataset(folder)
    thick = np.diag([1.5, 8 if odd else 5, 1.5, 1])
    for path in folder.glob("*Tr/*.nii.gz"):
        nifti(path, np.asarray(nibabel.load(path).dataobj), thick)
    return folder


@row("GEO-07", "warning", predict)
def fewer_slices_than_a_stack_has(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise((12, 10, 2 if odd else 3)))


@row("GEO-08", "warning", read)
def a_spacing_below_a_twentieth_of_a_millimetre(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), np.diag([0.01 if odd else 0.06, 0.06, 0.06, 1]))


@row("GEO-08", "warning", read)
def a_spacing_above_twenty_millimetres(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), np.diag([1.5, 1.5, 25 if odd else 19, 1]))


@row("GEO-08", "warning", read)
def a_header_in_metres(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), xyzt_units=1 if odd else 2)


@row("GEO-08", "warning", doctor)
def a_scan_of_four_metres(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise((5, 5, 210)), np.diag([10, 10, 19 if odd else 10, 1]))


# VAL


@row("VAL-01", "error", read, goes_on=finite, fix=Wishes(frozenset({"VAL-01"})))
def voxels_that_are_not_a_number(folder: Path, odd: bool) -> Path:
    data = noise().astype(np.float32)
    data[3, 3, 3] = np.nan if odd else 0
    return nifti(folder / "a.nii.gz", data)


@row("VAL-01", "error", predict, goes_on=lambda mask: np.testing.assert_equal(mask.data.shape, SHAPE))
def voxels_that_are_infinite(folder: Path, odd: bool) -> Path:
    data = noise().astype(np.float32)
    data[3, 3, 3] = np.inf if odd else 0
    return nifti(folder / "a.nii.gz", data)


@row("VAL-02", "warning", read)
def an_image_of_zeros(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", np.zeros(SHAPE, np.int16) if odd else noise())


@row("VAL-02", "error", train, goes_on=ready)
def structures_on_a_constant_image(folder: Path, odd: bool) -> Path:
    dataset(folder)
    if odd:
        nifti(folder / "imagesTr" / "bob_0000.nii.gz", np.full(SHAPE, 7, np.int16))
    return folder


@row("VAL-03", "warning", train)
def a_ct_scaled_to_grey_values(folder: Path, odd: bool) -> Path:
    dataset(folder, channel_names={"0": "CT"})
    if odd:
        nifti(folder / "imagesTr" / "bob_0000.nii.gz", noise(low=0, high=255))
    return folder


@row("VAL-03", "warning", train)
def a_ct_without_its_intercept(folder: Path, odd: bool) -> Path:
    dataset(folder, channel_names={"0": "CT"})
    nifti(folder / "imagesTr" / "bob_0000.nii.gz", noise(low=0 if odd else -1000, high=3000))
    return folder


@row("VAL-03", "warning", predict)
def a_ct_scaled_to_grey_values_in_prediction(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(low=0 if odd else -900, high=255))


@row("VAL-03", "warning", doctor)
def one_case_on_another_scale(folder: Path, odd: bool) -> Path:
    dataset(folder, ("ada", "bob", "cleo", "dora"))
    if odd:
        nifti(folder / "imagesTr" / "bob_0000.nii.gz", noise().astype(np.float32) * 100)
    return folder


@row("VAL-03", "error", read, goes_on=lambda volume: np.testing.assert_array_equal(volume.data[0], noise()))
def a_metaimage_that_asks_for_a_scaling(folder: Path, odd: bool) -> Path:
    lines = (
        "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 1.5 1.5 2",
        f"DimSize = {' '.join(map(str, SHAPE))}", "ElementType = MET_SHORT",
        f"ElementToIntensityFunctionSlope = {2 if odd else 1}", "ElementDataFile = LOCAL", "",
    )  # fmt: skip
    (folder / "a.mha").write_bytes("\n".join(lines).encode() + noise().tobytes("F"))
    return folder / "a.mha"


@row("VAL-04", "error", read_label)
def a_label_beyond_its_type(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", drawn().astype(np.float32) * np.float32(1 if not odd else 1e12))


@row("VAL-04", "error", read_label)
def a_label_beyond_the_largest(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", np.where(drawn() == 2, 2.0**33 if odd else 2.0, drawn()))


def written_and_read(place: Place, path: Path) -> Any:
    """The label map, written anew and read again, with what its values are called."""
    label_map = formats.read_labels(path)
    formats.write_labels(path.with_name("again.nii.gz"), label_map)
    return label_map.data, formats.read_labels(path.with_name("again.nii.gz")).data


def kept_whole(both: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(*both)
    assert both[1].max() == 300


@row("VAL-04", None, written_and_read, passes=kept_whole)
def a_label_beyond_eight_bits_is_written_in_more(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", np.where(drawn() == 2, np.uint16(300 if odd else 2), drawn()))


@row("VAL-05", "error", read, fix=Wishes(channels="split"))
def several_volumes_in_one_file(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise((*SHAPE, 3) if odd else (*SHAPE, 1)))


@row("VAL-05", "error", read)
def vectors(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise((*SHAPE, 1, 3) if odd else (*SHAPE, 1, 1)).astype(np.float32))


@row("VAL-05", "error", read)
def complex_voxels(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise().astype(np.complex64 if odd else np.float32))


COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
CLEAR = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])


@row("VAL-05", None, read, passes=lambda volume: np.testing.assert_equal(volume.channels, 3))
def colours_in_a_volume(folder: Path, odd: bool) -> Path:
    data = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8).view(COLOURS)[..., 0]
    return nifti(folder / "a.nii.gz", data)


@row("VAL-06", "error", predict)
def colours_for_a_model_of_one_channel(folder: Path, odd: bool) -> Path:
    return colours_in_a_volume(folder, odd) if odd else nifti(folder / "a.nii.gz", noise())


@row("VAL-05", "error", read)
def colours_with_transparency_in_a_volume(folder: Path, odd: bool) -> Path:
    kind = CLEAR if odd else COLOURS
    data = np.random.default_rng(0).integers(0, 255, (*SHAPE, len(kind)), np.uint8).view(kind)[..., 0]
    return nifti(folder / "a.nii.gz", data)


@row("VAL-05", "error", read)
def a_picture_with_transparent_pixels(folder: Path, odd: bool) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (7, 9, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[2, 2, 3] = 0 if odd else 255
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


@row("VAL-05", "error", read)
def several_pages(folder: Path, odd: bool) -> Path:
    pages = [Image.fromarray(noise((7, 9), 0, 255, n).astype(np.uint8)) for n in range(3 if odd else 1)]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    return folder / "a.tif"


@row("VAL-06", "error", open_set)
def a_channel_is_missing(folder: Path, odd: bool) -> Path:
    dataset(folder, channel_names={"0": "T1", "1": "T2"})
    if odd:
        (folder / "imagesTr" / "bob_0001.nii.gz").unlink()
    return folder


@row("VAL-06", "error", open_set)
def channels_in_another_order_than_those_of_the_other_set(folder: Path, odd: bool) -> Path:
    dataset(folder / "one", channel_names={"0": "T1", "1": "T2"})
    dataset(folder / "two", channel_names={"0": "T2", "1": "T1"} if odd else {"0": "T1", "1": "T2"})
    return joint(folder)


@row("VAL-06", "warning", train)
def one_channel_stands_for_another(folder: Path, odd: bool) -> Path:
    dataset(folder, channel_names={"0": "T1", "1": "T2"})
    if odd:
        (folder / "imagesTr" / "bob_0001.nii.gz").write_bytes((folder / "imagesTr" / "bob_0000.nii.gz").read_bytes())
    return folder


def joint(folder: Path) -> Path:
    """Two data sets, used together."""
    lines = [f"labels: {json.dumps(dict(TABLE.values))}", "sets:", "  - root: one", "  - root: two"]
    (folder / "both.yaml").write_text("\n".join(lines) + "\n")
    return folder / "both.yaml"


# LAB


@row("LAB-01", "error", read_label)
def labels_that_were_interpolated(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", drawn().astype(np.float32) * np.float32(1.176 if odd else 1))


@row("LAB-01", "error", read_label, fix=Wishes(frozenset({"LAB-01"})), role="label")
def labels_a_little_off(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", drawn().astype(np.float32) * np.float32(1.02 if odd else 1.0001))


@row("LAB-02", "error", read_label, fix=Wishes(relabel={255: 1}), role="label")
def a_mask_of_0_and_255(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", (drawn() > 0).astype(np.uint8) * np.uint8(255 if odd else 1))


@row("LAB-02", "error", read_label, fix=Wishes(relabel={3: 2}), role="label")
def values_that_are_not_consecutive(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", np.where(drawn() == 2, 3 if odd else 2, drawn()).astype(np.uint8))


@row("LAB-02", "error", train)
def values_outside_the_table_in_training(folder: Path, odd: bool) -> Path:
    dataset(folder)
    if odd:
        values_that_are_not_consecutive(folder / "labelsTr", odd).rename(folder / "labelsTr" / "bob.nii.gz")
    return folder


@row("LAB-02", "warning", lambda place, path: formats.read_labels(path))
def a_255_that_nobody_explains(folder: Path, odd: bool) -> Path:
    label = drawn()
    label[0, 0] = 255 if odd else 0
    return nifti(folder / "a.nii.gz", label)


@row("LAB-03", "warning", train)
def an_empty_label(folder: Path, odd: bool) -> Path:
    dataset(folder, ("ada", "bob", "cleo", "dora"))
    if odd:
        nifti(folder / "labelsTr" / "bob.nii.gz", np.zeros(SHAPE, np.uint8))
    return split(folder, ["ada", "bob"], ["cleo", "dora"])


@row("LAB-03", "error", train, goes_on=ready)
def a_structure_absent_from_training(folder: Path, odd: bool) -> Path:
    dataset(folder)
    for name in ("ada", "bob") if odd else ():
        nifti(folder / "labelsTr" / f"{name}.nii.gz", np.where(drawn() == 2, 0, drawn()).astype(np.uint8))
    return split(folder, ["ada", "bob"], ["cleo"])


@row("LAB-03", "warning", train)
def a_structure_absent_from_validation(folder: Path, odd: bool) -> Path:
    dataset(folder)
    if odd:
        nifti(folder / "labelsTr" / "cleo.nii.gz", np.where(drawn() == 2, 0, drawn()).astype(np.uint8))
    return split(folder, ["ada", "bob"], ["cleo"])


@row("LAB-04", "error", open_set)
def a_name_that_the_common_table_lacks(folder: Path, odd: bool) -> Path:
    dataset(folder / "one")
    dataset(folder / "two", labels={"background": 0, "liver": 1, ("Milz" if odd else "spleen"): 2})
    return joint(folder)


@row("LAB-04", "error", doctor_of_both, goes_on=lambda result: None)
def two_tables_that_contradict_each_other(folder: Path, odd: bool) -> Path:
    dataset(folder / "one")
    dataset(folder / "two", ("xena", "yves"), labels={"background": 0, **({"spleen": 1, "liver": 2} if odd else
                                                                        {"liver": 1, "spleen": 2})})  # fmt: skip
    return folder


def numbers_count(result: Any) -> None:
    np.testing.assert_array_equal(result.data, drawn())


@row("LAB-04", "error", read_label, goes_on=numbers_count)
def segments_with_other_names(folder: Path, odd: bool) -> Path:
    return slicer(folder, drawn()[None], ["liver", "Milz" if odd else "spleen"], [0, 0])


@row("LAB-05", "error", read_label, goes_on=lambda result: np.testing.assert_equal(result.data[7, 6, 4], 2))
def segments_that_overlap(folder: Path, odd: bool) -> Path:
    layers = np.stack([drawn() == 1, np.where(drawn() == 2, 2, 0)])
    layers[0, 7:9, 6] = odd
    return slicer(folder, layers, ["liver", "spleen"], [0, 1])


@row("LAB-05", "error", read_label)
def a_volume_for_each_structure(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", np.stack([drawn() == 1, drawn() == 2][: 2 if odd else 1], -1).astype(np.uint8))


def slicer(folder: Path, layers: np.ndarray, names: list[str], layer_of: list[int]) -> Path:
    """A file of 3D Slicer: layers are the first axis; structures count from 1."""
    lines = [
        "NRRD0004", "type: unsigned char", "dimension: 4", "space: right-anterior-superior",
        f"sizes: {' '.join(map(str, layers.shape))}", "space directions: none (1.5,0,0) (0,1.5,0) (0,0,2)",
        "kinds: list domain domain domain", "encoding: raw", "space origin: (0,0,0)",
    ]  # fmt: skip
    for number, (name, layer) in enumerate(zip(names, layer_of, strict=True)):
        known = {"ID": f"s{number}", "Name": name, "LabelValue": number + 1, "Layer": layer}
        lines += [f"Segment{number}_{key}:={value}" for key, value in known.items()]
    (folder / "a.seg.nrrd").write_bytes("\n".join(lines).encode() + b"\n\n" + layers.astype(np.uint8).tobytes("F"))
    return folder / "a.seg.nrrd"


@row("LAB-06", "warning", train)
def a_speck_far_from_its_structure(folder: Path, odd: bool) -> Path:
    dataset(folder)
    label = np.zeros(SHAPE, np.uint8)
    label[1:6, 1:9, 1:7], label[7:9, 1:4, 1:4] = 1, 2
    label[11, 9, 7] = odd
    nifti(folder / "labelsTr" / "bob.nii.gz", label, np.diag([3, 3, 4, 1]))
    nifti(folder / "imagesTr" / "bob_0000.nii.gz", noise(), np.diag([3, 3, 4, 1]))
    return folder


@row("LAB-06", "warning", train)
def a_label_outside_of_the_body(folder: Path, odd: bool) -> Path:
    dataset(folder, channel_names={"0": "CT"})
    body = noise(low=-100, high=100)
    body[:6] = -1000
    label = np.zeros(SHAPE, np.uint8)
    label[1 : 4 if odd else 1, 2:5, 2:5], label[6:9, 2:5, 2:5], label[9:11, 6:9, 2:6] = 1, 1 if not odd else 0, 2
    nifti(folder / "imagesTr" / "bob_0000.nii.gz", body)
    nifti(folder / "labelsTr" / "bob.nii.gz", label)
    return folder


# SET


@row("SET-01", "error", open_set)
def a_partner_is_missing(folder: Path, odd: bool) -> Path:
    dataset(folder)
    if odd:
        (folder / "imagesTr" / "bob_0000.nii.gz").unlink()
    return folder


@row("SET-01", "error", open_set)
def a_case_named_twice(folder: Path, odd: bool) -> Path:
    dataset(folder)
    lines = [f"{name},imagesTr/{name}_0000.nii.gz,labelsTr/{name}.nii.gz" for name in ("ada", "bob")]
    (folder / "cases.csv").write_text("\n".join(["id,image,label", *lines, *lines[:odd]]) + "\n")
    (folder / "labels.json").write_text(json.dumps(dict(TABLE.values)))
    return folder / "cases.csv"


@row("SET-01", "warning", train)
def two_cases_of_one_content(folder: Path, odd: bool) -> Path:
    dataset(folder)
    if odd:
        for part, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            (folder / part / f"bob{end}").write_bytes((folder / part / f"ada{end}").read_bytes())
    return split(folder, ["ada", "bob"], ["cleo"])


@row("SET-02", "error", train, goes_on=ready)
def one_patient_on_both_sides(folder: Path, odd: bool) -> Path:
    dataset(folder, groups={"ada": "p1", "bob": "p2", "cleo": "p1" if odd else "p3"})
    return split(folder, ["ada", "bob"], ["cleo"])


@row("SET-02", "error", train, goes_on=ready)
def one_content_on_both_sides(folder: Path, odd: bool) -> Path:
    two_cases_of_one_content(folder, odd)
    return split(folder, ["ada", "cleo"], ["bob"])


@row("SET-02", "warning", train)
def names_that_look_like_one_patient(folder: Path, odd: bool) -> Path:
    names = [f"patient{number}_{frame}" for number in (1, 2, 3, 4) for frame in "ab"]
    dataset(folder, tuple(names))
    return split(folder, names[:3] if odd else names[:4], names[3:] if odd else names[4:])


@row("SET-03", "error", read)
def a_file_that_is_cut_off(folder: Path, odd: bool) -> Path:
    path = nifti(folder / "a.nii.gz", noise())
    path.write_bytes(path.read_bytes()[: -400 if odd else None])
    return path


@row("SET-03", "error", read)
def a_web_page_instead_of_data(folder: Path, odd: bool) -> Path:
    path = nifti(folder / "a.nii.gz", noise())
    if odd:
        path.write_text("<!DOCTYPE html><html>404</html>")
    return path


@row("SET-03", "error", predict)
def a_pointer_instead_of_data(folder: Path, odd: bool) -> Path:
    path = nifti(folder / "a.nii.gz", noise())
    if odd:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return path


@row("SET-03", None, read, passes=lambda volume: np.testing.assert_array_equal(volume.data[0], noise()))
def a_plain_file_with_the_ending_of_a_packed_one(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii", noise()).rename(folder / ("a.nii.gz" if odd else "b.nii"))


@row("SET-03", "error", read)
def a_wrong_ending(folder: Path, odd: bool) -> Path:
    (folder / "a.png").write_bytes(b"GIF89a" + bytes(40))
    return folder / "a.png" if odd else nifti(folder / "b.nii.gz", noise())


# DCM


def slices(count: int = 4) -> np.ndarray:
    """k j i."""
    return np.random.default_rng(count).integers(0, 900, (count, 6, 5)).astype(np.int16)


def dicom(pixels: np.ndarray, number: int, modality: str = "CT") -> Any:
    """A valid axial slice, 3 mm above the one before."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.0", "1.2.1", "1.2.2"
    data.Modality, data.SeriesDescription, data.InstanceNumber = modality, "made up", number + 1
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, 20, 3 * number]
    data.PixelSpacing, data.SliceThickness = [2, 0.5], "3"
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"):
        setattr(data, keyword, "")
    for keyword in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "Manufacturer"):
        setattr(data, keyword, "")
    if modality == "CT":
        data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelData = pixels.tobytes()
    return data


def store(path: Path, data: Any) -> Path:
    """Writes a data set as it is."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(path, data, enforce_file_format=False)
    return path


def series(folder: Path, change: Callable[[int, Any], None] = lambda number, data: None, **how: Any) -> Path:
    """A series of four slices, each changed before it is written."""
    folder = folder / "series"
    folder.mkdir(exist_ok=True)
    for number, pixels in enumerate(how.get("pixels", slices())):
        data = dicom(pixels, number, how.get("modality", "CT"))
        change(number, data)
        store(folder / f"{how.get('name', 's')}{number}.dcm", data)
    return folder


def heights(*places: float) -> Callable[[int, Any], None]:
    def change(number: int, data: Any) -> None:
        data.ImagePositionPatient = [-10, 20, places[number]]

    return change


def tags(**values: Any) -> Callable[[int, Any], None]:
    """Sets tags; a list has one value per slice, None removes."""

    def change(number: int, data: Any) -> None:
        for keyword, value in values.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value[number] if isinstance(value, list) else value)

    return change


def even(count: int) -> Callable[[Any], None]:
    """So many slices, as far apart as the positions say."""

    def look(volume: Any) -> None:
        assert volume.grid.shape == (5, 6, count)
        assert volume.grid.spacing == pytest.approx((0.5, 2, 3))

    return look


@row("DCM-01", "error", read, goes_on=even(5))
def a_gap(folder: Path, odd: bool) -> Path:
    return series(folder, heights(0, 3, 6, 12 if odd else 9))


@row("DCM-01", "error", predict, goes_on=lambda mask: np.testing.assert_equal(mask.data.shape, (5, 6, 5)))
def a_gap_in_prediction(folder: Path, odd: bool) -> Path:
    return a_gap(folder, odd)


@row("DCM-01", "error", read, goes_on=even(4))
def steps_of_different_length(folder: Path, odd: bool) -> Path:
    return series(folder, heights(0, 4 if odd else 3, 6, 9))


@row("DCM-01", "error", read, goes_on=even(4), fix=Wishes(frozenset({"DCM-01"})))
def a_slice_that_is_there_twice(folder: Path, odd: bool) -> Path:
    series(folder)
    if odd:
        store(folder / "series" / "t.dcm", dicom(slices()[1], 1))
    return folder / "series"


@row("DCM-01", "warning", read)
def steps_that_differ_by_little(folder: Path, odd: bool) -> Path:
    return series(folder, heights(0, 3.03 if odd else 3, 6, 9))


@row("DCM-01", "warning", read)
def a_thickness_that_is_not_the_step(folder: Path, odd: bool) -> Path:
    return series(folder, tags(SliceThickness="5" if odd else "3"))


@row("DCM-01", "error", read)
def slices_shifted_sideways(folder: Path, odd: bool) -> Path:
    shifts = (0, 2 if odd else 0, 0, 0)
    return series(folder, lambda number, data: data.update({"ImagePositionPatient": [shifts[number], 20, 3 * number]}))


@row("DCM-02", "warning", read, passes=keeps_its_shear)
def a_gantry_tilt(folder: Path, odd: bool) -> Path:
    slope = 0.8 if odd else 0
    return series(folder, lambda number, data: setattr(data, "ImagePositionPatient", [0, slope * number, 3 * number]))


@row("DCM-02", "warning", predict, passes=lambda mask: np.testing.assert_equal(mask.data.shape, (5, 6, 4)))
def a_gantry_tilt_in_prediction(folder: Path, odd: bool) -> Path:
    return a_gantry_tilt(folder, odd)


def two_series(folder: Path) -> Path:
    series(folder)
    return series(folder, tags(SeriesInstanceUID="1.2.9"), name="other")


@row("DCM-03", "error", read)
def several_series(folder: Path, odd: bool) -> Path:
    return two_series(folder) if odd else series(folder)


@row("DCM-03", "warning", doctor)
def several_series_at_the_doctor(folder: Path, odd: bool) -> Path:
    return two_series(folder) if odd else series(folder)


@row("DCM-03", "error", read)
def a_localiser_beside_the_scan(folder: Path, odd: bool) -> Path:
    series(folder)
    if odd:
        side = dicom(slices(1)[0], 9)
        side.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        store(folder / "series" / "localiser.dcm", side)
    return folder / "series"


@row("VAL-05", "error", read, deviates="time points are volumes of one series: one is chosen by its number, not listed")
def two_time_points_in_one_series(folder: Path, odd: bool) -> Path:
    return series(folder, heights(0, 3, 0, 3) if odd else heights(0, 3, 6, 9))


@row("DCM-03", "error", read)
def time_points_of_which_one_is_incomplete(folder: Path, odd: bool) -> Path:
    return series(folder, heights(0, 3, 0, 6) if odd else heights(0, 3, 6, 9))


def enhanced(folder: Path, frames: int) -> Path:
    """A multi-frame object of four frames, of which so many have a place."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedMRImageStorage

    data = dicom(slices()[0], 0, "MR")
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    data.NumberOfFrames, data.PixelData = 4, slices().tobytes()
    del data.ImageOrientationPatient, data.ImagePositionPatient, data.PixelSpacing
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([Dataset()]), Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [2, 0.5]
    groups = []
    for number in range(frames):
        group = Dataset()
        group.PlanePositionSequence = Sequence([Dataset()])
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3 * number]
        groups.append(group)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(groups)
    return store(folder / "a.dcm", data)


@row("DCM-04", None, read, passes=even(4))
def a_complete_enhanced_object(folder: Path, odd: bool) -> Path:
    return enhanced(folder, 4)


@row("DCM-04", "error", read)
def an_enhanced_object_without_all_of_its_groups(folder: Path, odd: bool) -> Path:
    return enhanced(folder, 3 if odd else 4)


@row("DCM-05", "error", read)
def pixels_that_nothing_decodes(folder: Path, odd: bool) -> Path:
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    data = dicom(slices(1)[0], 0)
    if odd:
        data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
        data.PixelData = encapsulate([bytes(60)])
        data["PixelData"].is_undefined_length = True
    return store(folder / "a.dcm", data)


def scaled_slice_by_slice(volume: Any) -> None:
    if volume.data.dtype == np.float32:
        for number, pixels in enumerate(slices()):
            np.testing.assert_allclose(volume.data[0, ..., number], pixels.T * (number + 0.5) - 1022.5)


@row("DCM-06", None, read, passes=scaled_slice_by_slice)
def a_slope_for_each_slice(folder: Path, odd: bool) -> Path:
    own = tags(RescaleSlope=["0.5", "1.5", "2.5", "3.5"], RescaleIntercept="-1022.5")
    return series(folder, own) if odd else series(folder)


@row("DCM-06", "warning", read)
def a_ct_without_slope_and_intercept(folder: Path, odd: bool) -> Path:
    return series(folder, tags(RescaleSlope=None, RescaleIntercept=None) if odd else tags())


@row("DCM-06", "warning", read, passes=lambda volume: np.testing.assert_array_less(-1025, volume.data.min()))
def padding_around_the_image(folder: Path, odd: bool) -> Path:
    pixels = slices()
    pixels[:, 0, 0] = -2000 if odd else 0
    return series(folder, tags(PixelPaddingValue=-2000), pixels=pixels)


@row("DCM-06", "warning", read, passes=lambda volume: np.testing.assert_array_less(-1025, volume.data.min()))
def padding_whose_sign_contradicts_the_pixels(folder: Path, odd: bool) -> Path:
    pixels = slices()
    pixels[:, 0, 0] = -2000 if odd else 0
    return series(folder, lambda number, data: data.add_new(0x00280120, "US", 65536 - 2000), pixels=pixels)


@row("DCM-06", None, read, passes=lambda volume: np.testing.assert_array_equal(volume.data[0], slices().T - 1024))
def slices_of_different_signs(folder: Path, odd: bool) -> Path:
    return series(folder, tags(PixelRepresentation=[1, 0, 1, 1]) if odd else tags())


def coloured(folder: Path, odd: bool) -> Path:
    data = dicom(slices(1)[0], 0, "XC")
    if odd:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
        data.PixelData = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8).tobytes()
    return store(folder / "a.dcm", data)


@row(
    "DCM-07", None, read, passes=lambda volume: np.testing.assert_array_less(0, volume.channels),
    deviates="colours are read as three channels; a model of one channel refuses them by VAL-06, the next row",
)  # fmt: skip
def colour_images(folder: Path, odd: bool) -> Path:
    return coloured(folder, odd)


@row("VAL-06", "error", predict)
def dicom_colours_for_a_model_of_one_channel(folder: Path, odd: bool) -> Path:
    return coloured(folder, True) if odd else series(folder)


@row("DCM-07", None, read, passes=lambda volume: np.testing.assert_equal(volume.channels, 3))
def a_palette(folder: Path, odd: bool) -> Path:
    if not odd:
        return coloured(folder, True)
    data = dicom(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), 0, "US")
    data.PhotometricInterpretation = "PALETTE COLOR"
    for number, colour in enumerate(("Red", "Green", "Blue")):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [3, 0, 16])
        table = np.array([number * 10000, 30000, 60000 - number], np.uint16)
        setattr(data, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return store(folder / "a.dcm", data)


@row("DCM-07", "error", read)
def colours_that_are_not_red_green_and_blue(folder: Path, odd: bool) -> Path:
    path = coloured(folder, True)
    if odd:
        data = pydicom.dcmread(path)
        data.SamplesPerPixel, data.PhotometricInterpretation = 4, "CMYK"
        data.PixelData = bytes(6 * 5 * 4)
        store(path, data)
    return path


@row("DCM-07", "warning", read)
def small_numbers_are_bright(folder: Path, odd: bool) -> Path:
    return series(folder, tags(PhotometricInterpretation="MONOCHROME1" if odd else "MONOCHROME2"), modality="MR")


@row("DCM-07", "warning", read)
def text_burnt_into_the_pixels(folder: Path, odd: bool) -> Path:
    return series(folder, tags(BurnedInAnnotation="YES" if odd else "NO"))


@row("DCM-08", "warning", predict, passes=lambda mask: np.testing.assert_equal(mask.data.shape, (5, 6, 4)))
def no_frame_of_reference(folder: Path, odd: bool) -> Path:
    return series(folder, tags(FrameOfReferenceUID=None) if odd else tags())


def as_seg(place: Place, path: Path) -> Any:
    """The mask of a series as DICOM SEG."""
    image = formats.read(path)
    label = np.zeros(image.grid.shape, np.uint8)
    label[1:3, 2:4] = 1
    formats.write_labels(place.folder / f"seg{len(place.accept)}.dcm", LabelMap(label, image.grid, TABLE), like=image)


@row("DCM-08", "error", as_seg)
def no_frame_of_reference_for_a_seg(folder: Path, odd: bool) -> Path:
    return no_frame_of_reference(folder, odd)


def stacked(volume: Any) -> None:
    np.testing.assert_array_equal(volume.data[0], slices().T - 1024)


@row("DCM-08", "error", read, goes_on=stacked)
def no_positions(folder: Path, odd: bool) -> Path:
    return series(folder, tags(ImagePositionPatient=None, ImageOrientationPatient=None) if odd else tags())


def unit_millimetres(volume: Any) -> None:
    assert volume.grid.spacing == pytest.approx((1, 1, 3))


@row("DCM-08", "error", read, goes_on=unit_millimetres)
def no_pixel_spacing(folder: Path, odd: bool) -> Path:
    return series(folder, tags(PixelSpacing=None) if odd else tags())


@row("DCM-09", "warning", read, passes=even(4))
def direction_cosines_of_another_length(folder: Path, odd: bool) -> Path:
    return series(
        folder, lambda number, data: setattr(data, "ImageOrientationPatient", [1.02 if odd else 1, 0, 0, 0, 1, 0])
    )


@row("DCM-09", "error", read)
def direction_cosines_that_are_none(folder: Path, odd: bool) -> Path:
    return series(
        folder, lambda number, data: setattr(data, "ImageOrientationPatient", [0 if odd else 1, 0, 0, 0, 1, 0])
    )


@row("DCM-09", "warning", read, passes=even(4))
def numbers_with_a_comma(folder: Path, odd: bool) -> Path:
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    def change(number: int, data: Any) -> None:
        if odd:
            tag = Tag("PixelSpacing")
            data[tag] = RawDataElement(tag, "DS", 8, b"2,0\\0,50", 0, False, True)

    return series(folder, change)


@row(
    "DCM-09", None, read, passes=even(4),
    deviates="no text of the header is used, so a character set that nobody knows has nothing to spoil",
)  # fmt: skip
def an_unknown_character_set(folder: Path, odd: bool) -> Path:
    def change(number: int, data: Any) -> None:
        data.SpecificCharacterSet = "ISO_IR 999" if odd else "ISO_IR 100"
        data.SeriesDescription = "Schaedel"

    return series(folder, change)


@row("LAB-01", "error", read_label, goes_on=lambda labels: np.testing.assert_equal(int((labels.data == 1).sum()), 8))
def a_seg_that_holds_shares(folder: Path, odd: bool) -> Path:
    import highdicom
    from pydicom.uid import generate_uid

    sources = [dicom(pixels, number) for number, pixels in enumerate(slices())]
    shares = np.zeros((4, 6, 5), np.float32)
    shares[1, 2:4, 1:3], shares[2, 2:4, 1:3] = 1, 0.75 if odd else 1
    shares[3, 0, 0] = 0.25 if odd else 0
    liver = highdicom.sr.CodedConcept("10200004", "SCT", "Liver")
    said = highdicom.seg.SegmentDescription(1, "liver", liver, liver, "MANUAL")
    seg = highdicom.seg.Segmentation(
        sources, shares, "FRACTIONAL", [said], generate_uid(), 1, generate_uid(), 1, "m", "m", "1", "1"
    )
    seg.save_as(folder / "a.dcm")
    return folder / "a.dcm"


# PHI, VID, WEI


@row("PHI-01", "warning", doctor)
def a_name_in_a_file_name(folder: Path, odd: bool) -> Path:
    return nifti(folder / ("MUELLER^ANNA_19540312.nii.gz" if odd else "a.nii.gz"), noise())


@row("PHI-01", "warning", doctor)
def text_in_a_header(folder: Path, odd: bool) -> Path:
    return nifti(folder / "a.nii.gz", noise(), descrip=b"Mueller Anna 1954-03-12" if odd else b"")


@row("PHI-01", "warning", doctor)
def an_id_in_a_dicom_header(folder: Path, odd: bool) -> Path:
    return series(folder, tags(PatientID="4711-0815") if odd else tags())


def film(path: Path, frames: np.ndarray, form: str, times: list[int] | None = None, codec: str = "ffv1") -> Path:
    """A film at 25 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], form
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, "rgba" if frames.shape[-1] == 4 else "rgb24")
            image.pts, image.time_base = (times or range(len(frames)))[number], Fraction(1, 25)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def shots(count: int = 8, height: int = 32, width: int = 48, channels: int = 3) -> np.ndarray:
    frames = np.random.default_rng(3).integers(0, 256, (count, height, width, channels), np.uint8)
    frames[..., 3:] = 255
    return frames


@row("VID-01", "warning", read)
def frames_of_unequal_length(folder: Path, odd: bool) -> Path:
    return film(folder / "a.mkv", shots(), "bgr0", [0, 1, 2, 6, 7, 8, 12, 13] if odd else None)


@row("VID-01", "warning", read)
def a_film_that_asks_to_be_turned(folder: Path, odd: bool) -> Path:
    path = film(folder / "a.mp4", shots(3), "yuv420p", codec="libx264")
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    start += 4 + (32 if content[start] else 20) + 16
    one = 1 << 16
    turn = (0, one, 0, -one, 0, 0, 0, 0, 1 << 30) if odd else (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    content[start : start + 36] = struct.pack(">9i", *turn)
    path.write_bytes(content)
    return path


@row("VID-01", "warning", read)
def an_alpha_channel(folder: Path, odd: bool) -> Path:
    return film(folder / "a.mov", shots(3, channels=4 if odd else 3), "rgba" if odd else "rgb24", codec="png")


@row("VID-01", "error", read, goes_on=lambda volume: np.testing.assert_equal(volume.data.shape, (3, 48, 32, 3)))
def transparent_pixels(folder: Path, odd: bool) -> Path:
    frames = shots(3, channels=4)
    frames[1, 4, 5, 3] = 0
    return film(folder / "a.mov", frames if odd else shots(3), "rgba" if odd else "rgb24", codec="png")


@row(
    "VID-01", None, read, passes=lambda volume: np.testing.assert_array_equal(volume.data.shape[3], 3),
    deviates="an odd size is read as it is, and loses nothing",
)  # fmt: skip
def an_odd_size(folder: Path, odd: bool) -> Path:
    return film(folder / "a.mkv", shots(3, 31, 47) if odd else shots(3), "bgr0")


@row("VID-01", "error", read, goes_on=lambda volume: np.testing.assert_array_less(0, volume.data.shape[3]))
def a_damaged_end(folder: Path, odd: bool) -> Path:
    path = film(folder / "a.mkv", shots(40), "bgr0")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * (0.6 if odd else 1))])
    return path


@row("VID-01", "error", lambda place, path: formats.video.read(path))
def frames_of_several_kinds(folder: Path, odd: bool) -> Path:
    for number in range(3):
        Image.fromarray(shots()[number]).convert("L" if odd and number == 2 else "RGB").save(folder / f"{number}.png")
    return folder


@row("WEI-01", "error", load_model)
def another_backbone_than_that_of_the_training(folder: Path, odd: bool) -> Path:
    backbone, report = backbones.obtain("sam-tiny", None, (32, 32))
    options = {"rank": 4, "width": 16}
    trained = bundle.describe(
        Segmenter(backbone, adapt.build("ma_sam", options, backbone, TABLE.count)),
        labels=TABLE.to_json(),
        channels=("CT",),
        kind="CT",
        stack=StackPlan(depth=3, size=(32, 32), plane="axial"),
        intensity=Intensity("window", low=-100, high=200),
        adapt={"name": "ma_sam", **options},
        backbone=bundle.BackboneIdentity("sam-tiny", "0" * 64 if odd else report.sha256),
    )
    trained.save(folder / "model")
    return folder / "model"


# PRM


def said(folder: Path, *prompts: dict[str, Any], **scan: Any) -> Path:
    """A prompt file of the scan."""
    prompt_file.write(folder / "prompts.json", Prompts((Point((1, 1, 1), Target("liver")),)), "scan.nii.gz", GRID)
    record = json.loads((folder / "prompts.json").read_text())
    (folder / "prompts.json").write_text(json.dumps({**record, "prompts": prompts or record["prompts"], **scan}))
    return folder / "prompts.json"


def click(*at: float, label: str = "liver", **more: Any) -> dict[str, Any]:
    return {"type": "point", "at": at, "label": label, **more}


@row("PRM-01", "error", lambda place, path: prompt_file.box_of(path.read_text(), TABLE, GRID))
def an_inverted_box(folder: Path, odd: bool) -> Path:
    (folder / "typed.txt").write_text("1,1,3,4,4,1,liver" if odd else "1,1,1,4,4,3,liver")
    return folder / "typed.txt"


@row("PRM-02", "error", prompt)
def a_click_outside_of_the_scan(folder: Path, odd: bool) -> Path:
    return said(folder, click(1, 1, 50 if odd else 5))


@row("PRM-03", "error", prompt)
def a_structure_that_the_table_lacks(folder: Path, odd: bool) -> Path:
    return said(folder, click(1, 1, 1, label="Liver" if odd else "liver"))


def thousand(place: Place, path: Path) -> Any:
    """As many clicks as the file says, of which each is right."""
    clicks = (Point((1, 1, number / 1000), Target("liver")) for number in range(int(path.read_text())))
    Prompts(tuple(clicks)).check(GRID, TABLE)


@row("PRM-04", "error", thousand)
def more_prompts_than_are_taken(folder: Path, odd: bool) -> Path:
    (folder / "number.txt").write_text(str(1000 + odd))
    return folder / "number.txt"


@row("PRM-05", "error", prompt)
def clicks_that_contradict_each_other(folder: Path, odd: bool) -> Path:
    return said(folder, click(1, 1, 1), click(1, 1, 1 if odd else 2, inside=False))


@row("PRM-06", "error", prompt)
def a_mask_of_another_shape(folder: Path, odd: bool) -> Path:
    return said(folder, {"type": "mask", "label": "liver", "runs": [300, 20, 640 + odd]})


@row("PRM-07", "error", prompt)
def a_misspelt_key(folder: Path, odd: bool) -> Path:
    return said(folder, {"type": "point", "at": (1, 1, 1), ("labels" if odd else "label"): "liver"})


@row("PRM-08", "error", prompt)
def prompts_of_another_scan(folder: Path, odd: bool) -> Path:
    return said(folder, shape=[12, 10, 9 if odd else 8])


# QUA


class Bright(nn.Module):
    """Takes what is bright for liver, the surer the brighter."""

    def embed(self, images: Tensor) -> Tensor:
        return images

    def encode_embedded(self, images: Tensor) -> Tensor:
        return images.flatten(0, 1)

    def decode(self, images: Tensor, prompts: object = None) -> Scores:
        logits = torch.full((len(images), 3, *images.shape[2:]), -50.0)
        logits[:, 0], logits[:, 1] = 0, (images[:, 0] - 0.5) * 50
        return Scores(logits)


def trust(place: Place, path: Path) -> Any:
    """The mask of a model that finds what is bright and knows its training scan, a sound one."""
    known = place.model.description
    sound = formats.read(lit(place.folder / "training"))
    seen = ranges.look(sound.grid, ranges.measure(sound.data), known.stack.plane, known.intensity)
    learnt = ranges.Ranges.of([seen], [{"liver": 120 * 4.5 / 1000, "spleen": 0.0}])
    prompts = bundle.PromptsLearnt()
    model = replace(place.model, description=replace(known, ranges=learnt, prompts=prompts))
    predictor = Predictor(model, device="cpu", stride=3)
    predictor.segmenter = Bright()  # type: ignore[assignment]
    (outcome,) = cohort.run(predictor, cases.tasks(path, place.folder / f"trusted{len(place.accept)}{path.name}", 1))
    if outcome.status == "failed":
        raise VoxelSamError(outcome.reason, code=outcome.code)
    return outcome


def lit(folder: Path, level: int = 200, size: int = 4, step: float = 2.0) -> Path:
    """A dark scan with a block of that brightness."""
    data = np.full(SHAPE, -100, np.int16)
    data[2 : 4 + size, 2 : 3 + size, 2 : 2 + size] = level
    return nifti(folder / "a.nii.gz", data, np.diag([1.5, 1.5, step, 1.0]))


def doubted(result: Any) -> None:
    assert result.status == "done"
    assert result.flags


@row("QUA-01", "warning", trust, passes=doubted)
def a_structure_that_can_hardly_be_seen(folder: Path, odd: bool) -> Path:
    return lit(folder, level=53 if odd else 200)


@row("QUA-02", "warning", trust, passes=doubted)
def slices_farther_apart_than_in_training(folder: Path, odd: bool) -> Path:
    return lit(folder, step=3.5 if odd else 2.0)


@row("QUA-02", "warning", trust, passes=doubted)
def intensities_in_another_unit(folder: Path, odd: bool) -> Path:
    return lit(folder, level=53 if odd else 200)


@row("QUA-03", "warning", trust, passes=doubted)
def a_structure_far_smaller_than_in_training(folder: Path, odd: bool) -> Path:
    return lit(folder, size=1 if odd else 4)


# The table is true


def met(one: Row, place: Place, path: Path) -> tuple[set[tuple[str, str]], Any]:
    """What a row's door finds, each as code and severity, and what it gives; None after an error."""
    result = None
    with warnings.catch_warnings(record=True) as caught, checks.watching(place.accept) as watch:
        warnings.simplefilter("always")
        found = set()
        try:
            result = one.door(place, path)
        except VoxelSamError as error:
            found.add((error.code, "error"))
    assert {warning.category for warning in caught} <= {InputWarning}
    return found | {(finding.code, finding.severity) for finding in watch.findings}, result


@pytest.fixture(scope="module")
def model(learnt: Callable[..., Bundle]) -> Bundle:
    """A model of one channel of CT."""
    return learnt(labels=dict(TABLE.values))


@pytest.fixture
def place(tmp_path: Path, model: Bundle) -> Place:
    return Place(tmp_path, model)


def made(one: Row, place: Place, odd: bool) -> Path:
    folder = place.folder / ("odd" if odd else "sound")
    folder.mkdir()
    return one.make(folder, odd)


each = pytest.mark.parametrize("one", ROWS, ids=[one.name for one in ROWS])


@each
def test_odd_input_gives_its_code_and_its_sound_twin_does_not(one: Row, place: Place) -> None:
    found, result = met(one, place, made(one, place, True))
    severities = {severity for code, severity in found if code == one.code}
    assert min(severities, default=None) == one.severity
    if one.severity != "error" and one.passes is not None:
        one.passes(result)
    assert not {code for code, severity in found if severity == "error"} - {one.code}
    sound, _ = met(one, place, made(one, place, False))
    assert one.code not in {code for code, _ in sound}
    assert not {code for code, severity in sound if severity == "error"}


@pytest.mark.parametrize("one", [r for r in ROWS if r.severity == "error"], ids=lambda one: one.name)
def test_accepting_an_error_does_what_the_catalogue_says(one: Row, place: Place) -> None:
    path = made(one, place, True)
    place = replace(place, accept=frozenset({one.code}))
    if not CATALOGUE[one.code].acceptable:
        with pytest.raises(ConfigError, match=rf"{one.code} .* cannot be accepted"):
            met(one, place, path)
        return
    found, result = met(one, place, path)
    if one.goes_on is None:
        assert (one.code, "error") in found
        assert "stay" in CATALOGUE[one.code].accepted
    else:
        assert (one.code, "error") not in found
        assert (one.code, "warning") in found or one.door in (doctor, doctor_of_both)
        one.goes_on(result)


@pytest.mark.parametrize("one", [r for r in ROWS if r.fix is not None], ids=lambda one: one.name)
def test_a_repaired_copy_passes(one: Row, place: Place) -> None:
    path = made(one, place, True)
    source, image = (path / "label.nii.gz", path / "image.nii.gz") if one.door is read_pair else (path, None)
    before = source.read_bytes() if source.is_file() else b""
    target = place.folder / "fixed" / "a.nii.gz"
    target.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        result = fix_file(source, target, one.fix, role=one.role, image=image)
    assert one.code in {change.code for change in result.changes}
    assert (source.read_bytes() if source.is_file() else b"") == before
    if image is not None:
        (target.parent / "image.nii.gz").write_bytes(image.read_bytes())
        target.rename(target.parent / "label.nii.gz")
    for output in [target.parent] if image is not None else [target.parent / name for name in result.output]:
        found, _ = met(one, place, output)
        assert one.code not in {code for code, _ in found}


def test_every_check_has_a_row() -> None:
    assert {one.code for one in ROWS} == set(CATALOGUE)
    assert len({one.name for one in ROWS}) == len(ROWS)


def test_every_severity_that_a_verdict_names_has_a_row() -> None:
    for code, check in CATALOGUE.items():
        shown = {one.severity for one in ROWS if one.code == code}
        assert {severity for severity in ("error", "warning") if severity in check.verdict.split(";")[0]} <= shown
        assert check.severity in shown


def test_every_check_that_can_be_accepted_is_accepted_by_a_row() -> None:
    assert {code for code, check in CATALOGUE.items() if check.acceptable} == {
        one.code for one in ROWS if one.goes_on is not None
    }
