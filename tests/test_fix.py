"""Repairs: each removes its finding, does nothing else, and never touches what it came from."""

import gzip
import hashlib
import json
import shutil
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from voxelsam import checks, formats
from voxelsam.errors import (
    ConfigError,
    FormatError,
    GeometryError,
    InputError,
    InputWarning,
    LabelError,
    OutputError,
    VoxelSamError,
)
from voxelsam.fix import LOG, Fixed, Wishes, fix_dataset, fix_file
from voxelsam.fix.repairs import REPAIRS
from voxelsam.fix.wishes import REPAIRABLE
from voxelsam.layouts import open_dataset, read_label
from voxelsam.space import Grid

AFFINE = np.array([[-0.8, 0.1, 0.3, 20], [0.1, 0.79, 0.2, -30], [-0.05, -0.1, 2.9, 50], [0, 0, 0, 1]])
STRAIGHT = np.diag([-0.8, 0.9, 3.0, 1.0])
STRAIGHT[:3, 3] = (20, -30, 50)


def sheared(lean: float = 0.3) -> np.ndarray:
    affine = STRAIGHT.copy()
    affine[1, 2] = 3.0 * lean
    return affine


def pixels(shape: tuple[int, ...] = (7, 8, 9)) -> np.ndarray:
    return np.random.default_rng(5).integers(-500, 900, shape).astype(np.int16)


def save(
    path: Path, data: np.ndarray, affine: np.ndarray = STRAIGHT, sform: int = 1, qform: int = 0, **fields: object
) -> Path:
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, sform)
    image.set_qform(affine if qform else None, qform)
    for field, value in fields.items():
        image.header[field] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def found(path: Path, label: bool = False) -> set[str]:
    """Codes that the reader reports."""
    with checks.watching() as watch, warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        try:
            formats.read_labels(path) if label else formats.read(path)
        except InputError as error:
            return {error.code}
    return {finding.code for finding in watch.findings}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def only(result: Fixed, code: str) -> dict[str, object]:
    (change,) = result.changes
    assert change.code == code
    assert result.status == "fixed"
    return dict(change.numbers)


# what every repair keeps


@pytest.fixture
def untouched() -> Callable[[Path], Callable[[], None]]:
    def watch(source: Path) -> Callable[[], None]:
        before, when = sha256(source), source.stat().st_mtime_ns

        def check() -> None:
            assert (sha256(source), source.stat().st_mtime_ns) == (before, when)

        return check

    return watch


def test_a_sound_file_is_copied_byte_by_byte(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), STRAIGHT, 1, 1)
    result = fix_file(source, tmp_path / "b.nii.gz")
    assert (result.status, result.changes, result.left) == ("copied", (), ())
    assert sha256(source) == sha256(tmp_path / "b.nii.gz") == result.before == result.after[0]


def test_nothing_that_exists_is_ever_replaced(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), sheared())
    taken = save(tmp_path / "b.nii.gz", pixels())
    before = sha256(taken)
    for target in (taken, source):
        with pytest.raises(OutputError, match="exists already"):
            fix_file(source, target, Wishes(frozenset({"GEO-03"})))
    assert sha256(taken) == before
    (tmp_path / "c.fixes.json").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        fix_file(source, tmp_path / "c.nii.gz")
    assert not (tmp_path / "c.nii.gz").exists()


def test_the_log_says_what_was_done(tmp_path: Path) -> None:
    source = save(tmp_path / "scan.nii.gz", pixels(), sheared())
    result = fix_file(source, tmp_path / "out" / "fixed.nii.gz", Wishes(frozenset({"GEO-03"})))
    log = json.loads((tmp_path / "out" / "fixed.fixes.json").read_text())
    assert log["format"] == 1
    assert log["asked"]["codes"] == ["GEO-03"]
    (entry,) = log["files"]
    assert entry["file"] == "scan.nii.gz"
    assert entry["output"] == ["fixed.nii.gz"]
    assert entry["changes"][0]["code"] == "GEO-03"
    assert entry["changes"][0]["numbers"]["displacement_mm"] > 1
    assert entry["sha256_before"] == sha256(source)
    assert entry["sha256_after"] == [sha256(tmp_path / "out" / "fixed.nii.gz")]
    assert str(tmp_path) not in json.dumps(log)
    assert result.to_json() == entry


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), sheared())
    result = fix_file(source, tmp_path / "out" / "b.nii.gz", Wishes(frozenset({"GEO-03"})), dry_run=True)
    assert only(result, "GEO-03")
    assert result.after == ()
    assert [path.name for path in tmp_path.rglob("*")] == ["a.nii.gz"]


