"""Ensembles and augmented views: one is itself, order is nothing, disagreement shows, memory stays that of slices."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxelsam import bundle
from voxelsam.bundle import AugmentLearnt, Bundle
from voxelsam.errors import ConfigError, InputError, WeightsError
from voxelsam.infer import average, ensemble
from voxelsam.infer.clean import Clean
from voxelsam.infer.ensemble import Ensemble
from voxelsam.infer.predictor import Predictor
from voxelsam.nn.decoder import Scores
from voxelsam.space.grid import Grid
from voxelsam.volumes.volume import Volume

TWO = {"background": 0, "spleen": 1, "kidney": 2}


def changed(one: Bundle, sha: str, **fields: object) -> Bundle:
    return replace(one, description=replace(one.description, weights_sha256=sha, **fields))


@pytest.fixture
def plain(learnt: Callable[..., Bundle]) -> Bundle:
    return learnt(labels=TWO, quality=False)


@pytest.fixture
def members(plain: Bundle) -> list[Predictor]:
    """Three models with different random weights, depths and sizes."""
    made = []
    for number, depth in enumerate((3, 1, 5)):
        stack = replace(plain.description.stack, depth=depth)
        torch.manual_seed(number)
        tensors = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in plain.tensors.items()}
        one = changed(replace(plain, tensors=tensors), f"{number}" * 64, stack=stack)
        made.append(Predictor(one, device="cpu"))
    return made


@pytest.fixture
def scan() -> Volume:
    data = np.random.default_rng(3).normal(20, 60, (1, 20, 24, 7)).astype(np.float32)
    return Volume(data, Grid((20, 24, 7), np.diag([2.0, 2.0, 4.0, 1.0])), "CT")


def answer(model: Predictor | Ensemble, scan: Volume) -> tuple[np.ndarray, np.ndarray]:
    prediction = model(scan, probabilities=True)
    assert prediction.probabilities is not None
    return prediction.labels.data, prediction.probabilities


def same(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(first, second) for first, second in zip(one, other, strict=True))


def test_an_ensemble_of_one_is_that_one_bit_for_bit(members: list[Predictor], scan: Volume) -> None:
    alone = members[0]
    assert same(answer(Ensemble([alone]), scan), answer(alone, scan))
    assert Ensemble([alone])(scan).labels.author == alone(scan).labels.author


def test_twice_the_same_is_the_same_and_agrees(members: list[Predictor], scan: Volume) -> None:
    twice = Ensemble([members[0], members[0]])
    assert same(answer(twice, scan), answer(members[0], scan))
    quality = twice(scan).quality
    assert quality is not None
    assert {one.agreement for one in quality.structures.values()} <= {1.0, None}
    assert any(one.agreement == 1.0 for one in quality.structures.values())


def test_order_is_nothing(members: list[Predictor], scan: Volume) -> None:
    first, second = Ensemble(members), Ensemble(members[::-1])
    assert same(answer(first, scan), answer(second, scan))
    assert first.author == second.author
    assert first(scan).quality == second(scan).quality


def test_the_mean_is_the_mean(members: list[Predictor], scan: Volume) -> None:
    each = np.stack([answer(member, scan)[1] for member in members]).astype(float)
    together = answer(Ensemble(members), scan)[1]
    assert np.abs(together - each.mean(0)).max() <= 1.01
    assert np.abs(each - each.mean(0)).max() > 3


def test_disagreement_lowers_agreement(members: list[Predictor], scan: Volume) -> None:
    quality, agreed = Ensemble(members)(scan).quality, Ensemble([members[0]] * 3)(scan).quality
    assert quality is not None
    assert agreed is not None
    assert quality.views == 3
    low = [one.agreement for one in quality.structures.values() if one.agreement is not None]
    high = [one.agreement for one in agreed.structures.values() if one.agreement is not None]
    assert max(low) < min(high)


def test_a_single_model_has_no_agreement(members: list[Predictor], scan: Volume) -> None:
    quality = members[0](scan).quality
    assert quality is not None
    assert quality.views == 1
    assert {one.agreement for one in quality.structures.values()} == {None}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": {"background": 0, "spleen": 1, "kidney": 3}}, r"labels: .*kidney 2.*kidney 3"),
        ({"labels": {"background": 0, "spleen": 1, "liver": 2}}, "labels: .*liver 2"),
        ({"channels": ("T1",)}, "channels: .* has CT, .* has T1"),
        ({"stack": "sagittal"}, "stack.plane: .* has axial, .* has sagittal"),
        ({"stack": (None, None, 2.0)}, "stack.spacing: .* the scan's own, .* None, None, 2.0"),
    ],
)
def test_members_that_do_not_go_together_are_refused(plain: Bundle, change: dict[str, object], complaint: str) -> None:
    stack = plain.description.stack
    if isinstance(value := change.get("stack"), str):
        change = {"stack": replace(stack, plane=value)}  # type: ignore[arg-type]
    elif value is not None:
        change = {"stack": replace(stack, spacing=value)}  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=complaint):
        ensemble.check([plain, changed(plain, "b", **change)], ["run_a/best", "run_b/best"])


def test_no_member_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Ensemble([])


def test_another_number_of_channels_is_refused(members: list[Predictor], scan: Volume) -> None:
    with pytest.raises(InputError, match="takes 1 channel"):
        Ensemble(members)(Volume(np.concatenate([scan.data, scan.data]), scan.grid, "CT"))


def test_a_member_that_needs_prompts_is_refused(members: list[Predictor], learnt: Callable[..., Bundle]) -> None:
    asks = Predictor(learnt(labels=TWO, free=False), device="cpu")
    with pytest.raises(ConfigError, match="prompts only"):
        Ensemble([*members, asks]).check_prompt_free()


def test_what_is_cleaned_is_the_mean(members: list[Predictor], scan: Volume) -> None:
    whole, largest = Ensemble(members)(scan).labels, Ensemble(members, Clean(largest=True))(scan).labels
    assert np.array_equal(largest.data, Clean(largest=True)(whole).data)


class Counted(average.SliceAnswer):
    """Knows how many of its kind are alive."""

    alive: ClassVar["weakref.WeakSet[Counted]"] = weakref.WeakSet()
    most: ClassVar[int] = 0

    def __init__(self, views: Tensor, quality: Tensor | None = None) -> None:
        super().__init__(views, quality)
        Counted.alive.add(self)
        Counted.most = max(Counted.most, len(Counted.alive))


def test_memory_is_that_of_slices(members: list[Predictor], monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time are there more than a few slices of probabilities per member, and none is kept for the volume."""
    from voxelsam.infer import engine as module

    held: list[int] = []

    class Watched(module.Merger):
        def put(self, scores: Tensor) -> None:
            super().put(scores)
            held.append(self.held)

    monkeypatch.setattr(module, "Merger", Watched)
    monkeypatch.setattr(module, "SliceAnswer", Counted)
    monkeypatch.setattr(Counted, "most", 0)
    long = Volume(np.zeros((1, 8, 8, 24), np.float32), Grid((8, 8, 24), np.diag([2.0, 2.0, 4.0, 1.0])), "CT")
    assert Ensemble(members)(long).probabilities is None
    gc.collect()
    assert 0 < Counted.most <= 3 * len(members)
    assert max(held) <= max(member.depth for member in members)


