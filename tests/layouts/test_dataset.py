from pathlib import Path

import pytest

from voxelsam.errors import InputError
from voxelsam.layouts import Case, Dataset
from voxelsam.layouts._dataset import kind_of, stem


@pytest.mark.parametrize(
    ("channels", "kind"),
    [
        (("CT",), "CT"),
        (("ct_arterial", "CT"), "CT"),
        (("MRI",), "MR"),
        (("T2", "ADC"), "MR"),
        (("T1-weighted MRI",), "MR"),
        (("FLAIR", "T1w", "t1gd", "T2w"), "MR"),
        (("CT", "MRI"), "UNKNOWN"),
        (("CT", "PET"), "UNKNOWN"),
        (("R", "G", "B"), "UNKNOWN"),
        (("direct",), "UNKNOWN"),
        (("noNorm",), "UNKNOWN"),
        ((), "UNKNOWN"),
    ],
)
def test_channel_names_tell_the_kind(channels, kind) -> None:
    assert kind_of(channels) == kind


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("a.nii.gz", "a"),
        ("a.nii", "a"),
        ("a.b.nii.gz", "a.b"),
        ("scan.2.png", "scan.2"),
        ("a.seg.nrrd", "a"),
        ("a", "a"),
        ("A.NII.GZ", "A"),
    ],
)
def test_names_without_suffixes(name, bare) -> None:
    assert stem(Path("folder.d") / name) == bare


def test_what_is_not_there_is_named() -> None:
    case = Case("a", (Path("a.nii"),))
    dataset = Dataset(Path("root"), "pairs", "name", None, ("image",), "UNKNOWN", (), (case,))
    assert case.group == "a"
    assert dataset.case("a") is case
    with pytest.raises(InputError, match=r"no case 'b' among 0 \+ 1 cases"):
        dataset.case("b")
    with pytest.raises(InputError, match="no splits; make one with default_split"):
        dataset.split(0)
