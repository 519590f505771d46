import io

import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import GeometryError, InputError
from voxelsam.overlay import choose_slices, overlay
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Volume

LPS = np.diag([-1.0, -1, 1, 1])  # the canonical axial axes
LABELS = Labels({"background": 0, "organ": 1, "lesion": 2})


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def like(pixels, colour, tolerance=40):
    return (np.abs(pixels - np.array(colour)) < tolerance).all(axis=-1)


def scene(spacing=(1, 1, 3), shape=(30, 30, 7)):
    """Black, with an organ at the patient's right and front on slice 2."""
    grid = Grid(shape, LPS @ np.diag([*spacing, 1]))
    data = np.zeros(shape, np.uint8)
    data[4:12, 3:9, 2] = 1
    return Volume(np.full((1, *shape), -1000, np.int16), grid, "CT"), LabelMap(data, grid, LABELS)


def middle(mask):
    return np.argwhere(mask).mean(axis=0) / mask.shape


def test_prediction_is_filled_on_its_side_and_slice():
    volume, label = scene()
    pixels = picture(overlay(volume, None, label, slices=1))
    organ = like(pixels, np.array(LABELS.colour(1)) * 0.5, 15)
    assert organ.sum() > 500
    down, right = middle(organ)
    assert right < 0.5
    assert down < 0.5


def test_image_lies_under_its_label():
    volume, label = scene(shape=(30, 24, 7))
    data = np.where(label.data > 0, 240, -160).astype(np.int16)
    bright = like(picture(overlay(Volume(data[None], volume.grid, "CT"), None, None, slices=30))[30:], (255, 255, 255))
    filled = like(picture(overlay(volume, None, label, slices=1))[30:-60], np.array(LABELS.colour(1)) * 0.5, 15)
    bright = bright[:, 2 * bright.shape[1] // 7 : 3 * bright.shape[1] // 7]  # the third of seven slices
    np.testing.assert_allclose(middle(bright), middle(filled), atol=0.1)
    ratios = [np.divide(*(np.ptp(np.argwhere(mask), axis=0) + 1.0)) for mask in (bright, filled)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.1)


def test_stored_axes_make_no_difference_to_the_picture():
    volume, label = scene()
    turned = Grid(
        (7, 30, 30), volume.grid.affine @ np.array([[0, 0, 1, 0], [0, -1, 0, 29], [1, 0, 0, 0], [0, 0, 0, 1]])
    )
    other = Volume(np.full((1, 7, 30, 30), -1000, np.int16), turned, "CT")
    moved = LabelMap(np.flip(label.data.transpose(2, 1, 0), 1).copy(), turned, LABELS)
    assert overlay(volume, None, label) == overlay(other, None, moved)


def test_reference_is_a_line_and_prediction_a_fill():
    volume, label = scene()
    empty = LabelMap(np.zeros_like(label.data), label.grid, LABELS)
    line = picture(overlay(volume, label, empty, slices=1))
    assert not like(line[:-60], np.array(LABELS.colour(1)) * 0.5, 20).any()
    white = like(line, (255, 255, 255))[30:-60]
    assert white.sum() > 100
    inside = np.argwhere(white).mean(axis=0).astype(int)
    assert not white[inside[0], inside[1]]


def test_reference_alone_is_filled():
    volume, label = scene()
    assert overlay(volume, label, None) == overlay(volume, None, label)


def test_proportions_follow_the_spacing():
    volume, label = scene(spacing=(1, 2, 5), shape=(30, 20, 7))
    organ = like(picture(overlay(volume, None, label, slices=1)), np.array(LABELS.colour(1)) * 0.5, 25)
    down, right = np.ptp(np.argwhere(organ), axis=0)
    assert down / right == pytest.approx(6 * 2 / 8, rel=0.1)


def test_picture_without_labels_shows_the_image():
    volume, _ = scene()
    assert picture(overlay(volume, None, None)).shape[1] > picture(overlay(volume, None, None, slices=1)).shape[1]


def test_constant_image_and_colour_picture_are_drawn():
    grid = Grid((20, 16, 1), np.eye(4), "single")
    for volume in (
        Volume(np.full((1, 20, 16, 1), 7.0), grid, "MR"),
        Volume(np.full((3, 20, 16, 1), 200, np.uint8), grid, "PICTURE"),
    ):
        assert picture(overlay(volume, None, None)).ndim == 3


def test_window_sets_black_and_white():
    volume, _ = scene()
    bright = Volume(np.full(volume.data.shape, 100, np.int16), volume.grid, "CT")
    shades = [np.median(picture(overlay(bright, None, None, window=window))) for window in ((100, 200), (0, 100))]
    assert shades[0] < 20
    assert shades[1] > 240


def test_same_input_gives_the_same_file():
    volume, label = scene()
    assert overlay(volume, label, label) == overlay(volume, label, label)


def test_labels_elsewhere_are_refused():
    volume, label = scene()
    elsewhere = LabelMap(label.data, Grid(label.grid.shape, np.eye(4)), LABELS)
    with pytest.raises(GeometryError):
        overlay(volume, None, elsewhere)


def test_no_slices_are_refused():
    volume, label = scene()
    with pytest.raises(InputError, match="1 slice or more"):
        overlay(volume, label, None, slices=0)


def test_slices_show_every_class():
    data = np.zeros((10, 10, 20), np.uint8)
    data[:8, :8, 3:9] = 1  # large
    data[0, 0, 15] = 2  # one voxel
    chosen = choose_slices([data], 20, 2)
    assert 15 in chosen
    assert any(3 <= k < 9 for k in chosen)


def test_slices_without_foreground_are_not_chosen():
    data = np.zeros((4, 4, 9), np.uint8)
    data[1, 1, 5] = 1
    assert choose_slices([data], 9, 3) == [5]


def test_slices_of_an_empty_map_are_spread():
    assert choose_slices([np.zeros((4, 4, 9), np.uint8)], 9, 3) == [2, 4, 6]
    assert choose_slices([], 1, 3) == [0]
