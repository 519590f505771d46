import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from voxelsam.stacks import FrameMap, frame_to_model, labels_to_model, scores_to_slice

quick = settings(max_examples=40, deadline=None)
sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))
frames = st.builds(
    FrameMap.fit, sizes, sizes, st.sampled_from(["pad", "stretch"]), st.sampled_from(["linear", "cubic"])
)
large = st.tuples(st.integers(24, 60), st.integers(24, 60))
large_frames = st.builds(
    FrameMap.fit, large, large, st.sampled_from(["pad", "stretch"]), st.sampled_from(["linear", "cubic"])
)


def smooth(size: tuple[int, int]) -> Tensor:
    """Two channels without sharp edges, 0 to 1."""
    y, x = (torch.linspace(0, 1, pixels) for pixels in size)
    waves = torch.sin(3 * y)[:, None] * torch.cos(2 * x)[None] / 2
    return torch.stack([waves, 1 - waves])[None].float()


def centre_of_mass(image: Tensor) -> np.ndarray:
    y, x = ndimage.center_of_mass(image.clamp(min=0).double().numpy())
    return np.array([x, y])


@quick
@given(frames, st.integers(0, 2**32 - 1))
def test_points_there_and_back_are_the_same(frame: FrameMap, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-10, 80, (10, 2))
    np.testing.assert_allclose(frame.to_slice(frame.to_model(points)), points, atol=1e-6)
    np.testing.assert_allclose(frame.to_model(frame.to_slice(points)), points, atol=1e-6)


@quick
@given(frames)
def test_the_content_fits_and_the_padding_is_at_the_right_or_at_the_bottom_only(frame: FrameMap) -> None:
    left, right, top, bottom = frame.pad
    assert (left, top) == (0, 0)
    assert min(frame.content) >= 1
    assert right == 0 or bottom == 0
    assert frame.content == (frame.target[0] - bottom, frame.target[1] - right)


@quick
@given(sizes, sizes)
def test_padding_keeps_the_aspect_ratio_within_half_a_pixel(source: tuple[int, int], target: tuple[int, int]) -> None:
    content = FrameMap.fit(source, target).content
    ratio = min(target[0] / source[0], target[1] / source[1])
    for shown, pixels in zip(content, source, strict=True):
        assert abs(shown - pixels * ratio) <= 0.5 or shown == 1


def test_linear_maps_align_the_edges_and_cubic_maps_the_corner_pixels() -> None:
    linear = FrameMap.fit((20, 30), (40, 90), "stretch")
    np.testing.assert_allclose(linear.to_model(np.array([[-0.5, -0.5], [29.5, 19.5]])), [[-0.5, -0.5], [89.5, 39.5]])
    cubic = FrameMap.fit((20, 30), (40, 90), "stretch", "cubic")
    np.testing.assert_allclose(cubic.to_model(np.array([[0, 0], [29, 19]])), [[0, 0], [89, 39]], atol=1e-12)
    padded = FrameMap.fit((20, 30), (60, 60), "pad")
    np.testing.assert_allclose(padded.to_model(np.array([[29.5, 19.5]])), [[59.5, 39.5]])
    assert padded.pad == (0, 0, 0, 20)


@quick
@given(large_frames, st.data())
def test_a_bright_pixel_lands_where_the_map_says(frame: FrameMap, data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(8, pixels - 9)) for pixels in reversed(frame.source))
    spot = torch.zeros(1, 1, *frame.source)
    spot[0, 0, y, x] = 1
    spot = torch.from_numpy(ndimage.gaussian_filter(spot.numpy(), (0, 0, 2, 2)))
    seen = centre_of_mass(frame_to_model(spot, frame)[0, 0])
    assert np.abs(seen - frame.to_model(np.array([[x, y]]))[0]).max() < 0.5


@quick
@given(large_frames, st.data())
def test_a_labelled_pixel_lands_where_the_map_says(frame: FrameMap, data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(0, pixels - 1)) for pixels in reversed(frame.source))
    labels = torch.zeros(1, *frame.source, dtype=torch.int64)
    labels[0, y, x] = 7
    for row, column in labels_to_model(labels, frame)[0].nonzero().tolist():
        back = frame.to_slice(np.array([[column, row]]))[0]
        assert np.abs(back - (x, y)).max() <= 0.5 + 1e-6


