"""Every entry of the shared collection of odd files is tested, and what it yields lies where other readers say.

``TESTED`` names the file that tests an entry; an entry that nobody has thought of fails here. ``WORLD`` says what each
of them yields, and the corners of every such volume are compared with SimpleITK, nibabel, or headers read by hand.
"""

import json
import re
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from voxelsam import checks, formats
from voxelsam.errors import VoxelSamError
from voxelsam.formats import dicom_seg
from voxelsam.space.grid import Grid

pytestmark = pytest.mark.shared

HERE = Path(__file__).parent
CLOSE_MM = 0.1
LPS = np.array([-1.0, -1.0, 1.0])

DICOM, SEG, RT, ITK, OTHERS = (
    f"{name}.py" for name in ("test_dicom_shared", "test_dicom_seg_shared", "test_dicom_rt", "test_itk_shared",
                              "test_bad_input")
)  # fmt: skip

TESTED = {
    "dicom/ct_gantry_tilt_4": DICOM,
    "dicom/ct_without_modality_tag": DICOM,
    "dicom/dcmqi_ct_with_seg": SEG,
    "dicom/enhanced_mr_philips": DICOM,
    "dicom/enhanced_mr_siemens": DICOM,
    "dicom/highdicom_seg_objects": SEG,
    "dicom/localizer_three_planes": DICOM,
    "dicom/mr_missing_slice": DICOM,
    "dicom/mr_sagittal_compressed_default": DICOM,
    "dicom/mr_sagittal_jpeg": DICOM,
    "dicom/mr_sagittal_jpeg2000": DICOM,
    "dicom/mr_sagittal_jpegls": DICOM,
    "dicom/mr_sagittal_rle": DICOM,
    "dicom/mr_sagittal_uncompressed": DICOM,
    "dicom/multiframe_without_functional_groups": DICOM,
    "dicom/non_square_pixels": DICOM,
    "dicom/not_a_volume": DICOM,
    "dicom/one_ct_slice_many_transfer_syntaxes": DICOM,
    "dicom/pydicom_test_files": DICOM,
    "dicom/rtstruct_phantom": RT,
    "dicom/single_slice": DICOM,
    "dicom/two_slices_only": DICOM,
    "dicom/two_timepoints_one_series": DICOM,
    "dicom/uneven_slice_gap": DICOM,
    "image2d/dermoscopy_image": OTHERS,
    "image2d/dermoscopy_mask": OTHERS,
    "image2d/gif_mask": OTHERS,
    "image2d/jpeg_mask": OTHERS,
    "image2d/tiff_wrong_photometric_image": OTHERS,
    "mha/mr_2d": ITK,
    "nifti/ct_pitch": OTHERS,
    "nifti/fmri_pitch": OTHERS,
    "nifti/label_of_another_scan": OTHERS,
    "nifti/monai_moved_pair": OTHERS,
    "nifti/nibabel_test_data": OTHERS,
    "nifti/pcasl_4d": OTHERS,
    "nifti/spinal_cord_t2s": OTHERS,
    "nifti_derived/constant_image": OTHERS,
    "nifti_derived/empty_label": OTHERS,
    "nifti_derived/float_labels_soft": OTHERS,
    "nifti_derived/git_lfs_pointer": OTHERS,
    "nifti_derived/int64_labels": OTHERS,
    "nifti_derived/mirrored_axes": OTHERS,
    "nifti_derived/nan_inf_pixels": OTHERS,
    "nifti_derived/negative_label": OTHERS,
    "nifti_derived/no_orientation": OTHERS,
    "nifti_derived/not_gzip": OTHERS,
    "nifti_derived/one_slice": OTHERS,
    "nifti_derived/qform_sform_differ": OTHERS,
    "nifti_derived/rgb24": OTHERS,
    "nifti_derived/sheared_sform": OTHERS,
    "nifti_derived/singleton_4d": OTHERS,
    "nifti_derived/truncated": OTHERS,
    "nifti_derived/two_channels_4d": OTHERS,
    "nifti_derived/wrong_suffix_html": OTHERS,
    "nifti_derived/zero_pixdim": OTHERS,
    "nrrd/breast_tumour": ITK,
    "nrrd/prostate_phantom": ITK,
    "nrrd/pynrrd_test_data": ITK,
}
"""Which file tests the expected behaviour of each entry."""

