import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage

from voxelsam import config
from voxelsam.data import augment_grey as grey
from voxelsam.data import augment_ma_sam as paper
from voxelsam.data import augment_presets as presets
from voxelsam.data import augment_warp as places
from voxelsam.data.augment import Augment, AugmentConfig, flips
from voxelsam.data.augment_warp import Warp
from voxelsam.errors import ConfigError, InputError

SIZE = (64, 64)
PRESETS = ("light", "few", "ma_sam", "med_sa", "nnunet")


@pytest.fixture(scope="module")
def warp():
    return Warp()


@pytest.fixture(scope="module")
def changes():
    return {name: Augment(AugmentConfig(preset=name)) for name in (*PRESETS, "none")}


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


@pytest.mark.parametrize("preset", PRESETS)
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


@pytest.mark.parametrize("preset", PRESETS)
def test_different_seeds_differ(changes, preset):
    images, target = letter()
    results = {changes[preset](images, target, seed)[0].numpy().tobytes() for seed in range(20)}
    assert len(results) >= (9 if preset in ("med_sa", "nnunet") else 18)


@pytest.mark.parametrize("preset", PRESETS)
def test_global_random_state_is_left_alone(changes, preset):
    images, target = letter()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    changes[preset](images, target, 1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("preset", PRESETS)
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


@pytest.mark.parametrize("preset", ["light", "few"])
def test_left_stays_left_and_the_mask_follows_the_image(changes, preset):
    images, target = letter(depth=2)
    for seed in range(30):
        image, mask = changes[preset](images, target, seed)
        if preset == "light":
            assert overlap(image, mask) > 0.85
        columns = torch.nonzero(mask[0] == 3)[:, 1].float().mean() - torch.nonzero(mask[0] == 1)[:, 1].float().mean()
        assert columns > (3 if preset == "light" else 0)


def test_every_slice_gets_the_same_warp(changes):
    images, target = letter()
    for preset in PRESETS:
        for seed in range(10):
            mask = changes[preset](images, target, seed)[1]
            assert (mask == mask[:1]).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_slices_that_are_not_square_and_single_slices_keep_their_size(changes, preset):
    images, target = letter(depth=1, size=(64, 80))
    for seed in range(20):
        image, mask = changes[preset](images, target, seed)
        assert image.shape == (1, 3, 64, 80)
        assert mask.shape == (1, 64, 80)


GREY = ["contrast", "brightness", "gamma", "noisy", "shaded", "blurred", "coarse", "shifted", "multiplied", "stretched"]
GREY_OF_THE_PAPER = ["gamma_curve", "posterise", "contrast", "brightness", "sharpness"]


@pytest.fixture
def places_only(monkeypatch):
    """Grey values stay, and MONAI takes the nearest pixel for pictures, too: what is left is where pixels go."""
    for module, names in ((presets, GREY), (paper, GREY_OF_THE_PAPER)):
        for name in names:
            monkeypatch.setattr(module, name, lambda pictures, *_, **__: pictures)
    monkeypatch.setattr(paper, "erase", lambda pictures, target, _: (pictures, target))
    call = Warp.__call__

    def nearest(self, pictures, target, matrix, mode="bilinear", bend=None):
        grid = self._grid(tuple(target.shape[1:]), matrix, bend)
        moved = self._resample(pictures.flatten(0, 1), grid, "nearest").reshape(pictures.shape)
        return moved, call(self, pictures, target, matrix, "nearest", bend)[1]

    monkeypatch.setattr(Warp, "__call__", nearest)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_mask_painted_into_the_image_stays_the_mask(changes, places_only, preset, size):
    target = torch.randint(0, 6, (3, *size), generator=torch.Generator().manual_seed(1))
    moved = 0
    for seed in range(20):
        image, mask = changes[preset]((target / 5)[:, None].repeat(1, 3, 1, 1), target, seed)
        assert torch.equal((image[:, 0] * 5).round().long(), mask)
        moved += not torch.equal(mask, target)
    assert moved >= (2 if preset == "med_sa" else 8)


@pytest.mark.parametrize("preset", PRESETS)
def test_ignored_pixels_and_large_numbers_of_objects_survive(changes, preset):
    images, target = letter()
    target = torch.where(target == 3, 255, target)
    objects = target * (2**24 + 1)
    for seed in range(15):
        _, changed = changes[preset](images, torch.cat([target, objects, target[:1]]), seed)
        mask, numbers, single = changed[:5], changed[5:10], changed[10:]
        assert set(mask.unique().tolist()) <= {0, 1, 2, 255}
        assert (mask == 255).any()
        assert torch.equal(numbers, mask * (2**24 + 1))
        assert torch.equal(single, mask[:1])


@pytest.mark.parametrize("preset", PRESETS)
def test_colours_keep_apart_and_a_grey_stack_is_changed_as_if_it_had_colours(changes, preset):
    images, target = letter(depth=2)
    tint = images * torch.tensor([1, 1, 1 - 1e-6])[:, None, None]
    for seed in range(6):
        grey_result, mask = changes[preset](images, target, seed)
        tinted, same = changes[preset](tint, target, seed)
        assert torch.equal(mask, same)
        assert torch.allclose(grey_result, tinted, atol=0.02)


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


# What each list draws


def drawn(monkeypatch, preset, times=600, size=(48, 48), **options):
    """Arguments with which a preset calls each of its operations, over many seeds; nothing is changed."""
    calls = {name: [] for name in (*GREY, "rotation", "scaling", "shear", "translation", "mirrored", "waves", "turns")}

    def noted(name, result):
        def operation(*arguments, **more):
            calls[name].append((arguments[1:] if name in (*GREY, "mirrored", "turns") else arguments, more))
            return result(arguments)

        return operation

    for name in GREY:
        monkeypatch.setattr(presets, name, noted(name, lambda arguments: arguments[0]))
    for name in ("rotation", "scaling", "shear", "translation"):
        monkeypatch.setattr(presets, name, noted(name, lambda _: np.eye(3)))
    monkeypatch.setattr(presets, "waves", noted("waves", lambda _: None))
    monkeypatch.setattr(presets, "mirrored", noted("mirrored", lambda arguments: arguments[:2]))
    monkeypatch.setattr(presets, "quarter_turns", noted("turns", lambda arguments: arguments[:2]))
    monkeypatch.setattr(Warp, "__call__", lambda self, pictures, target, *_, **__: (pictures, target))
    change = Augment(AugmentConfig(preset, **options))
    images, target = torch.rand(1, 3, *size), torch.zeros(1, *size, dtype=torch.long)
    for seed in range(times):
        change(images, target, seed)
    return calls


def numbers(calls, place=0):
    return np.array([arguments[place] for arguments, _ in calls])


def fills(values, low, high):
    """Values lie in a range, and reach near both of its ends."""
    slack = 0.15 * (high - low)
    return low <= values.min() <= low + slack and high - slack <= values.max() <= high


@pytest.mark.parametrize(("size", "degrees"), [((48, 48), 180), ((32, 64), 15)])
def test_nnunet_draws_what_its_trainer_draws(monkeypatch, size, degrees):
    calls = drawn(monkeypatch, "nnunet", size=size)
    shares = {"rotation": 0.2, "scaling": 0.2, "noisy": 0.1, "blurred": 0.1, "multiplied": 0.15, "stretched": 0.15}
    for name, share in (shares | {"coarse": 0.125, "gamma": 0.4, "mirrored": 1.0}).items():
        assert len(calls[name]) / 600 == pytest.approx(share, abs=0.05), name
    assert fills(numbers(calls["rotation"]), -degrees, degrees)
    assert fills(1 / numbers(calls["scaling"]), 0.7, 1.4)
    assert fills(numbers(calls["noisy"]), 0, 0.1)
    assert fills(numbers(calls["blurred"]), 0.5, 1)
    assert fills(numbers(calls["multiplied"]), 0.75, 1.25)
    assert fills(numbers(calls["stretched"]), 0.75, 1.25)
    assert fills(numbers(calls["coarse"]), 0.5, 1)
    assert fills(numbers(calls["gamma"]), 0.7, 1.5)
    assert (numbers(calls["gamma"]) < 1).mean() == pytest.approx(0.5, abs=0.12)
    assert all(more["keep"] for _, more in calls["gamma"])
    assert sum(more.get("inverted", False) for _, more in calls["gamma"]) / 600 == pytest.approx(0.1, abs=0.05)
    assert set(numbers(calls["mirrored"], 1)) == {0, 1}


def test_nnunet_without_mirror_never_mirrors(monkeypatch):
    assert not drawn(monkeypatch, "nnunet", times=40, mirror=False)["mirrored"]


def test_med_sa_draws_what_its_pipeline_draws(monkeypatch):
    calls = drawn(monkeypatch, "med_sa")
    assert [int((numbers(calls["mirrored"], 1) == axis).sum()) / 600 for axis in (0, 1)] == pytest.approx(
        [0.1, 0.1], abs=0.05
    )
    assert len(calls["turns"]) / 600 == pytest.approx(0.1, abs=0.05)
    assert set(numbers(calls["turns"], 1)) == {1, 2, 3}
    assert len(calls["shifted"]) / 600 == pytest.approx(0.5, abs=0.08)
    assert fills(numbers(calls["shifted"]), -0.1, 0.1)
    change = Augment(AugmentConfig("med_sa"))
    assert np.mean([change.reverses(seed) for seed in range(1000)]) == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize(("preset", "degrees", "zoom"), [("light", 10, 0.1), ("few", 25, 0.3)])
@pytest.mark.parametrize("strength", [1, 0.5])
def test_light_and_few_draw_within_their_ranges_and_never_mirror(monkeypatch, preset, degrees, zoom, strength):
    calls = drawn(monkeypatch, preset, times=300, strength=strength)
    assert fills(numbers(calls["rotation"]), -degrees * strength, degrees * strength)
    assert fills(np.log(numbers(calls["scaling"])), -zoom * strength, zoom * strength)
    assert not calls["mirrored"]


def test_light_may_be_told_to_mirror(changes):
    images, target = letter(depth=1)
    change = Augment(AugmentConfig(mirror=True))
    mirrored = [change(images, target, seed)[1] for seed in range(24)]
    plain = [changes["light"](images, target, seed)[1] for seed in range(24)]
    flipped = [
        tuple(axis for axis in ((), (1,), (2,), (1, 2)) if torch.equal(one, other.flip(axis)))
        for one, other in zip(mirrored, plain, strict=True)
    ]
    assert {axes[0] for axes in flipped} == {(), (1,), (2,), (1, 2)}


@pytest.mark.parametrize("preset", ["light", "few", "none", "ma_sam"])
def test_no_other_list_reverses_the_slices(changes, preset):
    assert not any(changes[preset].reverses(seed) for seed in range(50))


@pytest.mark.parametrize(
    ("preset", "mirror", "axes"),
    [
        ("light", None, ()),
        ("few", None, ()),
        ("none", None, ()),
        ("ma_sam", None, (-2, -1)),
        ("med_sa", None, (-2, -1)),
        ("nnunet", None, (-2, -1)),
        ("nnunet", False, ()),
        ("few", True, (-2, -1)),
    ],
)
def test_flips_are_the_axes_that_training_has_flipped(preset, mirror, axes):
    assert flips(preset, mirror) == axes


# The operations, one by one


@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_a_warp_is_the_one_of_scipy(warp, size):
    pictures = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    matrix = places.rotation(12) @ places.scaling(1.1) @ places.shear(0.1, -0.2) @ places.translation(3.3, -4.6)
    image, _ = warp(pictures, torch.zeros(2, *size, dtype=torch.long), matrix)
    middle = (np.array(size) - 1) / 2
    offset = matrix[:2, 2] + middle - matrix[:2, :2] @ middle
    for result, original in zip(image[:, 0], pictures[:, 0], strict=True):
        expected = ndimage.affine_transform(original.numpy(), matrix[:2, :2], offset, order=1)
        inside = ndimage.affine_transform(np.ones(size), matrix[:2, :2], offset, order=1) > 0.999
        assert inside.mean() > 0.5
        np.testing.assert_allclose(result.numpy()[inside], expected[inside], atol=1e-4)


def test_a_bend_moves_image_and_mask_by_so_many_pixels(warp):
    images, target = letter()
    bend = torch.zeros(2, *SIZE)
    bend[0, :, 32:], bend[1, :, 32:] = 4, -7
    image, mask = warp(images, target, np.eye(3), "nearest", bend)
    assert torch.equal(mask[:, :, :32], target[:, :, :32])
    assert torch.equal(mask[:, :-4, 32:], target[:, 4:, 25:-7])
    assert torch.equal(image[:, 0] > 0.5, mask > 0)


def test_waves_are_smooth_and_as_large_as_asked():
    bend = places.waves((80, 120), np.random.default_rng(0), 0.02)
    assert bend.shape == (2, 80, 120)
    assert 1 < bend.std() < 4
    assert (bend[:, 1:] - bend[:, :-1]).abs().max() < 1.5


def test_noise_is_that_of_its_seed_and_the_same_in_every_channel():
    values = torch.zeros(4, 3, 32, 40)
    first, again, other = grey.noisy(values, 0.2, 1), grey.noisy(values, 0.2, 1), grey.noisy(values, 0.2, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, 0], first[:, 2])
    assert not torch.equal(first[0], first[1])
    assert first.std() == pytest.approx(0.2, rel=0.1)


