"""What is measured on a data set, and the plan that follows."""

from dataclasses import replace
from pathlib import Path

import pytest

from voxelsam import backbones, config
from voxelsam.data.fingerprint import Fingerprint, measure, suggest
from voxelsam.errors import InputError
from voxelsam.layouts import Dataset, open_dataset
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.volumes.labels import Labels


@pytest.fixture(scope="module")
def dataset(phantom: Path) -> Dataset:
    return open_dataset(phantom)


@pytest.fixture(scope="module")
def fingerprint(dataset: Dataset) -> Fingerprint:
    assert dataset.labels is not None
    return measure(dataset.train, dataset.labels, dataset.channels)


def test_the_plane_is_the_one_of_thick_slices_however_a_file_is_stored(fingerprint: Fingerprint) -> None:
    assert fingerprint.plane == "axial"
    assert all(case.sizes["axial"] == (40, 36, 9) for case in fingerprint.cases)
    assert all(case.spacings["axial"] == pytest.approx((3.8, 3.8, 12.0)) for case in fingerprint.cases)


def test_structures_nobody_shows_are_found(fingerprint: Fingerprint, dataset: Dataset) -> None:
    assert dataset.labels is not None
    assert fingerprint.absent(dataset.labels) == ()
    more = Labels({**dataset.labels.values, "pancreas": 9})
    assert fingerprint.absent(more) == ("pancreas",)


def test_a_suggestion_is_a_valid_part_of_a_recipe(dataset: Dataset, fingerprint: Fingerprint) -> None:
    suggestion, reasons = suggest(dataset, fingerprint, backbones.VARIANTS["sam-tiny"])
    plan = config.parse(StackPlan, suggestion["stack"])
    assert plan.size == (128, 128)
    assert config.parse(Intensity, suggestion["intensity"]).kind == "window"
    assert len(reasons) >= 4


def test_the_model_sees_slices_in_their_own_shape(dataset: Dataset, fingerprint: Fingerprint) -> None:
    wide = Fingerprint(tuple(replace(case, sizes={"axial": (80, 30, 9)}) for case in fingerprint.cases))
    suggestion, _ = suggest(dataset, wide, backbones.VARIANTS["sam-vit-b"])
    assert suggestion["stack"]["size"] == [192, 512]


def test_ct_gets_a_window_and_mr_its_own_range(dataset: Dataset, fingerprint: Fingerprint) -> None:
    variant = backbones.VARIANTS["sam-vit-b"]
    ct, _ = suggest(dataset, fingerprint, variant)
    low, high = ct["intensity"]["low"], ct["intensity"]["high"]
    assert -250 < low < 0 < 160 < high < 500
    mr, _ = suggest(replace(dataset, kind="MR"), fingerprint, variant)
    assert mr["intensity"]["kind"] == "percentile"


def test_only_a_random_backbone_gets_another_rate(dataset: Dataset, fingerprint: Fingerprint) -> None:
    assert "train" not in suggest(dataset, fingerprint, backbones.VARIANTS["sam-vit-b"])[0]
    assert suggest(dataset, fingerprint, backbones.VARIANTS["sam-tiny"])[0]["train"]["power"] < 1


def test_every_case_that_cannot_be_used_is_listed(dataset: Dataset) -> None:
    assert dataset.labels is not None
    first, second, third = dataset.train
    cases = (first, replace(second, label=third.label), replace(third, label=None))
    with pytest.raises(InputError) as caught:
        measure(cases, dataset.labels, dataset.channels)
    assert "2 of 3 cases" in str(caught.value)
    assert second.id in str(caught.value)
    assert third.id in str(caught.value)


def test_progress_is_told(dataset: Dataset) -> None:
    assert dataset.labels is not None
    seen: list[tuple[int, int]] = []
    measure(dataset.train, dataset.labels, dataset.channels, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
