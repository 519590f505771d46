"""How far a mask can be trusted: numbers as defined, flags where they belong, and a mask that never changes."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from voxelsam.bundle import Bundle, PromptsLearnt
from voxelsam.infer.predictor import Predictor
from voxelsam.infer.quality import DEFAULTS, FIELDS, Quality, Tally
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.space.grid import Grid
from voxelsam.stacks.ranges import Ranges, look, measure
from voxelsam.volumes.volume import Volume

LABELS = {"background": 0, "disc": 1}
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


def discs(seed: int, slices: int = 6, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A scan of one bright disc per slice on a dark noisy ground, and its mask."""
    random = np.random.default_rng(seed)
    i, j = np.mgrid[:size, :size]
    middle, radius = random.uniform(12, 20, 2), random.uniform(6, 9)
    mask = np.broadcast_to((np.hypot(i - middle[0], j - middle[1]) < radius)[..., None], (size, size, slices))
    data = np.where(mask, 120.0, -20.0) + random.normal(0, 15, mask.shape)
    return data.astype(np.float32), mask


def volume(data: np.ndarray, affine: np.ndarray = AFFINE) -> Volume:
    return Volume(data[None], Grid(data.shape, affine), "CT")


@pytest.fixture(scope="module")
def able(learnt: Callable[..., Bundle]) -> Predictor:
    """A tiny model that has learnt to find discs, in a few steps; it knows what its training scans were like."""
    made = learnt(kinds=(), quality=False, labels=LABELS)
    segmenter: Segmenter = made.segmenter()
    images, masks = zip(*(discs(seed) for seed in range(8)), strict=True)
    stacks = torch.from_numpy(np.stack(images)).clip(-100, 200).add(100).div(300)[..., :3].permute(0, 3, 2, 1)
    target = torch.from_numpy(np.stack(masks).astype(int))[..., :3].permute(0, 3, 2, 1)
    optimiser = torch.optim.Adam(segmenter.adaptation.parameters(), 3e-3)
    torch.manual_seed(0)
    for _ in range(40):
        logits = segmenter(stacks[:, :, None].repeat(1, 1, 3, 1, 1)).flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(0, 1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3
    known = made.description
    looks = [look(volume(d).grid, measure(d[None]), known.stack.plane, known.intensity) for d in images]
    volumes = [{"disc": float(mask.sum()) * 16 / 1000} for mask in masks]
    tensors = {name: tensor.detach().clone() for name, tensor in segmenter.adaptation.state_dict().items()}
    described = replace(known, ranges=Ranges.of(looks, volumes))
    kept = {name: tensor for name, tensor in tensors.items() if name in made.tensors}
    lent = tuple(name for name in known.from_backbone if torch.equal(tensors[name], _lent(segmenter, name)))
    kept |= {name: tensors[name] for name in known.from_backbone if name not in lent}
    return Predictor(Bundle(replace(described, from_backbone=lent), kept), device="cpu")


def _lent(segmenter: Segmenter, name: str) -> Tensor:
    part, _, rest = name.partition(".")
    module = {"decoder": segmenter.backbone.mask_decoder, "prompt_encoder": segmenter.backbone.prompt_encoder}[part]
    return module.state_dict()[rest]


def quality_of(predictor: Predictor, scan: Volume) -> Quality:
    quality = predictor(scan).quality
    assert quality is not None
    return quality


def codes(quality: Quality) -> set[str]:
    return {flag.code for flag in quality.flags}


def test_a_scan_like_those_of_training_has_no_flag(able: Predictor) -> None:
    data, mask = discs(77)
    prediction = able(volume(data))
    found = prediction.labels.data == 1
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.8
    assert prediction.quality is not None
    assert prediction.quality.flags == ()
    assert prediction.quality.ranges == "known"


def test_noise_lowers_confidence(able: Predictor) -> None:
    data, _ = discs(77)
    noise = np.random.default_rng(1).normal(0, 150, data.shape).astype(np.float32)
    clean, corrupted = (quality_of(able, volume(scan)).structures["disc"] for scan in (data, data + noise))
    assert clean.confidence is not None
    assert clean.expected_dice is not None
    assert corrupted.confidence is None or corrupted.confidence < clean.confidence - 0.02
    assert corrupted.expected_dice is None or corrupted.expected_dice < clean.expected_dice - 0.05


def test_a_spacing_outside_is_flagged(able: Predictor) -> None:
    data, _ = discs(77)
    far = quality_of(able, volume(data, np.diag([2.0, 2.0, 12.0, 1.0])))
    assert [flag.about for flag in far.flags if flag.code == "QUA-02"] == ["spacing of slices"]
    near = quality_of(able, volume(data, np.diag([2.0, 2.0, 5.0, 1.0])))
    assert "QUA-02" not in codes(near)


def test_other_units_are_flagged(able: Predictor) -> None:
    data, _ = discs(77)
    assert "intensities of CT" in {flag.about for flag in quality_of(able, volume(data + 1000)).flags}


def test_a_missing_structure_is_flagged(able: Predictor) -> None:
    quality = quality_of(able, volume(discs(77)[0] * 0 - 20))
    (flag,) = [flag for flag in quality.flags if flag.code == "QUA-03"]
    assert flag.structure == "disc"
    assert "absent" in flag.message
    assert quality.structures["disc"].confidence is None


def test_flags_change_no_mask(able: Predictor) -> None:
    scan = volume(discs(77)[0], np.diag([2.0, 2.0, 12.0, 1.0]))
    strict = replace(able.bundle.description, thresholds={"confidence": {"disc": 1.1}}, ranges=None)
    other = Predictor(replace(able.bundle, description=strict), device="cpu")
    assert codes(quality_of(able, scan)) != codes(quality_of(other, scan))
    assert np.array_equal(able(scan).labels.data, other(scan).labels.data)


def test_thresholds_of_validation_go_before_defaults(able: Predictor) -> None:
    scan = volume(discs(77)[0])
    value = quality_of(able, scan).structures["disc"].confidence
    assert value is not None
    for step, flagged in ((0.01, True), (-0.01, False)):
        known = replace(able.bundle.description, thresholds={"confidence": {"disc": value + step}})
        quality = quality_of(Predictor(replace(able.bundle, description=known), device="cpu"), scan)
        assert ("QUA-01" in codes(quality)) is flagged
        assert quality.thresholds["confidence"] == "validation"
        assert quality.thresholds["expected_dice"] == "default"


def test_volumes_are_those_of_the_final_mask(able: Predictor) -> None:
    prediction = able(volume(discs(77)[0]))
    assert prediction.quality is not None
    millilitres = (prediction.labels.data == 1).sum() * 16 / 1000
    assert prediction.quality.structures["disc"].volume_ml == pytest.approx(millilitres)


def test_rows_have_the_columns(able: Predictor) -> None:
    rows = quality_of(able, volume(discs(77)[0], np.diag([2.0, 2.0, 12.0, 1.0]))).rows("a")
    assert all(set(row) == set(FIELDS) for row in rows)
    assert [row["structure"] for row in rows] == ["disc", ""]
    assert "QUA-02 spacing of slices" in rows[-1]["flags"]


# The sums, by hand


def tallied(*slices: Tensor) -> dict[str, float | None]:
    """Of slices ``views classes height width``."""
    tally = Tally(slices[0].shape[1], len(slices[0]))
    for views in slices:
        mean = views.mean(0)
        tally.add(views, mean, mean.amax(0), mean.argmax(0).to(torch.uint8).numpy())
    return vars(tally.structures([None], ["disc"])["disc"])


def maps(*foreground: list[float]) -> Tensor:
    inside = torch.tensor(foreground)[:, None, None, :]
    return torch.cat([1 - inside, inside], 1)


def test_confidence_and_expected_dice_by_hand() -> None:
    found = tallied(maps([0.9, 0.7, 0.2, 0.0]), maps([0.8, 0.1, 0.1, 0.0]))
    assert found["confidence"] == pytest.approx((0.9 + 0.7 + 0.8) / 3)
    assert found["expected_dice"] == pytest.approx(2 * 2.4 / (2.8 + 3))
    assert found["agreement"] is None


def test_agreement_is_the_mean_dice_of_pairs() -> None:
    found = tallied(maps([0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.9]))
    assert found["agreement"] == pytest.approx(np.mean([2 / 3, 4 / 5, 2 / 4]))


def test_an_absent_structure_has_no_numbers_but_views_may_disagree() -> None:
    assert set(tallied(maps([0.1, 0.2]), maps([0.3, 0.1])).values()) == {None}
    found = tallied(maps([0.9, 0.1], [0.05, 0.1], [0.05, 0.1]))
    assert found["confidence"] is None
    assert found["agreement"] == 0


def test_a_sure_mask_is_expected_to_be_right() -> None:
    found = tallied(maps([1.0, 1.0, 0.0]))
    assert found["confidence"] == found["expected_dice"] == 1


def test_predicted_iou_is_only_there_where_it_was_learnt(learnt: Callable[..., Bundle]) -> None:
    scan = volume(discs(3)[0])
    without, with_ = (
        quality_of(Predictor(learnt(quality=quality, labels=LABELS), device="cpu"), scan) for quality in (False, True)
    )
    assert without.structures["disc"].predicted_iou is None
    assert with_.structures["disc"].confidence == without.structures["disc"].confidence
    assert "predicted_iou" not in DEFAULTS
    assert "predicted_iou" not in {flag.about for flag in with_.flags}


def test_predicted_iou_is_weighted_by_area(learnt: Callable[..., Bundle]) -> None:
    """A network whose estimate is the slice's brightness: the mean over slices counts each by its area."""
    made = learnt(labels=LABELS)
    known = replace(
        made.description, stack=replace(made.description.stack, depth=1), prompts=PromptsLearnt(quality=True)
    )
    predictor = Predictor(replace(made, description=known), device="cpu")

    class Spoken:
        def embed(self, images: Tensor) -> Tensor:
            return images

        def encode_embedded(self, embedded: Tensor) -> Tensor:
            return embedded.flatten(0, 1)

        def decode(self, features: Tensor, prompts: None) -> Scores:
            inside = (features[:, :1] > 0.1).float() * 20 - 10
            return Scores(
                torch.cat([torch.zeros_like(inside), inside], 1), features.amax((1, 2, 3))[:, None].repeat(1, 2)
            )

    predictor.segmenter = Spoken()  # type: ignore[assignment]
    data = np.full((32, 32, 2), -100, np.float32)
    data[:16, :, 0], data[:4, :, 1] = 50, 200
    said = quality_of(predictor, volume(data)).structures["disc"].predicted_iou
    assert said is not None
    assert math.isclose(said, (16 * 0.5 + 4 * 1.0) / 20, abs_tol=0.01)