def test_gamma_is_a_power_between_smallest_and_largest():
    values = torch.tensor([2.0, 3.0, 4.0, 6.0]).expand(1, 1, 1, 4)
    assert grey.gamma(values, 2)[0, 0, 0].tolist() == pytest.approx([2, 2.25, 3, 6], abs=1e-4)
    assert grey.gamma(values, 2, inverted=True)[0, 0, 0].tolist() == pytest.approx([2, 3.75, 5, 6], abs=1e-4)
    kept = grey.gamma(values, 2, keep=True)
    assert (float(kept.mean()), float(kept.std())) == pytest.approx((3.75, float(values.std())), abs=1e-4)


def test_blur_and_coarse_pixels_smooth_within_slices_only():
    values = torch.zeros(3, 1, 33, 41)
    values[1, 0, 16, 20] = 1
    smooth = grey.blurred(values, 1.0)
    assert smooth[[0, 2]].abs().max() == 0
    assert smooth[1].sum() == pytest.approx(1, abs=1e-3)
    assert smooth[1, 0, 16, 20] == pytest.approx(1 / (2 * np.pi), abs=0.02)
    lines = (torch.arange(40) % 2).float().expand(2, 1, 40, 40)
    assert grey.coarse(lines, 0.5).std() < 0.1 < lines.std()
    assert torch.equal(grey.coarse(lines, 1.0), lines)


