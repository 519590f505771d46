"""Views of a stack: there and back again, nothing lost, and no flip that training has not shown."""

import pytest
import torch

from voxelsam.bundle import AugmentLearnt
from voxelsam.infer.views import GENTLE, PLAIN, View, views

FLIPPED = AugmentLearnt("ma_sam", ("rows", "columns"))
EVERY = (*views(AugmentLearnt()), *views(FLIPPED)[1:])


def smooth(*shape: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 3, shape[-2]), torch.linspace(0, 2, shape[-1]), indexing="ij")
    return (rows.sin() + columns.cos() * rows).expand(shape).contiguous()


@pytest.mark.parametrize("view", EVERY, ids=lambda view: view.name)
def test_back_undoes_there(view: View) -> None:
    maps = smooth(2, 3, 3, 40, 28)
    assert view.there(maps).shape == maps.shape
    back = view.back(view.there(maps))
    torch.testing.assert_close(back[..., 1:-1, 1:-1], maps[..., 1:-1, 1:-1], rtol=0, atol=0.02)


@pytest.mark.parametrize("view", EVERY, ids=lambda view: view.name)
def test_every_pixel_is_shown(view: View) -> None:
    """A bright line along each edge is still there."""
    for row, column in ((0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)):
        maps = torch.zeros(1, 1, 1, 40, 40)
        maps[..., row, column] = 1
        assert view.there(maps).sum() > 0.8 * 0.95**2 * maps.sum()


@pytest.mark.parametrize("view", EVERY[1:], ids=lambda view: view.name)
def test_a_view_is_another_picture(view: View) -> None:
    maps = smooth(1, 1, 1, 40, 28)
    assert (view.there(maps) - maps).abs().max() > 0.1


def test_the_directions_of_shifts() -> None:
    maps = torch.zeros(1, 1, 1, 41, 41)
    maps[..., 20, 20] = 1
    up_left = GENTLE[1].there(maps)[0, 0, 0]
    assert up_left[:20, :20].sum() > up_left[21:, 21:].sum()


def test_left_stays_left_unless_training_mirrored() -> None:
    assert all(view.flip is None for view in views(AugmentLearnt()))
    assert all(view.flip is None for view in views(AugmentLearnt("light")))
    assert [view.flip for view in views(FLIPPED)] == [None, "rows", "columns"]
    assert [view.flip for view in views(AugmentLearnt("x", ("columns",)))] == [None, "columns"]


def test_the_first_view_is_the_stack_itself() -> None:
    maps = smooth(1, 2, 3, 8, 8)
    assert PLAIN.there(maps) is maps
    assert views(AugmentLearnt())[0] == views(FLIPPED)[0] == PLAIN