def test_a_failed_repair_leaves_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", np.full((3, 3, 3), 0.4, np.float32))
    with pytest.raises(LabelError):
        fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"LAB-01"})), role="label")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"codes": frozenset({"GEO-99"})}, "no repair for GEO-99"),
        ({"codes": frozenset({"LAB-02"})}, "--relabel"),
        ({"codes": frozenset({"GEO-05"})}, "--axes"),
        ({"codes": frozenset({"VAL-05"})}, "--split or --grey"),
        ({"axes": "RRS"}, "--axes: an axis string"),
        ({"spacing": (1.0, 0.0, 1.0)}, "three positive"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "three positive"),
        ({"relabel": {1: 70000}}, "0 to 65535"),
        ({"relabel": {1: -1}}, "0 to 65535"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wishes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Wishes(**wishes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "name", "error"),
    [
        (b"", "a.nii.gz", FormatError),
        (b"<html>not found</html>", "a.nii.gz", FormatError),
        (gzip.compress(bytes(100), mtime=0), "a.nii.gz", FormatError),
        (b"version https://git-lfs.github.com/spec/v1", "a.nii", FormatError),
    ],
)
def test_what_cannot_be_read_cannot_be_repaired(
    tmp_path: Path, content: bytes, name: str, error: type[Exception]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        fix_file(tmp_path / name, tmp_path / "b.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_voxels_that_are_cut_off_are_not_made_up(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.nii", pixels(), sheared())
    (tmp_path / "cut.nii").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(FormatError, match="cut off") as caught:
        fix_file(tmp_path / "cut.nii", tmp_path / "b.nii", Wishes(frozenset({"GEO-03"})))
    assert caught.value.code == "SET-03"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_bytes_of_any_value_give_a_copy_or_one_of_our_errors(tmp_path: Path, kind: type, packed: bool) -> None:
    content = kind(pixels(), sheared()).to_bytes()
    rng = np.random.default_rng(8)
    wishes = Wishes(frozenset({"GEO-03", "GEO-04", "VAL-01", "LAB-01"}))
    path, done = tmp_path / "a.nii", 0
    for _ in range(150):
        changed = np.frombuffer(content, np.uint8).copy()
        changed[rng.integers(0, 544, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(gzip.compress(changed.tobytes(), 1) if packed else changed.tobytes())
        tracemalloc.start()
        try:
            fix_file(path, tmp_path / "b.nii", wishes, role="label" if rng.random() < 0.5 else "image", dry_run=True)
            done += 1
        except VoxelSamError:
            pass
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert most < 64 << 20
    assert 0 < done < 150


@pytest.mark.parametrize("target", ["b.xyz", "b", "b.pdf"])
def test_a_name_that_says_no_format_is_refused(tmp_path: Path, target: str) -> None:
    source = save(tmp_path / "a.nii.gz", pixels())
    with pytest.raises(OutputError, match="cannot be written as"):
        fix_file(source, tmp_path / target)


def test_what_can_be_asked_for_is_what_the_table_repairs() -> None:
    assert set(REPAIRABLE) == {code for repair in REPAIRS for code in repair.codes} | {"DCM-01"}
    assert set(REPAIRABLE) <= set(checks.CATALOGUE)


# geometry


def test_axes_turn_to_the_nearest_right_angles(tmp_path: Path, untouched: Callable[[Path], Callable[[], None]]) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), sheared())
    check = untouched(source)
    assert found(source) == {"GEO-03"}
    numbers = only(fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"GEO-03"}))), "GEO-03")
    check()
    assert found(tmp_path / "b.nii.gz") == set()
    before, after = nib.load(source), nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(before.dataobj, after.dataobj)
    corners = Grid((7, 8, 9), before.affine).corners(), Grid((7, 8, 9), after.affine).corners()
    apart = np.linalg.norm(corners[0] - corners[1], axis=1)
    assert numbers["displacement_mm"] == pytest.approx(apart.max(), rel=1e-3)
    np.testing.assert_allclose(corners[0].mean(axis=0), corners[1].mean(axis=0), atol=1e-4)
    read_by_itk = SimpleITK.ReadImage(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(read_by_itk.GetSpacing(), Grid((7, 8, 9), before.affine).spacing, rtol=1e-5)


def test_itk_refuses_the_file_before_and_reads_it_after(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), sheared(0.01))
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(source)
    fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"GEO-03"})))
    assert SimpleITK.ReadImage(tmp_path / "b.nii.gz").GetSize() == (7, 8, 9)


