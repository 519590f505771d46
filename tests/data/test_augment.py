import pickle

import numpy as np
import pytest
import torch

from voxelsam import config
from voxelsam.data import augment as module
from voxelsam.data.augment import Augment, AugmentConfig, Warp
from voxelsam.errors import ConfigError, InputError

SIZE = (64, 64)


@pytest.fixture(scope="module")
def warp():
    return Warp()


@pytest.fixture(scope="module")
def changes():
    return {name: Augment(AugmentConfig(preset=name)) for name in ("light", "ma_sam", "none")}


def letter(depth=5, size=SIZE):
    """A bright F away from the middle: no turn or flip maps it onto itself."""
    target = torch.zeros(depth, *size, dtype=torch.long)
    target[:, 14:46, 20:27] = 1
    target[:, 14:21, 20:42] = 2
    target[:, 28:34, 20:36] = 3
    images = (target > 0).float()[:, None].repeat(1, 3, 1, 1) * 0.8 + 0.1
    return images, target


def overlap(images, target):
    bright, marked = images[:, 0] > 0.45, target > 0
    return float((bright & marked).sum() / (bright | marked).sum())


@pytest.mark.parametrize("preset", ["light", "ma_sam"])
def test_same_seed_gives_the_same_result_in_any_order_and_instance(changes, preset):
    images, target = letter()
    first = [changes[preset](images, target, seed) for seed in range(6)]
    torch.rand(3)
    np.random.default_rng(0).random(3)
    other = pickle.loads(pickle.dumps(changes[preset]))  # noqa: S301 -- as worker processes get it
    for seed in reversed(range(6)):
        again = other(images, target, seed)
        assert torch.equal(again[0], first[seed][0])
        assert torch.equal(again[1], first[seed][1])


@pytest.mark.parametrize("preset", ["light", "ma_sam"])
def test_different_seeds_differ(changes, preset):
    images, target = letter()
    results = {changes[preset](images, target, seed)[0].numpy().tobytes() for seed in range(20)}
    assert len(results) >= 18