NO_PLACE = {
    "dicom/not_a_volume": "two images at one position are no volume",
    "image2d/dermoscopy_image": "a picture has no place in a patient",
    "image2d/dermoscopy_mask": "a picture has no place in a patient",
    "image2d/gif_mask": "refused",
    "image2d/jpeg_mask": "a picture has no place in a patient",
    "image2d/tiff_wrong_photometric_image": "a picture has no place in a patient",
    "nifti_derived/git_lfs_pointer": "refused",
    "nifti_derived/truncated": "refused",
    "nifti_derived/wrong_suffix_html": "refused",
    "nifti_derived/zero_pixdim": "refused",
}
"""Entries whose world coordinates cannot be compared, and why."""


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """Indices of the eight corners and of two landmarks inside, (n, 3)."""
    ends = np.array(list(product((0, 1), repeat=3))) * (np.array(shape) - 1)
    inside = [[size // 3 for size in shape], [size * 2 // 3 for size in shape]]
    return np.concatenate([ends, inside])


def by_nibabel(path: Path, index: np.ndarray) -> np.ndarray:
    return nibabel.affines.apply_affine(nibabel.load(path).affine, index)


def by_simpleitk(image: SimpleITK.Image, index: np.ndarray) -> np.ndarray:
    lead = image.GetDimension()
    flat = [image.TransformIndexToPhysicalPoint([int(i) for i in one[:lead]]) for one in index]
    return np.array([(*point, 0.0)[:3] for point in flat]) * LPS


def by_file(path: Path, index: np.ndarray) -> np.ndarray:
    """Of a file that SimpleITK reads."""
    return by_simpleitk(SimpleITK.ReadImage(str(path)), index)


def header(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def planes(path: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Position and steps along columns and rows of every plane of a file, folder or archive, in LPS mm, by hand."""
    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        data = header(file)
        shared = data.get("SharedFunctionalGroupsSequence", [data])[0]
        for own in data.get("PerFrameFunctionalGroupsSequence", [data]):
            place, turn, size = (
                _of((own, shared, data), group, keyword)
                for group, keyword in (
                    ("PlanePositionSequence", "ImagePositionPatient"),
                    ("PlaneOrientationSequence", "ImageOrientationPatient"),
                    ("PixelMeasuresSequence", "PixelSpacing"),
                )
            )
            if place is not None and turn is not None and size is not None:
                found.append((place, turn[:3] * size[1], turn[3:] * size[0]))
    return found


def _of(homes: tuple[pydicom.Dataset, ...], group: str, keyword: str) -> np.ndarray | None:
    for home in homes:
        item = home[group][0] if group in home else home
        if keyword in item:
            return np.array(item[keyword].value, float)
    return None


def by_headers(path: Path, grid: Grid) -> None:
    """Every slice of a grid lies on a plane of the files, and no plane of that orientation is passed over."""
    rows, columns = grid.shape[1], grid.shape[0]
    everything = [
        np.array([place + i * across + j * down for i, j in product((0, columns - 1), (0, rows - 1))]) * LPS
        for place, across, down in planes(path)
    ]
    ends = product((0, columns - 1), (0, rows - 1))
    corner = np.array([(i, j, 0) for i, j in ends])
    ours = [grid.to_world(corner + np.array([0, 0, k])) for k in range(grid.shape[2])]
    apart = np.array([[np.abs(one - other).max() for other in everything] for one in ours])
    assert (apart.min(axis=1) < CLOSE_MM).sum() >= min(2, grid.shape[2])
    alike = [number for number, other in enumerate(everything) if _parallel(other, ours[0])]
    assert (apart.min(axis=0)[alike] < CLOSE_MM).all()


def _parallel(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two planes have the same directions and size."""
    return bool(np.abs((one - one[0]) - (other - other[0])).max() < CLOSE_MM)


def read(path: Path, *accept: str, **asked: object) -> Grid | None:
    """The grid of a volume; None where the file is refused."""
    with warnings.catch_warnings(), checks.watching(accept):
        warnings.simplefilter("ignore")
        try:
            return formats.read(path, **asked).grid  # type: ignore[arg-type]
        except VoxelSamError:
            return None


def niftis(folder: Path) -> int:
    """Every NIfTI file of an entry against nibabel; how many gave a volume."""
    count = 0
    for path in sorted(path for path in folder.rglob("*") if re.search(r"\.nii(\.gz)?$", path.name)):
        grid = read(path, "VAL-01") or read(path, "VAL-01", frame=0)
        if grid is None:
            continue
        count += 1
        index = corners(grid.shape)
        if not path.name.startswith("scan") or folder.name != "not_gzip":
            judge = by_nibabel(path, index)
        else:
            with path.open("rb") as stream:
                judge = nibabel.affines.apply_affine(nibabel.Nifti1Header.from_fileobj(stream).get_best_affine(), index)
        np.testing.assert_allclose(grid.to_world(index), judge, atol=CLOSE_MM, err_msg=path.name)
    return count


def itk_files(folder: Path) -> int:
    """Every NRRD and MetaImage of an entry against SimpleITK."""
    count = 0
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".nrrd", ".nhdr", ".mha")):
        grid = read(path)
        if grid is None:
            continue
        try:
            judge = SimpleITK.ReadImage(str(path))
        except RuntimeError:
            continue
        if judge.GetDimension() == 4:
            continue
        count += 1
        index = corners(grid.shape)
        np.testing.assert_allclose(grid.to_world(index), by_simpleitk(judge, index), atol=CLOSE_MM, err_msg=path.name)
    return count


def series(*accept: str, **asked: object) -> Callable[[Path], int]:
    def check(folder: Path) -> int:
        grid = read(folder, *accept, **asked)
        assert grid is not None
        by_headers(folder, grid)
        return 1

    return check


def parts(folder: Path) -> int:
    """Every part of a folder that holds several."""
    listed = formats.dicom.list_series(folder)
    for part in listed:
        grid = read(folder, series=part.key)
        assert grid is not None
        by_headers(folder, grid)
    return len(listed)


def time_points(folder: Path) -> int:
    for frame in range(formats.frames(folder)):
        grid = read(folder, frame=frame)
        assert grid is not None
        by_headers(folder, grid)
    return formats.frames(folder)


def objects(folder: Path) -> int:
    """Every single file of an entry that is an image in a patient."""
    count = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        grid = read(path, "DCM-08")
        if grid is None or formats.family(path) != "dicom" or not planes(path):
            continue
        by_headers(path, grid)
        count += 1
    return count


def segmentations(folder: Path) -> int:
    """DICOM SEG: the corners of each frame that is stored lie on its voxels."""
    count = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or formats.family(path) != "dicom_seg":
            continue
        with warnings.catch_warnings(), checks.watching({"LAB-01", "LAB-05"}):
            warnings.simplefilter("ignore")
            try:
                grid = dicom_seg.read_labels(path).grid
            except VoxelSamError:
                continue
        inside = [place * LPS for place, _, _ in planes(path)]
        if not inside:
            continue
        index = grid.to_index(np.array(inside))
        nearest = np.rint(index)
        np.testing.assert_allclose(grid.to_world(nearest), inside, atol=CLOSE_MM, err_msg=path.name)
        assert (nearest >= 0).all()
        assert (nearest < np.array(grid.shape)).all()
        count += 1
    return count


def images_and_segmentations(folder: Path) -> int:
    count = segmentations(folder) + itk_files(folder)
    for image in sorted(folder.glob("*/image")):
        count += series()(image)
    return count


def phantom(folder: Path) -> int:
    return sum(series()(folder / name) for name in ("oriented_data", "mock_data"))


def syntaxes(folder: Path) -> int:
    return sum(series()(path) for path in folder.glob("CTImage.dcm*") if read(path) is not None)


WORLD: dict[str, tuple[Callable[[Path], int], int]] = {
    "dicom/ct_gantry_tilt_4": (series(), 1),
    "dicom/ct_without_modality_tag": (series(), 1),
    "dicom/dcmqi_ct_with_seg": (images_and_segmentations, 21),
    "dicom/enhanced_mr_philips": (series(), 1),
    "dicom/enhanced_mr_siemens": (series(), 1),
    "dicom/highdicom_seg_objects": (lambda folder: segmentations(folder) + objects(folder), 6),
    "dicom/localizer_three_planes": (parts, 3),
    "dicom/mr_missing_slice": (series("DCM-01"), 1),
    "dicom/mr_sagittal_compressed_default": (series(), 1),
    "dicom/mr_sagittal_jpeg": (series(), 1),
    "dicom/mr_sagittal_jpeg2000": (series(), 1),
    "dicom/mr_sagittal_jpegls": (series(), 1),
    "dicom/mr_sagittal_rle": (series(), 1),
    "dicom/mr_sagittal_uncompressed": (series(), 1),
    "dicom/multiframe_without_functional_groups": (series(), 1),
    "dicom/non_square_pixels": (series(), 1),
    "dicom/one_ct_slice_many_transfer_syntaxes": (syntaxes, 13),
    "dicom/pydicom_test_files": (objects, 38),
    "dicom/rtstruct_phantom": (phantom, 2),
    "dicom/single_slice": (series(), 1),
    "dicom/two_slices_only": (series(), 1),
    "dicom/two_timepoints_one_series": (time_points, 2),
    "dicom/uneven_slice_gap": (series("DCM-01"), 1),
    "mha/mr_2d": (itk_files, 1),
    "nifti/nibabel_test_data": (niftis, 7),
    "nifti/spinal_cord_t2s": (niftis, 6),
    "nrrd/breast_tumour": (itk_files, 2),
    "nrrd/prostate_phantom": (itk_files, 2),
    "nrrd/pynrrd_test_data": (itk_files, 8),
}
"""How the entries' world coordinates are judged, and how many volumes there are at least; the others: ``niftis``, 1."""


@pytest.fixture(scope="module")
def odd(shared: Path) -> Path:
    return shared / "data" / "bad_input"


def test_no_entry_of_the_index_is_left_out(odd: Path) -> None:
    index = [entry["name"] for entry in json.loads((odd / "index.json").read_text())]
    assert sorted(index) == sorted(TESTED)
    assert len(set(index)) == len(index)
    assert {entry for entry in index if (odd / entry).is_dir()} == set(index)


@pytest.mark.parametrize("name", TESTED)
def test_the_file_that_tests_an_entry_names_it(name: str) -> None:
    text = (HERE / TESTED[name]).read_text("utf-8")
    assert name.rsplit("/", 1)[1] in text


@pytest.mark.parametrize("name", [name for name in TESTED if name not in NO_PLACE])
def test_world_coordinates_are_those_of_other_readers(odd: Path, name: str) -> None:
    judge, least = WORLD.get(name, (niftis, 1))
    assert judge(odd / name) >= least


def test_entries_without_a_place_yield_no_volume_or_a_picture(odd: Path) -> None:
    for name, why in NO_PLACE.items():
        for path in [odd / name] if name.startswith("dicom") else sorted((odd / name).iterdir()):
            grid = read(path)
            assert (grid is None) or ("picture" in why and grid.along_k == "single"), name