def test_shade_is_smooth_the_same_in_all_slices_and_small_for_small_reach():
    flat = torch.full((2, 1, 40, 50), 0.5)
    shade = grey.shaded(flat, 0.1, 3)
    assert torch.equal(shade[0], shade[1])
    assert 0.005 < shade.std() < 0.2
    assert (shade[..., 1:] - shade[..., :-1]).abs().max() < 0.05
    assert torch.allclose(grey.shaded(flat, 0.0, 3), flat)


def test_a_flat_stack_stays_finite():
    images, target = torch.full((2, 3, 32, 32), 0.3), torch.zeros(2, 32, 32, dtype=torch.long)
    for seed in range(30):
        image, _ = Augment(AugmentConfig("nnunet"))(images, target, seed)
        assert torch.isfinite(image).all()


def test_rotation_turns_image_and_mask_about_the_middle(warp):
    images, target = letter()
    image, mask = warp(images, target, places.rotation(90), "nearest")
    turned = {turns: torch.rot90(target, turns, (1, 2)) for turns in (1, 3)}
    assert any(torch.equal(mask, wanted) for wanted in turned.values())
    assert torch.equal(image[:, 0] > 0.5, mask > 0)


@pytest.mark.parametrize(
    ("matrix", "low"),
    [
        (places.rotation(13), 0.9),
        (places.scaling(1.2), 0.9),
        (places.translation(5.3, -7.6), 0.9),
        (paper.operation_matrix("shear_x", 0.3, SIZE), 0.9),
        (paper.operation_matrix("shear_y", -0.2, SIZE), 0.9),
    ],
)
def test_mask_follows_image_through_any_warp(warp, matrix, low):
    images, target = letter()
    image, mask = warp(images, target, matrix)
    assert overlap(image, mask) > low
    assert not torch.equal(mask, target)