def test_resampling_onto_right_angles_moves_nothing(tmp_path: Path) -> None:
    data = np.zeros((12, 20, 10), np.float32)
    data[5, 8, 3] = 1000
    source = save(tmp_path / "a.nii.gz", data, sheared())
    result = fix_file(source, tmp_path / "b.nii.gz", Wishes(resample=True))
    assert only(result, "GEO-03")["shape"] == list(nib.load(tmp_path / "b.nii.gz").shape)
    assert found(tmp_path / "b.nii.gz") == set()
    volume = formats.read(tmp_path / "b.nii.gz")
    index = np.argwhere(volume.data[0] > 0)
    weights = volume.data[0][tuple(index.T)][:, None]
    centre = (volume.grid.to_world(index) * weights).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(centre, (sheared() @ (5, 8, 3, 1))[:3], atol=0.01)


def test_labels_are_resampled_by_the_nearest_voxel(tmp_path: Path) -> None:
    data = np.zeros((12, 20, 10), np.uint8)
    data[3:8, 5:14, 2:7] = 3
    data[3:8, 5:9, 2:7] = 9
    source = save(tmp_path / "a.nii.gz", data, sheared())
    fix_file(source, tmp_path / "b.nii.gz", Wishes(resample=True), role="label")
    after = formats.read_labels(tmp_path / "b.nii.gz")
    assert set(np.unique(after.data)) == {0, 3, 9}
    volume = (after.data == 3).sum() * after.grid.voxel_volume
    assert volume == pytest.approx((data == 3).sum() * Grid(data.shape, sheared()).voxel_volume, rel=0.1)


def test_a_shear_that_is_not_asked_about_stays(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), sheared())
    result = fix_file(source, tmp_path / "b.nii.gz")
    assert result.status == "copied"
    assert [left.code for left in result.left] == ["GEO-03"]
    assert sha256(source) == sha256(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("keep", ["sform", "qform"])
def test_one_of_two_transforms_is_kept(tmp_path: Path, keep: str) -> None:
    other = STRAIGHT.copy()
    other[0, 3] += 40
    image = nib.Nifti1Image(pixels(), STRAIGHT)
    image.set_sform(STRAIGHT, 1)
    image.set_qform(other, 1)
    source = tmp_path / "a.nii.gz"
    nib.save(image, source)
    assert found(source) == {"GEO-04"}
    numbers = only(fix_file(source, tmp_path / "b.nii.gz", Wishes(keep=keep)), "GEO-04")  # type: ignore[arg-type]
    assert numbers["transforms_apart_mm"] == pytest.approx(40, rel=1e-3)
    assert numbers["moved_mm"] == pytest.approx(0 if keep == "sform" else 40, rel=1e-3)
    assert found(tmp_path / "b.nii.gz") == set()
    expected = STRAIGHT if keep == "sform" else other
    after = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(after.get_sform(), expected, atol=1e-5)
    np.testing.assert_allclose(after.get_qform(), expected, atol=1e-4)
    lps = SimpleITK.ReadImage(tmp_path / "b.nii.gz").GetOrigin()
    np.testing.assert_allclose((-lps[0], -lps[1], lps[2]), expected[:3, 3], atol=1e-4)


def test_voxel_sizes_that_contradict_the_sform_are_corrected(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), pixdim=[1, 5, 5, 5, 1, 1, 1, 1])
    assert found(source) == {"GEO-04"}
    fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"GEO-04"})))
    assert found(tmp_path / "b.nii.gz") == set()
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii.gz").header["pixdim"][1:4], (0.8, 0.9, 3), rtol=1e-6)


