import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelsam.space import Grid, resample, resample_labels

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def oblique(seed: int, spacing: tuple[float, float, float], shape: tuple[int, int, int], shear: float = 0) -> Grid:
    """A grid around the world's origin."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ (np.eye(3) + shear * np.eye(3, k=1)) * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


@quick
@given(seeds)
def test_a_linear_field_keeps_its_value_at_every_millimetre(seed: int) -> None:
    source = oblique(seed, (1, 1.5, 2), (40, 30, 24), shear=0.2)
    target = oblique(seed + 1, (0.9, 0.7, 0.3), (7, 8, 37))
    slope = np.random.default_rng(seed).normal(size=3)
    index = np.indices(source.shape).reshape(3, -1).T
    field = (source.to_world(index) @ slope).reshape(source.shape)
    seen = resample(np.stack([field, -field]), source, target)
    expected = target.to_world(np.indices(target.shape).reshape(3, -1).T) @ slope
    np.testing.assert_allclose(seen[0].ravel(), expected, atol=1e-3)
    np.testing.assert_allclose(seen[1].ravel(), -expected, atol=1e-3)


@quick
@given(seeds)
def test_each_target_voxel_takes_the_label_of_the_nearest_source_voxel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = oblique(seed, (1, 2, 3), (9, 8, 7), shear=0.3), oblique(seed + 1, (1.1, 1.3, 1.7), (8, 9, 10))
    labels = rng.integers(1, 60000, source.shape).astype(np.uint16)
    seen = resample_labels(labels, source, target, fill=9)
    places = source.to_index(target.to_world(np.indices(target.shape).reshape(3, -1).T))
    nearest = np.floor(places + 0.5).astype(int)
    inside = ((nearest >= 0) & (nearest < source.shape)).all(axis=1)
    expected = np.full(len(places), 9, np.uint16)
    expected[inside] = labels[tuple(nearest[inside].T)]
    np.testing.assert_array_equal(seen.ravel(), expected)
    assert seen.dtype == labels.dtype


def test_the_same_grid_gives_the_same_array() -> None:
    grid = oblique(3, (1, 2, 3), (5, 6, 7))
    data = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    np.testing.assert_allclose(resample(data, grid, grid), data, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_outside_the_source_is_the_fill_value_up_to_half_a_voxel_beyond(order: int) -> None:
    source = Grid((4, 4, 4), np.eye(4))
    beyond = np.eye(4)
    beyond[0, 3] = -3.4
    target = Grid((12, 4, 4), beyond)
    data = np.full((1, 4, 4, 4), 7, np.int16)
    seen = resample(data, source, target, order=order, fill=-1000.0)
    inside = np.abs(target.to_world(np.c_[np.arange(12), np.zeros((12, 2))])[:, 0] - 1.5) <= 2
    np.testing.assert_allclose(seen[0, inside], 7, atol=1e-5)
    assert (seen[0, ~inside] == -1000).all()
    assert inside.sum() == 4


def test_without_a_fill_value_the_lowest_of_each_channel_is_taken() -> None:
    source, target = Grid((4, 4, 4), np.eye(4)), Grid((9, 4, 4), np.eye(4))
    data = np.random.default_rng(0).uniform(-900, 900, (2, 4, 4, 4))
    seen = resample(data, source, target)
    for channel in (0, 1):
        np.testing.assert_allclose(seen[channel, 5:], data[channel].min(), rtol=1e-6)


def test_a_stripe_pattern_that_is_too_fine_turns_grey_and_not_into_other_stripes() -> None:
    source = Grid((120, 4, 4), np.eye(4))
    coarse = Grid((24, 4, 4), np.diag([4.9, 1, 1, 1]))
    stripes = np.broadcast_to((np.arange(120) % 5 < 2)[None, :, None, None], (1, 120, 4, 4)).astype(np.float32)
    assert np.ptp(resample(stripes, source, coarse)[0, 2:-2]) < 0.25
    assert np.ptp(resample(np.ones_like(stripes), source, coarse)) < 1e-6


def test_no_smoothing_where_voxels_stay_or_get_finer() -> None:
    source = Grid((9, 9, 9), np.eye(4))
    fine = Grid((17, 9, 9), np.diag([0.5, 1, 1, 1]))
    spike = np.zeros((1, 9, 9, 9), np.float32)
    spike[0, 4, 4, 4] = 1
    seen = resample(spike, source, fine)
    assert seen[0, 8, 4, 4] == pytest.approx(1)
    assert seen[0, 7, 4, 4] == pytest.approx(0.5)
    assert seen.sum() == pytest.approx(2)
