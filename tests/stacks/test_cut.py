import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelsam.errors import InputError
from voxelsam.space import Grid
from voxelsam.stacks import (
    CT_ABDOMEN,
    Intensity,
    Merger,
    Scale,
    StackBatch,
    StackPlan,
    cut,
    cut_labels,
    frame_to_model,
    scores_to_slice,
)

quick = settings(max_examples=25, deadline=None)
UNIT = Scale((0.0,), (1.0,))


def volume(channels: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (channels, *shape)).astype(np.float32)


@pytest.mark.parametrize("start", [-2, 0, 3, 5])
def test_a_slice_lies_with_i_to_the_right_and_j_downwards(start: int) -> None:
    data = volume(1, (6, 4, 7))
    plan = StackPlan(depth=5, size=(4, 6))
    stack = cut(data, plan, start, UNIT)
    for place, index in enumerate(plan.slices(start, 7)):
        for channel in (0, 1, 2):
            np.testing.assert_allclose(stack[place, channel], data[0, :, :, index].T, atol=1e-6)


def test_the_result_is_ready_for_batching() -> None:
    stack = cut(volume(1, (20, 12, 3)), StackPlan(depth=4, size=(32, 48)), -1, UNIT)
    assert stack.shape == (4, 3, 32, 48)
    assert stack.dtype == torch.float32
    assert stack.is_contiguous()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2"])
def test_any_type_and_any_strides_are_cut(dtype: str) -> None:
    data = np.random.default_rng(0).integers(0, 100, (1, 9, 8, 7)).astype(dtype)
    plan, scale = StackPlan(depth=3, size=(8, 8)), Scale((0.0,), (100.0,))
    expected = cut(np.ascontiguousarray(data[:, ::-1, :, ::-1]), plan, 1, scale)
    assert torch.equal(cut(data[:, ::-1, :, ::-1], plan, 1, scale), expected)
    labels = data[0].astype(np.uint16)
    plain = cut_labels(np.ascontiguousarray(labels[::-1]), plan, 1)
    assert torch.equal(cut_labels(labels[::-1], plan, 1), plain)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("scope", ["volume", "stack"])
def test_pictures_are_zero_to_one_and_the_padding_is_zero(interpolation: str, scope: str) -> None:
    data = np.full((1, 17, 31, 6), 100.0)
    data[0, 5:12, 8:20, 2:] = 200
    plan = StackPlan(depth=3, size=(64, 64), interpolation=interpolation)  # type: ignore[arg-type]
    scale = Scale((100.0,), (200.0,), scope)  # type: ignore[arg-type]
    stack = cut(data, plan, 1, scale)
    frame = plan.frame((31, 17))
    inside = stack[..., *frame.inside]
    assert inside.max() == pytest.approx(1)
    assert inside.max() <= 1
    assert inside.min() == 0
    assert (stack[..., frame.content[1] :] == 0).all()
    assert frame.pad == (0, 29, 0, 0)


def test_padding_does_not_take_part_in_the_stretching_of_a_stack() -> None:
    data = volume(1, (10, 20, 4)) * 50 + 500
    scale = Scale((0.0,), (1000.0,), "stack")
    square, padded = StackPlan(depth=3, size=(40, 20)), StackPlan(depth=3, size=(40, 40))
    assert torch.equal(cut(data, padded, 0, scale)[..., :20], cut(data, square, 0, scale))


def test_released_scaling_is_per_stack_after_the_window() -> None:
    data = np.random.default_rng(0).integers(-400, 400, (1, 8, 8, 9)).astype(np.int16)
    data[..., 6:] //= 8
    plan = StackPlan(depth=3, size=(8, 8))
    scale = replace(CT_ABDOMEN, scope="stack").measure(data)
    for start in plan.starts(9):
        window = np.clip(data[0][..., list(plan.slices(start, 9))].transpose(2, 1, 0).astype(float), -200, 250)
        expected = (window - window.min()) / (window.max() - window.min())
        np.testing.assert_allclose(cut(data, plan, start, scale)[:, 0], expected, atol=1e-6)


def test_a_constant_stack_of_a_lively_volume_is_zero() -> None:
    data = volume(1, (8, 8, 9))
    data[..., :5] = 0.5
    stack = cut(data, StackPlan(depth=3, size=(16, 16)), 1, Scale((0.0,), (1.0,), "stack"))
    assert (stack == 0).all()


def test_colour_channels_stay_apart() -> None:
    data = volume(3, (9, 7, 2))
    stack = cut(data, StackPlan(depth=1, size=(7, 9), channels="rgb"), 1, Scale((0.0,) * 3, (1.0,) * 3))
    np.testing.assert_allclose(stack[0], data[..., 1].transpose(0, 2, 1), atol=1e-6)