def test_translation_moves_down_and_right_and_leaves_background(warp):
    images, target = letter()
    image, mask = warp(images, target, places.translation(3, 5))
    assert torch.equal(mask[:, 3:, 5:], target[:, :-3, :-5])
    assert torch.allclose(image[:, :, 3:, 5:], images[:, :, :-3, :-5], atol=1e-5)
    assert (image[:, :, :3] == 0).all()
    assert (mask[:, :, :5] == 0).all()


@pytest.mark.parametrize(("name", "shift"), [("translate_x", (0, 0.125)), ("translate_y", (0.125, 0))])
def test_translations_are_shares_of_the_size(name, shift):
    wanted = places.translation(shift[0] * 64, shift[1] * 80)
    np.testing.assert_allclose(paper.operation_matrix(name, 0.125, (64, 80)), wanted)


@pytest.mark.parametrize("name", ["scale", "shear_x", "shear_y"])
def test_shears_and_scale_hold_the_top_left_corner(name):
    matrix = paper.operation_matrix(name, 0.8, (64, 80))
    corner = np.array([-32, -40, 1.0])
    np.testing.assert_allclose(matrix @ corner, corner)


def test_scale_above_one_enlarges(warp):
    images, target = letter()
    mask = warp(images, target, places.scaling(1.2))[1]
    assert (mask > 0).sum() / (target > 0).sum() == pytest.approx(1.44, rel=0.1)


