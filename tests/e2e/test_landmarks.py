"""A place in the patient is the same place after reading, bringing to the model, segmenting, restoring and writing.

The network is replaced by one that calls bright pixels class 1, so that the mask must lie where the bright voxels lie.
Files are written by nibabel, and masks are judged by nibabel and SimpleITK.
"""

from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelsam import formats
from voxelsam.errors import InputWarning
from voxelsam.infer.predictor import Predictor
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.space import Grid, canonical
from voxelsam.volumes import LabelMap, Labels, Volume

pytestmark = pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")

WORLD = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
ALL_AXES = ["".join(letters) for pairs in permutations(("RL", "AP", "SI")) for letters in product(*pairs)]
SLICE = 32
"""Rows and columns of a slice, and of the model's picture: nothing is resized then."""

properties = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def predictor(learnt: Callable[..., Any]) -> Iterator[Predictor]:
    def bright(self: Segmenter, frames: torch.Tensor, prompts: object = None) -> Scores:
        logits = torch.full((len(frames), 5, *frames.shape[2:]), -50.0)
        logits[:, 0] = 0.0
        logits[:, 1] = (frames[:, 0] - 0.5) * 50
        return Scores(logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "embed", lambda self, images: images)
        patch.setattr(Segmenter, "encode_embedded", lambda self, embedded: embedded.flatten(0, 1))
        patch.setattr(Segmenter, "decode", bright)
        yield Predictor(learnt(), device="cpu")


def rotation(degrees: float, seed: int) -> np.ndarray:
    x, y, z = np.random.default_rng(seed).normal(size=3)
    axis = np.array([x, y, z]) / np.linalg.norm((x, y, z))
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    turned: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turned


def affine_of(
    axes: str, spacing: tuple[float, ...], *, turn: float = 0, seed: int = 0, tilt: float = 0, lean: float = 0
) -> np.ndarray:
    """Axes, spacing along them, rotated by ``turn``; ``tilt`` shifts slices along k, ``lean`` makes i and j oblique."""
    shear = np.eye(3)
    shear[1, 2], shear[0, 1] = np.tan(np.radians(tilt)), np.tan(np.radians(lean))
    affine = np.eye(4)
    affine[:3, :3] = rotation(turn, seed) @ np.array([WORLD[letter] for letter in axes]).T @ shear * spacing
    affine[:3, 3] = np.random.default_rng(seed).uniform(-300, 300, 3)
    return affine