def test_the_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(InputError, match="rule channels='copy'"):
        cut(volume(2, (4, 4, 4)), StackPlan(size=(4, 4)), 0, Scale((0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(InputError, match="1 channels were measured"):
        cut(volume(2, (4, 4, 4)), StackPlan(size=(4, 4)), 0, UNIT)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_labels_lie_on_the_pictures(fit: str, interpolation: str) -> None:
    data = np.zeros((1, 40, 30, 5), np.float32)
    data[0, 8:21, 12:26, 1:4] = 1
    plan = StackPlan(depth=5, size=(96, 80), fit=fit, interpolation=interpolation)  # type: ignore[arg-type]
    labels = cut_labels((data[0] * 3).astype(np.uint8), plan, -1)
    images = cut(data, plan, -1, UNIT)[:, 0]
    assert labels.dtype == torch.int64
    assert labels.shape == images.shape
    assert set(labels.unique().tolist()) == {0, 3}
    assert ((images > 0.5) == (labels == 3)).float().mean() > 0.98
    assert (images[labels == 3] > 0.24).all()


def test_only_the_slices_of_the_stack_are_copied() -> None:
    data = np.zeros((1, 64, 64, 400), np.int16)
    plan, scale = StackPlan(depth=3, size=(64, 64)), CT_ABDOMEN.measure(data)
    cut(data, plan, 5, scale)
    tracemalloc.start()
    cut(data[:, ::-1], plan, 5, scale)
    cut_labels(data[0], plan, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < data.nbytes / 5


@quick
@given(st.integers(1, 7), st.data())
def test_cut_and_merge_is_the_identity_when_sizes_agree(depth: int, data: st.DataObject) -> None:
    stride, slices = data.draw(st.integers(1, depth)), data.draw(st.integers(1, 12))
    edge, weights = data.draw(st.sampled_from(["repeat", "reflect"])), data.draw(st.sampled_from(["mean", "hann"]))
    plan = StackPlan(depth=depth, stride=stride, size=(5, 6), edge=edge)
    source = volume(1, (6, 5, slices), seed=depth)
    merger = Merger(slices, plan, weights)
    merged = {}
    for start in plan.starts(slices):
        merger.add(start, cut(source, plan, start, UNIT))
        merged.update(merger.done())
    assert list(merged) == list(range(slices))
    for index, scores in merged.items():
        np.testing.assert_allclose(scores[0], source[0, :, :, index].T, atol=1e-6)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_cut_resized_and_merged_is_close(fit: str) -> None:
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in (50, 36, 9)), indexing="ij")
    source = (0.5 + np.sin(5 * x + 3 * y + z) / 2)[None]
    plan = StackPlan(depth=4, stride=2, size=(64, 64), fit=fit)  # type: ignore[arg-type]
    merger = Merger(9, plan)
    for start in plan.starts(9):
        merger.add(start, scores_to_slice(cut(source, plan, start, UNIT), plan.frame((36, 50))))
    for index, scores in merger.done():
        np.testing.assert_allclose(scores[0], source[0, :, :, index].T, atol=0.03)


def test_a_landmark_in_millimetres_lands_on_its_model_pixel() -> None:
    affine = np.array([[0, -0.7, 0.1, 20], [0.6, 0, 0.3, -50], [-0.05, 0.1, -3, 90], [0, 0, 0, 1]])
    grid = Grid((50, 60, 9), affine)
    voxel = np.array([[20, 33, 4]])
    data = np.zeros((1, *grid.shape), np.float32)
    data[0, 18:23, 31:36, 4] = 1
    plan = StackPlan(depth=3, size=(128, 96))
    place = plan.placement(grid)
    brought = place.bring(data)
    frame = plan.frame((brought.shape[2], brought.shape[1]))
    i, j, k = place.target.to_index(grid.to_world(voxel))[0]
    x, y = frame.to_model(np.array([[i, j]]))[0]
    picture = cut(brought, plan, round(k) - 1, UNIT)[1, 0]
    rows, columns = (picture > 0.5).nonzero(as_tuple=True)
    assert abs(rows.double().mean().item() - y) < 0.5
    assert abs(columns.double().mean().item() - x) < 0.5


def test_published_mr_preparation_is_scaled_resized_and_only_then_stretched() -> None:
    data = np.random.default_rng(0).gamma(2, 40, (1, 12, 10, 3))
    plan = StackPlan(depth=3, size=(32, 32), fit="stretch", interpolation="cubic")
    scale = Intensity("percentile", scope="stack", low=0.0, high=99.0).measure(data)
    pictures = torch.from_numpy(np.ascontiguousarray(scale.apply(data)[0].transpose(2, 1, 0)))[:, None]
    resized = frame_to_model(pictures, plan.frame((10, 12)))
    assert resized.max() > 1
    expected = (resized - resized.min()) / (resized.max() - resized.min())
    torch.testing.assert_close(cut(data, plan, 0, scale), expected.expand(-1, 3, -1, -1))


def test_a_batch_moves_as_a_whole() -> None:
    frame = StackPlan().frame((4, 4))
    batch = StackBatch(torch.zeros(2, 3, 3, 4, 4), torch.tensor([0, 1]), (frame, frame), ("a", "b"))
    moved = batch.to("meta")
    assert len(batch) == len(moved) == 2
    assert moved.images.is_meta
    assert moved.first.is_meta
    assert moved.target is None
    assert (moved.frames, moved.cases) == (batch.frames, batch.cases)
    labelled = replace(batch, target=torch.zeros(2, 3, 4, 4, dtype=torch.int64)).to("meta")
    assert labelled.target is not None
    assert labelled.target.is_meta
    assert not batch.images.is_meta