def test_shear_x_moves_rows_along_columns_only(warp):
    images, target = letter()
    mask = warp(images, target, paper.operation_matrix("shear_x", 0.25, SIZE))[1]
    assert torch.equal((mask[0] > 0).any(dim=1), (target[0] > 0).any(dim=1))
    assert not torch.equal((mask[0] > 0).any(dim=0), (target[0] > 0).any(dim=0))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_turn_and_flip_is_exact_and_always_mirrors(turns, axis):
    images, target = letter()
    image, mask = paper.turn_and_flip(images, target, turns, axis)
    assert torch.equal(mask > 0, image[:, 0] > 0.5)
    assert not any(torch.equal(mask, torch.rot90(target, k, (1, 2))) for k in range(4))


def test_gamma_brightens_mid_greys_and_keeps_black_and_white():
    images = torch.tensor([0.0, 0.25, 1.0]).expand(1, 3, 1, 3)
    lifted = grey.gamma_curve(images, 2.0)
    assert lifted[0, 0, 0].tolist() == pytest.approx([0, 0.5, 1], abs=1 / 255)
    assert torch.equal(lifted * 255, (lifted * 255).round())


def test_erase_puts_one_noisy_rectangle_into_all_slices():
    images, target = letter(size=(100, 120))
    for seed in range(20):
        image, mask = grey.erase(images, target, np.random.default_rng(seed))
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
    assert grey.posterise(images, 4).unique().numel() == 16
    assert torch.allclose(grey.posterise(images, 8), images)
    assert (grey.posterise(images, 4) <= images).all()


def test_contrast_keeps_the_mean_and_stretches():
    images = torch.tensor([0.4, 0.6]).expand(1, 3, 1, 2)
    assert grey.contrast(images, 1.3)[0, 0, 0].tolist() == pytest.approx([0.37, 0.63])
    assert grey.contrast(images, 0.7)[0, 0, 0].tolist() == pytest.approx([0.43, 0.57])


def test_brightness_multiplies_and_clips():
    images = torch.tensor([0.0, 0.5, 0.9]).expand(1, 3, 1, 3)
    assert grey.brightness(images, 1.3)[0, 0, 0].tolist() == pytest.approx([0, 0.65, 1])