def predicted(
    predictor: Predictor, folder: Path, data: np.ndarray, affine: np.ndarray
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """The scan and its mask as nibabel reads them, through files."""
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nib.save(image, folder / "scan.nii.gz")
    predictor(formats.read(folder / "scan.nii.gz")).save(folder / "mask.nii.gz")
    scan, mask = nib.load(folder / "scan.nii.gz"), nib.load(folder / "mask.nii.gz")
    assert mask.shape == scan.shape
    assert np.array_equal(mask.affine, scan.affine)
    return scan, mask


def millimetres(affine: np.ndarray, index: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, index)


@pytest.mark.parametrize("axes", ALL_AXES)
def test_one_voxel_comes_back_to_its_millimetres(predictor: Predictor, tmp_path: Path, axes: str) -> None:
    shape = tuple(7 if letter in "SI" else SLICE for letter in axes)
    affine = affine_of(axes, (0.6, 0.9, 2.0), turn=20, seed=4)
    data = np.full(shape, -100, np.int16)
    voxel = tuple(int(size * share) for size, share in zip(shape, (0.2, 0.5, 0.8), strict=True))
    data[voxel] = 200
    _, mask = predicted(predictor, tmp_path, data, affine)
    found = np.argwhere(np.asarray(mask.dataobj) == 1)
    np.testing.assert_allclose(millimetres(mask.affine, found), [millimetres(affine, voxel)], atol=0.1)
    lps = SimpleITK.ReadImage(tmp_path / "mask.nii.gz").TransformIndexToPhysicalPoint([int(n) for n in found[0]])
    np.testing.assert_allclose((-lps[0], -lps[1], lps[2]), millimetres(affine, voxel), atol=0.1)


@properties
@given(
    st.sampled_from(ALL_AXES),
    st.tuples(*[st.floats(0.5, 5)] * 3),
    st.floats(0, 40),
    st.integers(0, 2**32 - 1),
)
def test_oblique_and_anisotropic_scans_keep_their_landmarks(
    predictor: Predictor,
    tmp_path: Path,
    axes: str,
    spacing: tuple[float, float, float],
    turn: float,
    seed: int,
) -> None:
    affine = affine_of(axes, spacing, turn=turn, seed=seed)
    nearest = "".join(nib.aff2axcodes(affine))
    shape = tuple(6 if letter in "SI" else SLICE for letter in nearest)
    data = np.full(shape, -100, np.int16)
    voxel = tuple(np.random.default_rng(seed).integers(0, shape).tolist())
    data[voxel] = 200
    _, mask = predicted(predictor, tmp_path, data, affine)
    found = np.argwhere(np.asarray(mask.dataobj) == 1)
    np.testing.assert_allclose(millimetres(mask.affine, found), [millimetres(affine, voxel)], atol=0.1)


@properties
@given(
    st.sampled_from(ALL_AXES),
    st.tuples(*[st.floats(0.7, 3)] * 2, st.floats(0.7, 7)),
    st.floats(0, 30),
    st.floats(-25, 25),
    st.sampled_from([0.0, 0.0, 12.0]),
    st.integers(0, 2**32 - 1),
)
def test_tilted_and_sheared_scans_keep_their_landmarks(
    predictor: Predictor,
    tmp_path: Path,
    axes: str,
    spacing: tuple[float, float, float],
    turn: float,
    tilt: float,
    lean: float,
    seed: int,
) -> None:
    """A block of voxels stays where it is, up to half a voxel of the scan and of the model's picture."""
    affine = affine_of(axes, spacing, turn=turn, seed=seed, tilt=tilt, lean=lean)
    shape = (20, 22, 18)
    data = np.full(shape, -100, np.int16)
    low = np.random.default_rng(seed).integers(3, np.array(shape) - 9)
    data[tuple(slice(start, start + 6) for start in low)] = 200
    scan, mask = predicted(predictor, tmp_path, data, affine)
    found = np.argwhere(np.asarray(mask.dataobj) == 1)
    centre = millimetres(mask.affine, found).mean(axis=0)
    target = predictor.plan.placement(Grid(shape, scan.affine)).target
    scale = max(max(target.shape[:2]) / SLICE, 1)
    reach = np.linalg.norm(target.spacing * np.array([scale, scale, 1])) / 2
    assert np.linalg.norm(centre - millimetres(affine, low + 2.5)) <= reach


@properties
@given(st.sampled_from(ALL_AXES), st.floats(-30, 30), st.sampled_from([0.0, 10.0]), st.integers(0, 2**32 - 1))
def test_read_write_read_is_the_identity(tmp_path: Path, axes: str, tilt: float, lean: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = affine_of(axes, tuple(rng.uniform(0.4, 4, 3)), turn=20, seed=seed, tilt=tilt, lean=lean)
    shape = tuple(rng.integers(1, 9, 3).tolist())
    kind = rng.choice(["int16", "uint8", "float32"])
    image = nib.Nifti1Image(rng.integers(0, 250, shape).astype(kind), affine, dtype=kind)
    image.set_sform(affine, int(rng.integers(1, 5)))
    nib.save(image, tmp_path / "scan.nii.gz")
    first = formats.read(tmp_path / "scan.nii.gz")
    formats.write_volume(tmp_path / "again.nii.gz", first)
    second = formats.read(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(second.data, first.data)
    np.testing.assert_array_equal(second.grid.affine, first.grid.affine)

    values = rng.choice([0, 1, 7, 300], shape).astype(np.uint16)
    labels = Labels({"background": 0, "a": 1, "b": 7, "c": 300})
    formats.write_labels(tmp_path / "labels.nii.gz", LabelMap(values, first.grid, labels), like=first)
    one = formats.read_labels(tmp_path / "labels.nii.gz", labels)
    formats.write_labels(tmp_path / "labels2.nii.gz", one, like=second)
    two = formats.read_labels(tmp_path / "labels2.nii.gz", labels)
    for read in (one, two):
        np.testing.assert_array_equal(read.data, values)
        np.testing.assert_array_equal(read.grid.affine, first.grid.affine)
    np.testing.assert_array_equal(nib.load(tmp_path / "labels2.nii.gz").dataobj, values)


@pytest.mark.shared
def test_labels_on_a_real_ct_with_a_tilted_gantry_come_back(shared: Path) -> None:
    pytest.importorskip("pydicom")
    volume: Volume = formats.read(shared / "data" / "bad_input" / "dicom" / "ct_gantry_tilt_4")
    assert volume.grid.shear > 0.05
    place = canonical(volume.grid, "axial")
    assert place.target.shear < 1e-6
    assert place.target.shape[2] == volume.grid.shape[2]
    assert place.target.spacing[:2] == pytest.approx(volume.grid.spacing[:2])
    labels = np.random.default_rng(0).integers(0, 9, volume.grid.shape).astype(np.uint8)
    np.testing.assert_array_equal(place.restore(place.bring_labels(labels)), labels)
    assert place.bring(volume.data).min() >= volume.data.min()


def test_a_tilted_scan_is_still_announced(tmp_path: Path) -> None:
    affine = affine_of("LPS", (1, 1, 3), tilt=15)
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    image.set_sform(affine, 1)
    nib.save(image, tmp_path / "scan.nii.gz")
    with pytest.warns(InputWarning, match="GEO-03"):
        volume = formats.read(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(volume.grid.affine, affine, rtol=1e-6)
