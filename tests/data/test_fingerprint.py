"""What is measured on a data set, and the plan that follows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam import backbones, config
from voxelsam.data.fingerprint import Fingerprint, measure, suggest
from voxelsam.errors import InputError
from voxelsam.layouts import Dataset, open_dataset
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan

PARTS = ((StackPlan, "stack"), (Intensity, "intensity"))
Pictures = Callable[..., Dataset]


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


def test_a_suggestion_is_a_valid_part_of_a_recipe(dataset: Dataset, fingerprint: Fingerprint) -> None:
    suggestion, reasons = suggest(dataset, fingerprint, backbones.VARIANTS["sam-tiny"])
    plan = config.parse(StackPlan, suggestion["stack"])
    assert plan.size == (128, 128)
    assert config.parse(Intensity, suggestion["intensity"]).kind == "window"
    assert len(reasons) >= 4


def test_a_published_window_goes_before_a_measured_one(dataset: Dataset, fingerprint: Fingerprint) -> None:
    suggestion, reasons = suggest(replace(dataset, window=(-50, 150)), fingerprint, backbones.VARIANTS["sam-tiny"])
    assert suggestion["intensity"] == {"kind": "window", "low": -50, "high": 150}
    assert "published" in reasons["intensity"]


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


class TestPictures:
    def facts(self, dataset: Dataset) -> Fingerprint:
        assert dataset.labels is not None
        return measure(dataset.train, dataset.labels, dataset.channels)

    def test_pictures_are_stacks_of_one_on_one_scale(self, pictures: Pictures) -> None:
        dataset = pictures()
        suggestion, reasons = suggest(dataset, self.facts(dataset), backbones.VARIANTS["sam-vit-b"])
        plan, intensity = (config.parse(kind, suggestion[name]) for kind, name in PARTS)
        assert (plan.depth, plan.plane, plan.channels) == (1, "axial", "rgb")
        assert (intensity.kind, intensity.limits) == ("unit", (0, 255))
        assert {"stack.plane", "stack.size", "stack.depth", "intensity"} <= set(reasons)

    @pytest.mark.parametrize(
        ("size", "expected"), [((50, 70), (96, 96)), ((600, 800), (384, 512)), ((800, 610), (512, 416))]
    )
    def test_the_size_is_near_the_pictures_own_and_never_above_the_limit(
        self, pictures: Pictures, size: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        dataset = pictures(size=size, instances=False)
        suggestion, _ = suggest(dataset, self.facts(dataset), backbones.VARIANTS["sam-vit-b"])
        assert tuple(suggestion["stack"]["size"]) == expected

    def test_deep_pictures_have_no_common_scale(self, pictures: Pictures) -> None:
        dataset = pictures(np.uint16)
        suggestion, _ = suggest(dataset, self.facts(dataset), backbones.VARIANTS["sam-vit-b"])
        assert (suggestion["intensity"]["kind"], suggestion["stack"]["depth"]) == ("percentile", 1)
        assert suggestion["stack"]["channels"] == "copy"

    def test_numbers_that_do_not_fit_the_labels_are_told_with_the_other_problems(self, pictures: Pictures) -> None:
        dataset = pictures()
        Image.new("I;16", (70, 50)).save(dataset.train[1].instances)
        with pytest.raises(InputError, match=r"1 of 4 cases.*\n.*b: .*320 labelled voxels"):
            self.facts(dataset)
