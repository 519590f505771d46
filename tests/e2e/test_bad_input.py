"""The shared collection of odd NIfTI files through the command: a mask in its place, or nothing at all."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxelsam import bundle
from voxelsam.cli import app as command
from voxelsam.formats import read
from voxelsam.infer.predictor import Predictor

pytestmark = [pytest.mark.shared, pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")]

SEGMENTED = {
    "nifti/ct_pitch/CT_pitch.nii.gz",
    "nifti/fmri_pitch/fmri_pitch.nii.gz",
    "nifti/label_of_another_scan/hippocampus_281.nii.gz",
    "nifti/monai_moved_pair/anatomical.nii",
    "nifti/nibabel_test_data/anatomical.nii",
    "nifti/nibabel_test_data/reoriented_anat_moved.nii",
    "nifti/nibabel_test_data/standard.nii.gz",
    "nifti/spinal_cord_t2s/t2s.nii.gz",
    "nifti_derived/constant_image/scan.nii.gz",
    "nifti_derived/mirrored_axes/scan.nii.gz",
    "nifti_derived/no_orientation/scan.nii.gz",
    "nifti_derived/not_gzip/scan.nii.gz",
    "nifti_derived/one_slice/scan.nii.gz",
    "nifti_derived/qform_sform_differ/scan.nii.gz",
    "nifti_derived/sheared_sform/scan.nii.gz",
    "nifti_derived/singleton_4d/scan.nii.gz",
}
REFUSED = {
    "nifti/nibabel_test_data/example4d.nii.gz": "VAL-05",
    "nifti/nibabel_test_data/resampled_anat_moved.nii": "VAL-01",
    "nifti/pcasl_4d/pcasl.nii.gz": "VAL-05",
    "nifti_derived/git_lfs_pointer/scan.nii.gz": "LFS pointer",
    "nifti_derived/nan_inf_pixels/scan.nii.gz": "not a number",
    "nifti_derived/rgb24/scan.nii.gz": "channel",
    "nifti_derived/truncated/scan.nii.gz": "20000 bytes",
    "nifti_derived/two_channels_4d/scan.nii.gz": "split",
    "nifti_derived/wrong_suffix_html/scan.nii.gz": "web page",
    "nifti_derived/zero_pixdim/scan.nii.gz": "voxel sizes",
}

Run = Callable[[Path, Path, Path], tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Predicts one file; gives the exit code and the reason."""
    import sys
    import warnings

    def call(model: Path, source: Path, folder: Path) -> tuple[int, str]:
        arguments = ["predict", "-m", model, "-i", source, "-o", folder, "--overlap", 0, "--device", "cpu", "--json"]
        monkeypatch.setattr(sys, "argv", ["voxelsam", *map(str, arguments)])
        show = warnings.showwarning
        code = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                command.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            warnings.showwarning = show
        written = capsys.readouterr()
        assert "Traceback" not in written.err
        outcome = json.loads(written.out)[0]
        return code, f"{outcome['code']} {outcome['reason']}".strip()

    return call


@pytest.mark.parametrize("name", sorted(SEGMENTED))
def test_a_usable_scan_gets_a_mask_in_its_place(
    run: Run, trained: Path, shared: Path, tmp_path: Path, name: str
) -> None:
    source = shared / "data" / "bad_input" / name
    code, reason = run(trained / "best", source, tmp_path / "out")
    assert (code, reason) == (0, "")
    mask, grid = nib.load(next((tmp_path / "out").glob("*.nii.gz"))), read(source).grid
    assert mask.shape == grid.shape
    assert np.array_equal(mask.affine, grid.affine)
    assert mask.get_data_dtype() == np.uint8
    assert mask.header["qform_code"] == 0 or np.allclose(mask.get_qform(), mask.affine, atol=1e-2) or "differ" in name


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_unusable_scan_is_refused_and_nothing_is_written(
    run: Run, trained: Path, shared: Path, tmp_path: Path, name: str
) -> None:
    code, reason = run(trained / "best", shared / "data" / "bad_input" / name, tmp_path / "out")
    assert code == 2
    assert REFUSED[name] in reason
    assert not (tmp_path / "out").exists()


def test_two_storage_orders_of_one_scan_get_the_same_mask(trained: Path, shared: Path) -> None:
    predictor = Predictor(bundle.load(trained / "best"), device="cpu", stride=3)
    folder = shared / "data" / "bad_input" / "nifti_derived"
    masks = []
    for name in ("singleton_4d", "mirrored_axes"):
        labels = predictor(read(folder / name / "scan.nii.gz")).labels
        masks.append(nib.as_closest_canonical(nib.Nifti1Image(labels.data.astype(np.uint8), labels.grid.affine)))
    assert np.allclose(masks[0].affine, masks[1].affine, atol=1e-3)
    assert np.array_equal(np.asarray(masks[0].dataobj), np.asarray(masks[1].dataobj))