def test_a_transform_that_is_not_there_cannot_be_kept(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels())
    with pytest.raises(GeometryError, match="has none"):
        fix_file(source, tmp_path / "b.nii.gz", Wishes(keep="qform"))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_an_orientation_is_set_as_told(tmp_path: Path, axes: str) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), np.eye(4), 0, 0)
    assert found(source) == {"GEO-05"}
    only(fix_file(source, tmp_path / "b.nii.gz", Wishes(axes=axes, spacing=(0.5, 0.6, 4.0))), "GEO-05")
    assert found(tmp_path / "b.nii.gz") == set()
    volume = formats.read(tmp_path / "b.nii.gz")
    assert volume.grid.axes == axes
    assert volume.grid.spacing == pytest.approx((0.5, 0.6, 4))
    np.testing.assert_allclose(volume.grid.corners().mean(axis=0), 0, atol=1e-4)
    np.testing.assert_array_equal(volume.data[0], pixels())


def test_an_orientation_is_never_guessed(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", pixels(), np.eye(4), 0, 0)
    with pytest.raises(ConfigError, match="--axes"):
        fix_file(source, tmp_path / "b.nii.gz", Wishes(spacing=(1.0, 1.0, 1.0)))
    nothing = save(tmp_path / "n.nii.gz", pixels(), np.eye(4), 0, 0)
    content = bytearray(gzip.decompress(nothing.read_bytes()))
    content[80:92] = bytes(12)
    nothing.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ConfigError, match="--spacing"):
        fix_file(nothing, tmp_path / "b.nii.gz", Wishes(axes="RAS"))
    with pytest.raises(GeometryError, match="--spacing and --axes"):
        fix_file(nothing, tmp_path / "b.nii.gz", Wishes(frozenset({"GEO-03"})))


def test_a_label_map_goes_onto_its_image(tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii.gz", pixels((20, 18, 10)), STRAIGHT)
    finer = STRAIGHT.copy()
    finer[:3, :3] /= 2
    finer[:3, 3] -= STRAIGHT[:3, :3].sum(axis=1) / 4
    data = np.zeros((20, 18, 10), np.uint8)
    data[4:9, 5:12, 2:6] = 2
    fine = data.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    label = save(tmp_path / "label.nii.gz", fine, finer)
    numbers = only(fix_file(label, tmp_path / "b.nii.gz", role="label", image=image), "GEO-01")
    after = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(after.dataobj, data)
    np.testing.assert_allclose(after.affine, STRAIGHT, atol=1e-6)
    assert numbers["image_covered"] == 1
    assert numbers["labelled_volume_kept"] == pytest.approx(1)
    assert numbers["values_lost"] == []


def test_a_label_map_of_equal_shape_in_another_place_says_how_far(tmp_path: Path) -> None:
    moved = STRAIGHT.copy()
    moved[2, 3] += 6
    image = save(tmp_path / "image.nii.gz", pixels(), STRAIGHT)
    data = np.zeros((7, 8, 9), np.uint8)
    data[2:4, 2:4, 0:5] = 1
    data[0, 0, 8] = 7
    label = save(tmp_path / "label.nii.gz", data, moved)
    numbers = only(fix_file(label, tmp_path / "b.nii.gz", role="label", image=image), "GEO-02")
    assert numbers["apart_mm"] == pytest.approx(6)
    assert numbers["image_covered"] == pytest.approx(7 / 9, abs=1e-4)
    assert numbers["values_lost"] == [7]
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj)[..., 2:], data[..., :7])


def test_a_label_map_far_from_its_image_is_refused(tmp_path: Path) -> None:
    moved = STRAIGHT.copy()
    moved[0, 3] += 500
    image = save(tmp_path / "image.nii.gz", pixels(), STRAIGHT)
    label = save(tmp_path / "label.nii.gz", np.ones((7, 8, 9), np.uint8), moved)
    with pytest.raises(GeometryError, match="no place in common"):
        fix_file(label, tmp_path / "b.nii.gz", role="label", image=image)
    assert not (tmp_path / "b.nii.gz").exists()


# values


