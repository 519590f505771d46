"""Good public data raises no false alarm: every finding here was looked at and is true."""

from pathlib import Path

import pytest

from voxelsam.doctor import diagnose

pytestmark = pytest.mark.shared

FINDINGS = {
    "Dataset503_LiverCT": {},
    "Dataset504_Hippocampus": {"VAL-03": {"hippocampus_044", "hippocampus_135"}},
    "Dataset510_PolypVideo": {"LAB-06": {"seq10_f201", "seq23_f470"}},
    "Dataset511_OpticDiscCup": {},
    "Dataset514_MuscleUltrasound": {},
    "Dataset515_ChestXray": {"LAB-06": {"cxr_009"}},
    "Dataset520_ProstateMRI": {"GEO-07": {"prostatex_11373_1001396"}},
    "Dataset521_BrainTumour": {},
    "Dataset523_AbdomenCT13": {"LAB-03": {"Dataset523_AbdomenCT13"}},
}
BAD = {
    "qform_sform_differ": "GEO-04",
    "no_orientation": "GEO-05",
    "zero_pixdim": "GEO-05",
    "sheared_sform": "GEO-03",
    "nan_inf_pixels": "VAL-01",
    "constant_image": "VAL-02",
    "two_channels_4d": "VAL-05",
    "truncated": "SET-03",
    "wrong_suffix_html": "SET-03",
    "git_lfs_pointer": "SET-03",
    "mirrored_axes": "",
    "singleton_4d": "",
    "not_gzip": "",
}


@pytest.mark.parametrize("name", FINDINGS)
def test_a_public_data_set(shared: Path, name: str) -> None:
    found: dict[str, set[str]] = {}
    for finding in diagnose(shared / "data" / name).findings:
        found.setdefault(finding.code, set()).add(Path(finding.where).name)
    assert found == FINDINGS[name]


@pytest.mark.parametrize("name", BAD)
def test_an_odd_file(shared: Path, name: str) -> None:
    found = diagnose(shared / "data" / "bad_input" / "nifti_derived" / name).findings
    assert [finding.code for finding in found] == [code for code in (BAD[name],) if code]


def test_series_that_lie_together_are_no_error_of_headers(shared: Path) -> None:
    diagnosis = diagnose(shared / "data" / "bad_input" / "dicom" / "localizer_three_planes", quick=True)
    assert diagnosis.cases == 3
    assert [(finding.code, finding.severity) for finding in diagnosis.findings] == [("DCM-03", "warning")]
