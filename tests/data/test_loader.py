"""Prepared cases and batches of stacks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from voxelsam.data import cache
from voxelsam.data.augment import Augment, AugmentConfig
from voxelsam.data.cache import Prepared, Store
from voxelsam.data.loader import Order, StackError, Stacks, collate, loader, mix
from voxelsam.data.sampling import Sampling
from voxelsam.errors import InputError
from voxelsam.formats import read, read_labels
from voxelsam.layouts import Case, Dataset, open_dataset
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan

PLAN = StackPlan(depth=3, size=(32, 32), plane="axial")
WINDOW = Intensity("window", low=-200, high=250)


@pytest.fixture(scope="module")
def dataset(phantom: Path) -> Dataset:
    return open_dataset(phantom)


@pytest.fixture
def store(dataset: Dataset, tmp_path: Path) -> Store:
    assert dataset.labels is not None
    return Store(tmp_path / "cache", dataset.labels, dataset.channels, PLAN, WINDOW)


@pytest.fixture
def cases(store: Store, dataset: Dataset) -> list[Prepared]:
    return [store.open(case) for case in dataset.train]


def test_a_prepared_case_is_the_canonical_volume(store: Store, dataset: Dataset) -> None:
    case = dataset.train[0]
    assert case.label is not None
    prepared = store.open(case)
    volume, labels = read(case.images[0]), read_labels(case.label)
    placement = PLAN.placement(volume.grid)
    assert np.array_equal(prepared.image, placement.bring(volume.data))
    assert np.array_equal(prepared.label, placement.bring_labels(labels.data))
    assert prepared.spacing == pytest.approx(placement.target.spacing)


def test_slices_of_a_stack_lie_together_on_disk(store: Store, dataset: Dataset) -> None:
    prepared = store.open(dataset.train[0])
    assert prepared.image.transpose(3, 0, 2, 1).flags.c_contiguous
    assert isinstance(prepared.image.base, np.memmap)


def test_a_case_is_prepared_once(store: Store, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    store.open(dataset.train[0])
    monkeypatch.setattr(cache, "read_channels", None)
    store.open(dataset.train[0])


def test_a_changed_file_is_prepared_again(phantom: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(phantom, tmp_path / "data"))
    dataset = open_dataset(copy)
    assert dataset.labels is not None
    store = Store(tmp_path / "cache", dataset.labels, dataset.channels, PLAN, WINDOW)
    first, second = dataset.train[:2]
    assert first.label is not None
    before = np.array(store.open(first).label)
    assert second.label is not None
    (copy / first.label).unlink()
    shutil.copy(second.label, first.label)
    shutil.copy(second.images[0], first.images[0])
    assert not np.array_equal(store.open(first).label, before)


def test_a_case_without_a_label_is_refused(store: Store, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="no label"):
        store.open(Case("x", dataset.train[0].images))


def test_every_slice_of_every_case_is_once_the_centre(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN)
    assert len(stacks) == sum(case.slices for case in cases)
    centres = {(case, start + PLAN.depth // 2) for case, start in stacks.stacks}
    assert centres == {(number, k) for number, case in enumerate(cases) for k in range(case.slices)}


def test_the_target_belongs_to_the_images(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN)
    batch = next(iter(loader(stacks, Order(len(stacks)), len(stacks))))
    assert batch.target is not None
    aorta = batch.images[:, :, 0][batch.target == 6].mean()
    background = batch.images[:, :, 0][batch.target == 0].mean()
    assert aorta > background + 0.2


def test_an_order_is_a_function_of_seed_and_epoch() -> None:
    first, again, other = Order(50, seed=1), Order(50, seed=1), Order(50, seed=2)
    assert list(first) == list(again)
    assert [position for _, position in first] != [position for _, position in other]
    again.set_epoch(3)
    assert {epoch for epoch, _ in again} == {3}
    assert sorted(position for _, position in again) == list(range(50))
    assert [position for _, position in again] != [position for _, position in first]


def test_a_limit_chooses_anew_in_every_epoch() -> None:
    order = Order(100, seed=0, limit=10)
    chosen = []
    for epoch in range(3):
        order.set_epoch(epoch)
        chosen.append({position for _, position in order})
    assert all(len(one) == 10 for one in chosen)
    assert len(set.union(*chosen)) > 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where the tests have one processor only
def test_workers_change_nothing(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN, Augment(AugmentConfig()), seed=4)
    order = Order(len(stacks), seed=4, limit=6)
    alone = list(loader(stacks, order, 2))
    helped = list(loader(stacks, order, 2, workers=2))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.cases == other.cases


def test_augmentation_differs_between_epochs(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN, Augment(AugmentConfig()), seed=4)
    assert not torch.equal(stacks[0, 3].images, stacks[1, 3].images)
    assert torch.equal(stacks[1, 3].images, stacks[1, 3].images)


def test_a_batch_draws_nothing_from_the_global_stream(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN, Augment(AugmentConfig()), seed=4)
    before = torch.get_rng_state()
    list(loader(stacks, Order(len(stacks), seed=1, limit=4), 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_without_all_targets_has_none(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN)
    first, second = stacks[0, 0], stacks[0, 1]
    second.target = None
    assert collate([first, second]).target is None


def test_seeds_mix_into_different_ones() -> None:
    assert len({mix(1, epoch, position) for epoch in range(10) for position in range(10)}) == 100


def test_the_record_of_a_case_is_plain_json(store: Store, dataset: Dataset) -> None:
    store.open(dataset.train[0])
    record = json.loads(next(store.folder.glob("*/record.json")).read_text())
    assert record["scale"] == {"low": [-200.0], "high": [250.0], "scope": "volume"}


def test_3d_boxes_are_those_of_the_whole_scan(cases: list[Prepared], dataset: Dataset) -> None:
    assert dataset.labels is not None
    stacks = Stacks(cases, PLAN, classes=dataset.labels.count)
    number, start = stacks.stacks[4]
    batch, label = stacks[0, 4], cases[number].label
    assert batch.extents is not None
    assert start > 0
    for class_ in range(1, dataset.labels.count):
        x0, y0, x1, y1, first, last = batch.extents[0, class_].tolist()
        shown = np.flatnonzero((label == class_).any(axis=(0, 1)))
        assert (first, last) == (shown[0] - start, shown[-1] - start)
        columns, rows = np.nonzero((label == class_).any(axis=2))
        corners = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
        (left, top), (right, bottom) = batch.frames[0].to_model(corners)
        assert (x0, y0, x1, y1) == pytest.approx((left, top, right, bottom), abs=1.5)


# Which stacks, and what they show


def test_what_a_stack_shows_is_what_its_target_shows(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, StackPlan(depth=3, size=(36, 40), plane="axial", edge="reflect"))
    shown = stacks.shown()
    assert shown.classes.shape[0] == len(stacks)
    for position, (number, start) in enumerate(stacks.stacks):
        assert shown.cases[position] == number
        slices = cases[number].label[:, :, list(stacks.plan.slices(start, cases[number].slices))]
        assert np.flatnonzero(shown.classes[position]).tolist() == np.unique(slices).tolist()


def test_the_default_sampling_is_the_order_that_it_always_was(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN)
    assert list(Order.of(stacks, Sampling(), 7, 9)) == list(Order(len(stacks), 7, 9))
    expected = np.arange(len(stacks))
    np.random.default_rng([7, 0]).shuffle(expected)
    assert [position for _, position in Order.of(stacks, Sampling(), 7)] == expected.tolist()


def test_a_sampled_order_is_a_function_of_seed_and_epoch(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN)
    wish = Sampling(balance=1, cases="equal")
    order, resumed = (Order.of(stacks, wish, 7, 12) for _ in range(2))
    epochs = []
    for epoch in range(4):
        order.set_epoch(epoch)
        epochs.append(list(order))
    resumed.set_epoch(3)
    assert list(resumed) == epochs[3] != epochs[2]
    assert len(order) == len(epochs[0]) == 12


def test_a_stack_that_comes_again_is_changed_in_another_way(cases: list[Prepared]) -> None:
    stacks = Stacks(cases, PLAN, Augment(AugmentConfig()), seed=4)
    first, again = stacks[0, 3], stacks[0, 3 + len(stacks)]
    assert first.cases == again.cases
    assert torch.equal(first.first, again.first)
    assert not torch.equal(first.images, again.images)
    plain = Stacks(cases, PLAN)
    assert torch.equal(plain[0, 3].images, plain[0, 3 + len(stacks)].images)


def test_reversed_slices_are_reversed_in_everything(cases: list[Prepared], dataset: Dataset) -> None:
    assert dataset.labels is not None

    class Reversing(Augment):
        def reverses(self, seed: int) -> bool:
            return True

    settings = AugmentConfig("none")
    plain = Stacks(cases, PLAN, Augment(settings), classes=dataset.labels.count)[0, 4]
    turned = Stacks(cases, PLAN, Reversing(settings), classes=dataset.labels.count)[0, 4]
    assert not torch.equal(plain.images, turned.images)
    assert torch.equal(plain.images.flip(1), turned.images)
    assert plain.target is not None
    assert turned.target is not None
    assert torch.equal(plain.target.flip(1), turned.target)
    assert plain.extents is not None
    assert turned.extents is not None
    assert torch.equal(plain.extents[..., :4], turned.extents[..., :4])
    assert torch.equal(PLAN.depth - 1 - plain.extents[..., 5], turned.extents[..., 4])
    assert torch.equal(PLAN.depth - 1 - plain.extents[..., 4], turned.extents[..., 5])


# What goes wrong


class Bad(Augment):
    """Refuses every stack."""

    def __call__(self, images: torch.Tensor, target: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise InputError("the image holds no numbers", code="VAL-01")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stack_that_cannot_be_cut_names_its_case(cases: list[Prepared], workers: int) -> None:
    stacks = Stacks(cases, PLAN, Bad(AugmentConfig("none")))
    name = cases[0].id
    with pytest.raises(InputError) as caught:
        list(loader(stacks, Order(len(stacks)), 2, workers=workers))
    assert str(caught.value) == f"case {name}, stack from slice -1 (from 0): the image holds no numbers"
    assert isinstance(caught.value, StackError)


def test_a_bug_keeps_its_class_and_names_the_case(cases: list[Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    stacks = Stacks(cases, PLAN)
    monkeypatch.setattr("voxelsam.data.loader.cut", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        stacks[0, 1]
    assert caught.value.__notes__ == [f"while cutting case {cases[0].id}, stack from slice 0 (from 0)"]