def test_voxels_that_are_no_numbers_get_the_smallest_value(tmp_path: Path) -> None:
    data = pixels().astype(np.float32)
    data[0, 0, 0], data[1, 2, 3], data[4, 4, 4] = np.nan, np.inf, -np.inf
    source = save(tmp_path / "a.nii.gz", data)
    assert found(source) == {"VAL-01"}
    numbers = only(fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"VAL-01"}))), "VAL-01")
    least = float(data[np.isfinite(data)].min())
    assert numbers == {"nan": 1, "infinite": 2, "replaced_by": [least]}
    assert found(tmp_path / "b.nii.gz") == set()
    after = np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj)
    np.testing.assert_array_equal(after, np.where(np.isfinite(data), data, least))


def test_voxels_that_are_no_numbers_are_not_replaced_unasked(tmp_path: Path) -> None:
    data = pixels().astype(np.float32)
    data[0, 0, 0] = np.nan
    result = fix_file(save(tmp_path / "a.nii.gz", data), tmp_path / "b.nii.gz")
    assert result.status == "copied"
    assert [(left.code, left.severity) for left in result.left] == [("VAL-01", "error")]
    assert result.broken


def test_integers_stored_as_fractions_become_integers_unasked(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 4, (6, 7, 8))
    source = save(tmp_path / "a.nii.gz", (data * np.float32(0.9999)))
    numbers = only(fix_file(source, tmp_path / "b.nii.gz", role="label"), "LAB-01")
    assert numbers["rounded"] == (data > 0).sum()
    after = nib.load(tmp_path / "b.nii.gz")
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(after.dataobj, data)


def test_what_is_nearly_integer_is_rounded_when_asked(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 4, (6, 7, 8))
    source = save(tmp_path / "a.nii.gz", (data * np.float32(1.02)))
    assert found(source, label=True) == {"LAB-01"}
    with pytest.raises(InputError) as caught:
        fix_file(source, tmp_path / "c.nii", role="label")
    assert caught.value.code == "LAB-01"
    fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"LAB-01"})), role="label")
    assert found(tmp_path / "b.nii.gz", label=True) == set()
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").dataobj, data)


def test_interpolated_labels_are_not_rounded(tmp_path: Path) -> None:
    """The scale that nibabel writes for 0..300 in 8 bits: label 2 is stored as 2.353."""
    source = save(tmp_path / "a.nii.gz", np.array([0, 1.176, 2.353], np.float32).reshape(1, 1, 3))
    with pytest.raises(LabelError, match="make it again"):
        fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"LAB-01"})), role="label")


def test_values_change_all_at_once(tmp_path: Path) -> None:
    data = np.random.default_rng(0).choice([0, 1, 2, 255], (6, 7, 8)).astype(np.uint8)
    source = save(tmp_path / "a.nii.gz", data)
    result = fix_file(source, tmp_path / "b.nii.gz", Wishes(relabel={1: 2, 2: 1, 255: 0, 9: 4}), role="label")
    numbers = only(result, "LAB-02")
    assert numbers["voxels"] == {f"{a}={b}": (data == a).sum() for a, b in ((1, 2), (2, 1), (255, 0))}
    expected = np.select([data == 1, data == 2], [2, 1], 0)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").dataobj, expected)


def test_negative_values_can_be_given_a_place_in_the_table(tmp_path: Path) -> None:
    data = np.random.default_rng(0).choice([0, 1, -1], (6, 7, 8)).astype(np.int16)
    source = save(tmp_path / "a.nii.gz", data)
    assert found(source, label=True) == {"LAB-02"}
    fix_file(source, tmp_path / "b.nii.gz", Wishes(relabel={-1: 3}), role="label")
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").dataobj, np.where(data == -1, 3, data))


def test_channels_get_a_file_each(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, (5, 6, 7, 3)).astype(np.int16)
    source = save(tmp_path / "a.nii.gz", data)
    assert found(source) == {"VAL-05"}
    result = fix_file(source, tmp_path / "b.nii.gz", Wishes(channels="split"))
    assert result.output == ("b_0000.nii.gz", "b_0001.nii.gz", "b_0002.nii.gz")
    for number in range(3):
        image = nib.load(tmp_path / f"b_{number:04}.nii.gz")
        np.testing.assert_array_equal(image.dataobj, data[..., number])
        np.testing.assert_allclose(image.affine, STRAIGHT, atol=1e-6)
    assert found(tmp_path / "b_0001.nii.gz") == set()