@pytest.mark.parametrize("preset", ["light", "ma_sam"])
def test_global_random_state_is_left_alone(changes, preset):
    images, target = letter()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    changes[preset](images, target, 1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("preset", ["light", "ma_sam"])
def test_range_labels_channels_shapes_and_input_are_kept(changes, preset):
    images, target = letter()
    images = (images + 0.1 * torch.rand(5, 1, *SIZE, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    kept = images.clone(), target.clone()
    for seed in range(40):
        image, mask = changes[preset](images, target, seed)
        assert image.shape == images.shape
        assert mask.shape == target.shape
        assert image.dtype == torch.float32
        assert mask.dtype == target.dtype
        assert image.min() >= 0
        assert image.max() <= 1
        assert set(mask.unique().tolist()) <= {0, 1, 2, 3}
        assert torch.equal(image[:, 0], image[:, 1])
        assert torch.equal(image[:, 0], image[:, 2])
    assert torch.equal(images, kept[0])
    assert torch.equal(target, kept[1])


def test_light_mask_follows_image_and_left_stays_left(changes):
    images, target = letter()
    for seed in range(40):
        image, mask = changes["light"](images, target, seed)
        assert overlap(image, mask) > 0.85
        columns = torch.nonzero(mask[0] == 3)[:, 1].float().mean() - torch.nonzero(mask[0] == 1)[:, 1].float().mean()
        assert columns > 3


def test_every_slice_gets_the_same_warp(changes):
    images, target = letter()
    for preset in ("light", "ma_sam"):
        for seed in range(10):
            mask = changes[preset](images, target, seed)[1]
            assert (mask == mask[:1]).all()


@pytest.mark.parametrize("preset", ["light", "ma_sam"])
def test_slices_that_are_not_square_and_single_slices_keep_their_size(changes, preset):
    images, target = letter(depth=1, size=(64, 80))
    for seed in range(20):
        image, mask = changes[preset](images, target, seed)
        assert image.shape == (1, 3, 64, 80)
        assert mask.shape == (1, 64, 80)


def test_ignored_pixels_stay_ignored(changes):
    images, target = letter()
    target = torch.where(target == 3, 255, target)
    for seed in range(10):
        assert set(changes["light"](images, target, seed)[1].unique().tolist()) <= {0, 1, 2, 255}


def test_none_changes_nothing(changes):
    images, target = letter()
    image, mask = changes["none"](images, target, 3)
    assert torch.equal(image, images)
    assert torch.equal(mask, target)


def test_strength_zero_of_light_moves_nothing():
    images, target = letter()
    change = Augment(AugmentConfig(strength=0))
    for seed in range(5):
        image, mask = change(images, target, seed)
        assert torch.allclose(image, images, atol=1e-5)
        assert torch.equal(mask, target)


# The operations, one by one


def test_rotation_turns_image_and_mask_about_the_middle(warp):
    images, target = letter()
    image, mask = warp(images, target, module.rotation(90), "nearest")
    turned = {turns: torch.rot90(target, turns, (1, 2)) for turns in (1, 3)}
    assert any(torch.equal(mask, wanted) for wanted in turned.values())
    assert torch.equal(image[:, 0] > 0.5, mask > 0)


@pytest.mark.parametrize(
    ("matrix", "low"),
    [
        (module.rotation(13), 0.9),
        (module.scaling(1.2), 0.9),
        (module.translation(5.3, -7.6), 0.9),
        (module.operation_matrix("shear_x", 0.3, SIZE), 0.9),
        (module.operation_matrix("shear_y", -0.2, SIZE), 0.9),
    ],
)
def test_mask_follows_image_through_any_warp(warp, matrix, low):
    images, target = letter()
    image, mask = warp(images, target, matrix)
    assert overlap(image, mask) > low
    assert not torch.equal(mask, target)


def test_translation_moves_down_and_right_and_leaves_background(warp):
    images, target = letter()
    image, mask = warp(images, target, module.translation(3, 5))
    assert torch.equal(mask[:, 3:, 5:], target[:, :-3, :-5])
    assert torch.allclose(image[:, :, 3:, 5:], images[:, :, :-3, :-5], atol=1e-5)
    assert (image[:, :, :3] == 0).all()
    assert (mask[:, :, :5] == 0).all()


@pytest.mark.parametrize(("name", "shift"), [("translate_x", (0, 0.125)), ("translate_y", (0.125, 0))])
def test_translations_are_shares_of_the_size(name, shift):
    wanted = module.translation(shift[0] * 64, shift[1] * 80)
    np.testing.assert_allclose(module.operation_matrix(name, 0.125, (64, 80)), wanted)


@pytest.mark.parametrize("name", ["scale", "shear_x", "shear_y"])
def test_shears_and_scale_hold_the_top_left_corner(name):
    matrix = module.operation_matrix(name, 0.8, (64, 80))
    corner = np.array([-32, -40, 1.0])
    np.testing.assert_allclose(matrix @ corner, corner)


def test_scale_above_one_enlarges(warp):
    images, target = letter()
    mask = warp(images, target, module.scaling(1.2))[1]
    assert (mask > 0).sum() / (target > 0).sum() == pytest.approx(1.44, rel=0.1)


def test_shear_x_moves_rows_along_columns_only(warp):
    images, target = letter()
    mask = warp(images, target, module.operation_matrix("shear_x", 0.25, SIZE))[1]
    assert torch.equal((mask[0] > 0).any(dim=1), (target[0] > 0).any(dim=1))
    assert not torch.equal((mask[0] > 0).any(dim=0), (target[0] > 0).any(dim=0))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_turn_and_flip_is_exact_and_always_mirrors(turns, axis):
    images, target = letter()
    image, mask = module.turn_and_flip(images, target, turns, axis)
    assert torch.equal(mask > 0, image[:, 0] > 0.5)
    assert not any(torch.equal(mask, torch.rot90(target, k, (1, 2))) for k in range(4))


def test_gamma_brightens_mid_greys_and_keeps_black_and_white():
    images = torch.tensor([0.0, 0.25, 1.0]).expand(1, 3, 1, 3)
    lifted = module.gamma_curve(images, 2.0)
    assert lifted[0, 0, 0].tolist() == pytest.approx([0, 0.5, 1], abs=1 / 255)
    assert torch.equal(lifted * 255, (lifted * 255).round())


def test_erase_puts_one_noisy_rectangle_into_all_slices():
    images, target = letter(size=(100, 120))
    for seed in range(20):
        image, mask = module.erase(images, target, np.random.default_rng(seed))
        changed = (image != images).any(dim=1).any(dim=0)
        rows, columns = torch.nonzero(changed.any(1)).flatten(), torch.nonzero(changed.any(0)).flatten()
        box = (int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1))
        assert 0.015 < box[0] * box[1] / 12000 < 0.055
        assert 0.25 < box[0] / box[1] < 3.8
        inside = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        assert (mask[inside] == 0).all()
        assert (image[inside] == image[inside][:1, :1]).all()
        outside = ~changed
        assert torch.equal(mask[:, outside], target[:, outside])


def test_posterise_keeps_the_upper_bits():
    images = (torch.arange(256) / 255).expand(1, 3, 1, 256)
    assert module.posterise(images, 4).unique().numel() == 16
    assert torch.allclose(module.posterise(images, 8), images)
    assert (module.posterise(images, 4) <= images).all()


def test_contrast_keeps_the_mean_and_stretches():
    images = torch.tensor([0.4, 0.6]).expand(1, 3, 1, 2)
    assert module.contrast(images, 1.3)[0, 0, 0].tolist() == pytest.approx([0.37, 0.63])
    assert module.contrast(images, 0.7)[0, 0, 0].tolist() == pytest.approx([0.43, 0.57])


def test_brightness_multiplies_and_clips():
    images = torch.tensor([0.0, 0.5, 0.9]).expand(1, 3, 1, 3)
    assert module.brightness(images, 1.3)[0, 0, 0].tolist() == pytest.approx([0, 0.65, 1])


def test_sharpness_is_identity_at_one_and_smooths_below():
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(module.sharpness(images, 1.0), images, atol=1e-6)
    smooth = module.sharpness(images, 0.1)
    assert smooth[..., 1:-1, 1:-1].std() < images[..., 1:-1, 1:-1].std() < module.sharpness(images, 1.9).std()
    assert torch.allclose(smooth[..., 0, :], images[..., 0, :], atol=1e-6)


def test_sharpness_weighs_the_middle_five_times():
    images = torch.zeros(1, 3, 3, 3)
    images[..., 1, 1] = 1
    assert module.sharpness(images, 0.0)[0, 0, 1, 1] == pytest.approx(5 / 13)


def test_two_warps_are_one_resampling(warp, monkeypatch):
    calls = []
    monkeypatch.setattr(warp, "_resample", lambda data, matrix, mode: calls.append(mode) or data)
    images, target = letter()
    module.two_operations(images, target, {"shear_x": 0.1, "translate_y": 0.1}, warp, SIZE)
    assert calls == ["bilinear", "nearest"]


def test_two_warps_happen_in_the_order_given(warp):
    images, target = letter()
    steps = {"scale": 0.8, "translate_x": 0.1}
    mask = module.two_operations(images, target, steps, warp, SIZE)[1]
    one, two = (module.operation_matrix(name, value, SIZE) for name, value in steps.items())
    by_hand = warp(*warp(images, target, one), two)[1]
    assert (mask != by_hand).float().mean() < 0.01
    other_way = warp(*warp(images, target, two), one)[1]
    assert (mask != other_way).float().mean() > 0.01


def test_ma_sam_draws_two_different_of_ten_operations_and_every_one_comes_up(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        module, "two_operations", lambda images, target, strengths, *rest: drawn.append(strengths) or (images, target)
    )
    change = Augment(AugmentConfig(preset="ma_sam"))
    images, target = letter(depth=1)
    for seed in range(150):
        change(images, target, seed)
    assert {len(strengths) for strengths in drawn} == {2}
    assert {name for strengths in drawn for name in strengths} == set(module.MA_SAM_RANGES)
    for strengths in drawn:
        for name, value in strengths.items():
            low, high = module.MA_SAM_RANGES[name]
            assert low <= value <= high


def test_ma_sam_does_each_optional_step_half_of_the_time(monkeypatch):
    done = []
    for name in ("turn_and_flip", "erase"):
        monkeypatch.setattr(module, name, lambda images, target, *_, name=name: done.append(name) or (images, target))
    monkeypatch.setattr(module, "gamma_curve", lambda images, gamma: done.append(f"gamma {gamma}") or images)
    monkeypatch.setattr(module, "two_operations", lambda images, target, *_: (images, target))
    monkeypatch.setattr(
        Warp, "__call__", lambda self, images, target, matrix, mode: done.append(mode) or (images, target)
    )
    change = Augment(AugmentConfig(preset="ma_sam"))
    images, target = letter(depth=1)
    for seed in range(300):
        change(images, target, seed)
    for name in ("turn_and_flip", "nearest", "gamma", "erase"):
        assert 110 < sum(step.startswith(name) for step in done) < 190
    gammas = [float(step.split()[1]) for step in done if step.startswith("gamma")]
    assert min(gammas) >= 0.5
    assert max(gammas) <= 3.5


# What is refused


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="no augmentation preset 'heavy'; there are: light, ma_sam, none"):
        AugmentConfig(preset="heavy")


@pytest.mark.parametrize("values", [{"preset": "heavy"}, {"flips": True}, {"strength": -1}])
def test_wrong_recipe_sections_are_refused(values):
    with pytest.raises(ConfigError):
        config.parse(AugmentConfig, values)


def test_recipe_section_survives_yaml():
    section = AugmentConfig(preset="light", strength=0.5)
    assert config.parse(AugmentConfig, config.plain(section)) == section


def test_published_list_has_no_strength():
    with pytest.raises(ConfigError, match="published"):
        AugmentConfig(preset="ma_sam", strength=0.5)


def test_mask_of_another_size_is_refused(changes):
    images, target = letter()
    with pytest.raises(InputError, match="depth height width"):
        changes["light"](images, target[:3], 0)