def test_sharpness_is_identity_at_one_and_smooths_below():
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grey.sharpness(images, 1.0), images, atol=1e-6)
    smooth = grey.sharpness(images, 0.1)
    assert smooth[..., 1:-1, 1:-1].std() < images[..., 1:-1, 1:-1].std() < grey.sharpness(images, 1.9).std()
    assert torch.allclose(smooth[..., 0, :], images[..., 0, :], atol=1e-6)


def test_sharpness_weighs_the_middle_five_times():
    images = torch.zeros(1, 3, 3, 3)
    images[..., 1, 1] = 1
    assert grey.sharpness(images, 0.0)[0, 0, 1, 1] == pytest.approx(5 / 13)


def test_two_warps_are_one_resampling(warp, monkeypatch):
    calls = []
    monkeypatch.setattr(warp, "_resample", lambda data, grid, mode: calls.append(mode) or data)
    images, target = letter()
    paper.two_operations(images, target, {"shear_x": 0.1, "translate_y": 0.1}, warp, SIZE)
    assert sorted(calls) == ["bilinear", "nearest"]


def test_two_warps_happen_in_the_order_given(warp):
    images, target = letter()
    steps = {"scale": 0.8, "translate_x": 0.1}
    mask = paper.two_operations(images, target, steps, warp, SIZE)[1]
    one, two = (paper.operation_matrix(name, value, SIZE) for name, value in steps.items())
    by_hand = warp(*warp(images, target, one), two)[1]
    assert (mask != by_hand).float().mean() < 0.01
    other_way = warp(*warp(images, target, two), one)[1]
    assert (mask != other_way).float().mean() > 0.01


def test_ma_sam_draws_two_different_of_ten_operations_and_every_one_comes_up(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        paper, "two_operations", lambda images, target, strengths, *rest: drawn.append(strengths) or (images, target)
    )
    change = Augment(AugmentConfig(preset="ma_sam"))
    images, target = letter(depth=1)
    for seed in range(150):
        change(images, target, seed)
    assert {len(strengths) for strengths in drawn} == {2}
    assert {name for strengths in drawn for name in strengths} == set(paper.RANGES)
    for strengths in drawn:
        for name, value in strengths.items():
            low, high = paper.RANGES[name]
            assert low <= value <= high


def test_ma_sam_does_each_optional_step_half_of_the_time(monkeypatch):
    done = []
    for name in ("turn_and_flip", "erase"):
        monkeypatch.setattr(paper, name, lambda images, target, *_, name=name: done.append(name) or (images, target))
    monkeypatch.setattr(paper, "gamma_curve", lambda images, gamma: done.append(f"gamma {gamma}") or images)
    monkeypatch.setattr(paper, "two_operations", lambda images, target, *_: (images, target))
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
    with pytest.raises(
        ConfigError, match="no augmentation preset 'heavy'; there are: light, few, ma_sam, med_sa, nnunet, none"
    ):
        AugmentConfig(preset="heavy")


@pytest.mark.parametrize("values", [{"preset": "heavy"}, {"flips": True}, {"strength": -1}])
def test_wrong_recipe_sections_are_refused(values):
    with pytest.raises(ConfigError):
        config.parse(AugmentConfig, values)


def test_recipe_section_survives_yaml():
    section = AugmentConfig(preset="light", strength=0.5)
    assert config.parse(AugmentConfig, config.plain(section)) == section


@pytest.mark.parametrize("preset", ["ma_sam", "med_sa", "nnunet"])
def test_published_list_has_no_strength(preset):
    with pytest.raises(ConfigError, match=f"{preset} is a published list"):
        AugmentConfig(preset=preset, strength=0.5)


@pytest.mark.parametrize("preset", ["ma_sam", "med_sa", "none"])
def test_mirror_is_no_choice_of_a_list_that_is_what_it_is(preset):
    with pytest.raises(ConfigError, match=f"mirror cannot be chosen with the preset {preset}"):
        AugmentConfig(preset=preset, mirror=False)


def test_mask_of_another_size_is_refused(changes):
    images, target = letter()
    with pytest.raises(InputError, match="depth height width"):
        changes["light"](images, target[:3], 0)