@quick
@given(large_frames)
def test_scores_land_where_the_map_says(frame: FrameMap) -> None:
    y, x = torch.meshgrid(*(torch.arange(float(pixels)) for pixels in frame.target), indexing="ij")
    seen = scores_to_slice(torch.stack([x, y])[None], frame)[0]
    places = np.indices(frame.source)[::-1].reshape(2, -1).T
    expected = torch.from_numpy(frame.to_model(places).T.reshape(seen.shape).copy()).float()
    inner = (slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(seen[inner], expected[inner], atol=0.1, rtol=0)


@quick
@given(large_frames)
def test_scores_come_back_close(frame: FrameMap) -> None:
    scores = smooth(frame.source)
    back = scores_to_slice(frame_to_model(scores, frame), frame)
    assert back.shape == scores.shape
    steepest = 1.5  # of smooth(), per height of the picture
    assert (back - scores).abs().max() < steepest / min(frame.content)


@quick
@given(frames)
def test_what_lies_in_the_padding_never_reaches_the_result(frame: FrameMap) -> None:
    scores = torch.full((1, 2, *frame.target), float("nan"))
    scores[..., *frame.inside] = 0.25
    torch.testing.assert_close(scores_to_slice(scores, frame), torch.full((1, 2, *frame.source), 0.25))


@quick
@given(frames)
def test_padding_is_zero_and_constants_stay(frame: FrameMap) -> None:
    seen = frame_to_model(torch.full((1, 1, *frame.source), 3.0), frame)
    expected = torch.zeros(1, 1, *frame.target)
    expected[..., *frame.inside] = 3
    torch.testing.assert_close(seen, expected)
    labels = labels_to_model(torch.full((1, *frame.source), 3), frame)
    torch.testing.assert_close(labels, expected[0].long())


def test_nothing_is_computed_where_sizes_agree() -> None:
    images = torch.rand(2, 3, 24, 40)
    for interpolation in ("linear", "cubic"):
        frame = FrameMap.fit((24, 40), (24, 40), "pad", interpolation)
        assert torch.equal(frame_to_model(images, frame), images)
        assert torch.equal(scores_to_slice(images, frame), images)
        assert torch.equal(labels_to_model((images[:, 0] * 9).int(), frame), (images[:, 0] * 9).int())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize(("source", "target"), [((20, 24), (51, 48)), ((50, 40), (17, 31)), ((1, 5), (4, 9))])
def test_cubic_pictures_are_exactly_scipys(
    dtype: torch.dtype, source: tuple[int, int], target: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.uniform(0, 255, (2, 3, *source))).to(dtype)
    seen = frame_to_model(images, FrameMap.fit(source, target, "stretch", "cubic"))
    factors = (1, 1, target[0] / source[0], target[1] / source[1])
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(seen[index], ndimage.zoom(images[index].numpy(), factors[2:], order=3))
    assert seen.dtype == dtype


@quick
@given(sizes, sizes)
def test_labels_of_cubic_maps_are_exactly_scipys(source: tuple[int, int], target: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 12, source)
    seen = labels_to_model(torch.from_numpy(labels)[None], FrameMap.fit(source, target, "stretch", "cubic"))[0]
    expected = ndimage.zoom(labels, (target[0] / source[0], target[1] / source[1]), order=0, mode="mirror")
    np.testing.assert_array_equal(seen.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_keep_their_values_and_type(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 200, (2, 30, 20), generator=torch.Generator().manual_seed(0)).to(dtype)
    seen = labels_to_model(labels, FrameMap.fit((30, 20), (64, 64)))
    assert seen.dtype == dtype
    assert set(seen.unique().tolist()) <= set(labels.unique().tolist()) | {0}


def test_fine_stripes_turn_grey_when_shrinking() -> None:
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    seen = frame_to_model(stripes, FrameMap.fit((64, 64), (20, 20)))
    assert (seen - 0.5).abs()[..., 2:-2].max() < 0.1


def test_gradients_flow_through_the_scores() -> None:
    scores = torch.rand(1, 2, 32, 32, requires_grad=True)
    frame = FrameMap.fit((20, 30), (32, 32))
    scores_to_slice(scores, frame).sum().backward()
    assert scores.grad is not None
    assert (scores.grad[..., *frame.inside] > 0).any()
    assert (scores.grad[..., frame.content[0] :, :] == 0).all()


@pytest.mark.parametrize(("source", "target"), [((0, 5), (4, 4)), ((5, 5), (4, 0)), ((-3, 5), (4, 4))])
def test_sizes_without_pixels_are_refused(source: tuple[int, int], target: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a height and a width"):
        FrameMap.fit(source, target)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("source", "target"), [((5,), (4, 4)), ((1, 2, 3), (4, 4)), ((4, 4), (5,))])
def test_sizes_that_are_not_two_counts_are_refused(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a height and a width"):
        FrameMap.fit(source, target)  # type: ignore[arg-type]


def test_tensors_of_another_size_are_refused() -> None:
    frame = FrameMap.fit((20, 30), (32, 48))
    with pytest.raises(ValueError, match=r"slices are \(30, 20\)"):
        frame_to_model(torch.zeros(1, 1, 30, 20), frame)
    with pytest.raises(ValueError, match="label slices"):
        labels_to_model(torch.zeros(1, 32, 48, dtype=torch.int64), frame)
    with pytest.raises(ValueError, match="scores"):
        scores_to_slice(torch.zeros(1, 2, 20, 30), frame)
