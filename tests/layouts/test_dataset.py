from dataclasses import replace
from pathlib import Path

import pytest

from voxelsam.errors import ConfigError, InputError
from voxelsam.layouts import Case, Dataset
from voxelsam.layouts._dataset import kind_of, some, stem


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
    with pytest.raises(InputError, match="no splits; leave the fold out"):
        dataset.split(0)


MRI = ("t1", "t2", "flair")


def multichannel(**changes: object) -> Dataset:
    train = (Case("a", tuple(Path(f"a_{name}.nii") for name in MRI), Path("a.nii")),)
    test = (Case("b", tuple(Path(f"b_{name}.nii") for name in MRI)),)
    return replace(Dataset(Path("root"), "brats", "name", None, MRI, "MR", train, test, window=(0.0, 9.0)), **changes)


def test_channels_are_chosen_in_the_order_asked_for() -> None:
    dataset = multichannel().with_channels(["flair", "t1"])
    assert dataset.channels == ("flair", "t1")
    assert [path.name for path in dataset.case("a").images] == ["a_flair.nii", "a_t1.nii"]
    assert [path.name for path in dataset.case("b").images] == ["b_flair.nii", "b_t1.nii"]
    assert (dataset.kind, dataset.window, dataset.case("a").label) == ("MR", (0.0, 9.0), Path("a.nii"))


def test_one_channel_may_tell_the_kind_that_several_hide() -> None:
    mixed = multichannel(channels=("CT", "PET", "x"), kind="UNKNOWN")
    assert mixed.with_channels(["CT"]).kind == "CT"
    assert mixed.with_channels(["x"]).kind == "UNKNOWN"


@pytest.mark.parametrize("names", [[], ["t1", "t1"], ["t1", "T2"], ["dwi"]])
def test_channels_that_cannot_be_chosen(names) -> None:
    with pytest.raises(ConfigError, match="channels to choose from are t1, t2, flair, each at most once; asked for"):
        multichannel().with_channels(names)


def test_channels_of_one_file_cannot_be_chosen_but_all_can() -> None:
    whole = multichannel(train=(Case("a", (Path("a.nii"),), Path("l.nii")),))
    assert whole.with_channels(MRI) == whole
    with pytest.raises(InputError, match="the cases a have 3 channels in fewer files") as caught:
        whole.with_channels(["t1"])
    assert caught.value.code == "VAL-06"


def test_names_for_messages() -> None:
    assert some(["a", "b"], 2) == "a, b"
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert some([]) == ""