def test_channels_are_not_split_over_a_file_that_is_there(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", np.zeros((5, 6, 7, 2), np.int16))
    taken = save(tmp_path / "b_0001.nii.gz", pixels())
    before = sha256(taken)
    with pytest.raises(OutputError, match="exists already"):
        fix_file(source, tmp_path / "b.nii.gz", Wishes(channels="split"))
    assert sha256(taken) == before
    assert not (tmp_path / "b_0000.nii.gz").exists()


def test_brightness_of_volumes_that_are_no_colours_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", np.zeros((5, 6, 7, 3), np.int16))
    with pytest.raises(ConfigError, match="for colours"):
        fix_file(source, tmp_path / "b.nii.gz", Wishes(channels="grey"))


def test_several_repairs_in_their_order(tmp_path: Path) -> None:
    data = pixels().astype(np.float32)
    data[2, 2, 2] = np.nan
    source = save(tmp_path / "a.nii.gz", data, sheared())
    result = fix_file(source, tmp_path / "b.nii.gz", Wishes(frozenset({"VAL-01"}), resample=True))
    assert [change.code for change in result.changes] == ["VAL-01", "GEO-03"]
    assert result.left == ()
    assert np.isfinite(np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj)).all()


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_both_byte_orders_and_versions_are_taken_apart_rightly(
    tmp_path: Path, kind: type, order: str, name: str
) -> None:
    data = pixels()
    image = kind(data, sheared(), kind.header_class(endianness=order))
    image.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    image.set_sform(sheared(), 1)
    nib.save(image, tmp_path / name)
    fix_file(tmp_path / name, tmp_path / "b.nii.gz", Wishes(frozenset({"GEO-03"})))
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").dataobj, data)