class Left(nn.Module):
    """Says class 1 of the left half of the picture, surely, and class 2 of what is bright."""

    def embed(self, images: Tensor) -> Tensor:
        return images

    def encode_embedded(self, images: Tensor) -> Tensor:
        return images.flatten(0, 1)

    def decode(self, images: Tensor, prompts: object = None) -> Scores:
        logits = torch.full((len(images), 3, *images.shape[2:]), -4.0)
        logits[:, 0] = 0
        logits[:, 1, :, : images.shape[-1] // 2] = 5
        logits[:, 2] = torch.where(images[:, 0] > 0.5, 9.0, -4.0)
        return Scores(logits)


def test_views_come_back_to_their_place(plain: Bundle) -> None:
    """What is bright is found where it lies, whatever the view; what depends on the side is not, if views mirror."""
    data = np.full((1, 32, 32, 3), -90, np.float32)
    data[0, 4:12, 6:20] = 190
    volume = Volume(data, Grid((32, 32, 3), np.diag([-1.0, -1.0, 4.0, 1.0])), "CT")
    found = {}
    for flips in ((), ("rows", "columns")):
        one = Predictor(changed(plain, "a", training_augment=AugmentLearnt("x", flips)), device="cpu", tta=True)
        one.segmenter = Left()  # type: ignore[assignment]
        found[flips] = one(volume)
        bright = found[flips].labels.data == 2
        expected = data[0] > 0
        assert 2 * (bright & expected).sum() / (bright.sum() + expected.sum()) > 0.95
    gentle, mirrored = found[()].quality, found["rows", "columns"].quality
    assert gentle is not None
    assert mirrored is not None
    assert gentle.views == mirrored.views == 3
    left = "spleen"
    assert (gentle.structures[left].agreement or 0) > 0.9
    assert (mirrored.structures[left].agreement or 0) < 0.5


def test_without_augmentation_nothing_changes(plain: Bundle, scan: Volume) -> None:
    first, second = Predictor(plain, device="cpu"), Predictor(plain, device="cpu", tta=False)
    assert same(answer(first, scan), answer(second, scan))
    assert [view.name for view in first.views] == ["plain"]


# From folders


@pytest.fixture
def folds(plain: Bundle, tmp_path: Path) -> Path:
    for number in (0, 2, 10):
        shifted = {name: tensor + number * 0.01 for name, tensor in plain.tensors.items()}
        folder = tmp_path / "cv" / f"fold_{number}" / "best"
        folder.parent.mkdir(parents=True)
        replace(plain, tensors=shifted).save(folder)
    return tmp_path / "cv"


def test_a_folder_of_folds_is_all_of_them(folds: Path, scan: Volume) -> None:
    model = ensemble.load([folds], device="cpu")
    assert isinstance(model, Ensemble)
    assert len(model.members) == 3
    each = ensemble.load([folds / f"fold_{number}" / "best" for number in (10, 0, 2)], device="cpu")
    assert same(answer(model, scan), answer(each, scan))  # type: ignore[arg-type]


def test_one_folder_is_one_predictor(folds: Path) -> None:
    assert isinstance(ensemble.load([folds / "fold_0" / "best"], device="cpu"), Predictor)


def test_the_identity_holds_all_members_in_one_order(folds: Path) -> None:
    paths = [folds / f"fold_{number}" / "best" for number in (10, 0, 2)]
    first, second = ensemble.read(paths), ensemble.read(paths[::-1])
    assert ensemble.made_by(first) == ensemble.made_by(second)
    assert ensemble.identity(first) == ensemble.identity(second)
    assert len(set(ensemble.made_by(first))) == 3
    assert isinstance(ensemble.made_by(first[:1]), str)
    assert ensemble.identity(first[:1]) == first[0].identity()


def test_a_fold_without_a_model_is_named(folds: Path) -> None:
    shutil.rmtree(folds / "fold_2" / "best")
    with pytest.raises(WeightsError, match=r"fold_2 has no best"):
        ensemble.read([folds])


def test_a_model_that_comes_twice_is_refused(folds: Path) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        ensemble.read([folds, folds / "fold_0" / "best"])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a bundle"):
        ensemble.read([tmp_path])


def test_judged_bundles_keep_their_identity(folds: Path) -> None:
    folder = folds / "fold_0" / "best"
    before = bundle.load(folder).identity()
    bundle.judge(folder, {"confidence": {"spleen": 0.61}})
    after = bundle.load(folder)
    assert after.description.thresholds == {"confidence": {"spleen": 0.61}}
    assert after.identity() == before
    with pytest.raises(ConfigError, match="liver"):
        bundle.judge(folder, {"confidence": {"liver": 0.6}})


def test_old_bundles_stay_readable(folds: Path, scan: Volume) -> None:
    path = folds / "fold_0" / "best" / bundle.DESCRIPTION
    record = json.loads(path.read_text())
    for name in ("ranges", "thresholds", "training_augment"):
        del record[name]
    path.write_text(json.dumps(record))
    quality = ensemble.load([path.parent], device="cpu")(scan).quality
    assert quality is not None
    assert quality.ranges == "unknown"
    assert not {"QUA-02", "QUA-03"} & {flag.code for flag in quality.flags}