def test_a_scaled_image_keeps_what_it_means(tmp_path: Path) -> None:
    data = pixels().astype(np.float64) * 0.5 - 3
    image = nib.Nifti1Image(data, sheared())
    image.set_data_dtype(np.int16)
    image.set_sform(sheared(), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").header.get_slope_inter() != (1.0, 0.0)
    meant = nib.load(tmp_path / "a.nii.gz").get_fdata()
    fix_file(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", Wishes(frozenset({"GEO-03"})))
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii.gz").get_fdata(), meant, rtol=1e-6)


# data sets


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three cases: one sound, one with a label elsewhere and 255, one with NaN and a sheared pair."""
    root = tmp_path / "Dataset007_Odd"
    label = np.zeros((7, 8, 9), np.uint8)
    label[2:5, 2:5, 2:6] = 1
    save(root / "imagesTr" / "a_0000.nii.gz", pixels(), qform=1)
    save(root / "labelsTr" / "a.nii.gz", label, qform=1)
    moved = STRAIGHT.copy()
    moved[2, 3] += 3
    save(root / "imagesTr" / "b_0000.nii.gz", pixels(), qform=1)
    save(root / "labelsTr" / "b.nii.gz", np.where(label, 255, 0).astype(np.uint8), moved, qform=1)
    lost = pixels().astype(np.float32)
    lost[0, 0, 0] = np.nan
    save(root / "imagesTr" / "c_0000.nii.gz", lost, sheared())
    save(root / "labelsTr" / "c.nii.gz", label, sheared())
    save(root / "imagesTs" / "d_0000.nii.gz", pixels(), qform=1)
    table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(table | {"numTraining": 3, "licence": "kept"}))
    (root / "readme.txt").write_text("kept as well")
    return root


EVERYTHING = Wishes(frozenset({"VAL-01", "GEO-02"}), resample=True, relabel={255: 1})


def test_a_data_set_is_copied_and_what_needs_it_is_repaired(dataset: Path, tmp_path: Path) -> None:
    before = {path: sha256(path) for path in dataset.rglob("*") if path.is_file()}
    seen: list[tuple[int, int]] = []
    results = fix_dataset(
        dataset, tmp_path / "out", EVERYTHING, progress=lambda done, total: seen.append((done, total))
    )
    assert {path: sha256(path) for path in dataset.rglob("*") if path.is_file()} == before
    assert seen == [(number, 9) for number in range(1, 10)]
    codes = {result.file: [change.code for change in result.changes] for result in results if result.changes}
    assert codes == {
        "labelsTr/b.nii.gz": ["LAB-02", "GEO-02"],
        "imagesTr/c_0000.nii.gz": ["VAL-01", "GEO-03"],
        "labelsTr/c.nii.gz": ["GEO-03"],
    }
    assert not any(result.left for result in results)
    copied = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert copied == {path.relative_to(dataset).as_posix() for path in before} | {LOG}
    for result in results:
        if not result.changes:
            assert sha256(tmp_path / "out" / result.file) == result.before
    repaired = open_dataset(tmp_path / "out")
    for case in repaired.train:
        image = formats.read(case.images[0])
        label = formats.read_labels(case.label or Path(), repaired.labels)
        assert image.grid.displacement(label.grid) < 1e-3
        assert label.data.any()
    log = json.loads((tmp_path / "out" / LOG).read_text())
    assert len(log["files"]) == 9
    assert str(tmp_path) not in json.dumps(log)


def test_without_wishes_what_is_wrong_stays_and_is_told(dataset: Path, tmp_path: Path) -> None:
    results = {result.file: result for result in fix_dataset(dataset, tmp_path / "out")}
    assert all(result.status == "copied" for result in results.values())
    left = {name: {found.code for found in result.left} for name, result in results.items() if result.left}
    assert left == {
        "labelsTr/b.nii.gz": {"LAB-02"},
        "imagesTr/c_0000.nii.gz": {"GEO-03", "VAL-01"},
        "labelsTr/c.nii.gz": {"GEO-03"},
    }
    assert results["imagesTr/c_0000.nii.gz"].broken
    assert not results["labelsTr/c.nii.gz"].broken


def test_one_broken_file_stops_nothing(dataset: Path, tmp_path: Path) -> None:
    broken = dataset / "imagesTs" / "d_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    results = {result.file: result for result in fix_dataset(dataset, tmp_path / "out", EVERYTHING)}
    failed = results["imagesTs/d_0000.nii.gz"]
    assert failed.status == "failed"
    assert [found.code for found in failed.left] == ["SET-03"]
    assert sha256(tmp_path / "out" / failed.file) == sha256(broken)
    assert results["labelsTr/b.nii.gz"].status == "fixed"


def test_a_dry_run_of_a_data_set_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    results = fix_dataset(dataset, tmp_path / "out", EVERYTHING, dry_run=True)
    assert sum(result.status == "fixed" for result in results) == 3
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {dataset.name}


def test_numbers_of_objects_move_with_their_labels_and_keep_their_values(dataset: Path, tmp_path: Path) -> None:
    for name in "abc":
        label = nib.load(dataset / "labelsTr" / f"{name}.nii.gz")
        numbers = np.where(np.asarray(label.dataobj), 255 if name == "a" else 7, 0).astype(np.uint8)
        save(dataset / "instancesTr" / f"{name}.nii.gz", numbers, label.affine, qform=1)
    results = {result.file: result for result in fix_dataset(dataset, tmp_path / "out", EVERYTHING)}
    assert [change.code for change in results["instancesTr/b.nii.gz"].changes] == ["GEO-02"]
    assert results["instancesTr/a.nii.gz"].status == "copied"
    repaired = open_dataset(tmp_path / "out")
    for case in repaired.train:
        assert case.instances is not None
        label, objects = read_label(case, repaired.labels), formats.read_numbers(case.instances)
        assert label.grid.displacement(objects.grid) < 1e-3
        assert np.array_equal(label.data > 0, objects.data[0] > 0)
        assert objects.data.max() == (255 if case.id == "a" else 7)


def test_a_dry_run_tells_what_stays_wrong(dataset: Path, tmp_path: Path) -> None:
    asked, done = (
        {
            result.file: {found.code for found in result.left}
            for result in fix_dataset(dataset, tmp_path / "out", dry_run=dry)
        }
        for dry in (True, False)
    )
    assert asked == done
    assert {"VAL-01", "GEO-03"} in asked.values()
    broken = dataset / "imagesTr" / "c_0000.nii.gz"
    assert fix_file(broken, tmp_path / "c.nii.gz", dry_run=True).broken


def test_the_copy_of_a_data_set_replaces_nothing(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        fix_dataset(dataset, tmp_path / "out")
    with pytest.raises(OutputError, match="cannot lie within"):
        fix_dataset(dataset, dataset / "fixed")
    with pytest.raises(ConfigError, match="one file after the other"):
        fix_dataset(dataset, tmp_path / "new", Wishes(channels="split"))
    with pytest.raises(InputError, match="no known layout"):
        fix_dataset(tmp_path / "out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_stop_half_way_leaves_no_half_copy(dataset: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fix_dataset(dataset, tmp_path / "out", progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {dataset.name}


# the shared collection of odd files


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "wishes", "label", "before", "code"),
    [
        ("sheared_sform", Wishes(frozenset({"GEO-03"})), False, {"GEO-03"}, "GEO-03"),
        ("sheared_sform", Wishes(resample=True), False, {"GEO-03"}, "GEO-03"),
        ("qform_sform_differ", Wishes(keep="sform"), False, {"GEO-04"}, "GEO-04"),
        ("qform_sform_differ", Wishes(keep="qform"), False, {"GEO-04"}, "GEO-04"),
        ("no_orientation", Wishes(axes="RAS"), False, {"GEO-05"}, "GEO-05"),
        ("zero_pixdim", Wishes(axes="RAS", spacing=(1.0, 1.0, 1.0)), False, {"GEO-05"}, "GEO-05"),
        ("nan_inf_pixels", Wishes(frozenset({"VAL-01"})), False, {"VAL-01"}, "VAL-01"),
        ("float_labels_soft", Wishes(), True, set(), "LAB-01"),
        ("negative_label", Wishes(relabel={255: 2}), True, {"LAB-02"}, "LAB-02"),
        ("rgb24", Wishes(channels="grey"), False, set(), "VAL-05"),
        ("two_channels_4d", Wishes(channels="split"), False, {"VAL-05"}, "VAL-05"),
    ],
)
def test_the_shared_odd_files_are_repaired(
    shared: Path, tmp_path: Path, name: str, wishes: Wishes, label: bool, before: set[str], code: str
) -> None:
    source = shared / "data" / "bad_input" / "nifti_derived" / name / "scan.nii.gz"
    whole = sha256(source)
    assert found(source, label) == before
    result = fix_file(source, tmp_path / "scan.nii.gz", wishes, role="label" if label else "image")
    only(result, code)
    assert sha256(source) == whole
    assert result.left == ()
    for output in result.output:
        assert found(tmp_path / output, label) == set()
        SimpleITK.ReadImage(tmp_path / output)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["truncated", "wrong_suffix_html", "git_lfs_pointer"])
def test_what_holds_no_scan_cannot_become_one(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "data" / "bad_input" / "nifti_derived" / name / "scan.nii.gz"
    with pytest.raises(FormatError) as caught:
        fix_file(source, tmp_path / "scan.nii.gz", Wishes(frozenset({"VAL-01", "GEO-03"})))
    assert caught.value.code == "SET-03"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
def test_copies_of_slices_are_left_out(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    series = shared / "data" / "bad_input" / "dicom" / "mr_sagittal_uncompressed"
    twice = tmp_path / "twice"
    shutil.copytree(series, twice, copy_function=shutil.copyfile)
    files = sorted(path for path in twice.rglob("*") if path.is_file())
    _copy_with_new_identity(files[1], twice / "again.dcm")
    with pytest.raises(GeometryError, match="duplicate"):
        formats.read(twice)
    result = fix_file(twice, tmp_path / "fixed.nii.gz")
    assert only(result, "DCM-01") == {"dropped": 1}
    with pytest.warns(InputWarning, match="DCM-08"):
        expected = formats.read(series)
    after = formats.read(tmp_path / "fixed.nii.gz")
    np.testing.assert_array_equal(after.data, expected.data)
    assert after.grid.displacement(expected.grid) < 1e-3


@pytest.mark.shared
def test_a_gap_in_a_series_is_no_matter_of_copies(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    with pytest.raises(GeometryError, match="gap") as caught:
        fix_file(shared / "data" / "bad_input" / "dicom" / "mr_missing_slice", tmp_path / "fixed.nii.gz")
    assert caught.value.code == "DCM-01"
    assert list(tmp_path.iterdir()) == []


def _copy_with_new_identity(source: Path, target: Path) -> None:
    import pydicom

    data = pydicom.dcmread(source)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.save_as(target)
