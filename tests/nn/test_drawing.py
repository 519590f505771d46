"""Points and boxes as pictures: where they are drawn, and what stays."""

import pytest
import torch

from voxelsam.nn.drawing import SURE, drawn
from voxelsam.nn.prompt_encoder import PromptBatch

IMAGE, SIZE = (48, 64), (24, 32)
"""Pixels of the model's input and values of the mask prompt: two pixels per value."""


def prompts(
    points: list[list[float]] | None = None,
    labels: list[int] | None = None,
    box: list[float] | None = None,
    masks: torch.Tensor | None = None,
) -> PromptBatch:
    return PromptBatch(
        torch.tensor([points or []]).reshape(1, -1, 2),
        torch.tensor([labels or []], dtype=torch.long).reshape(1, -1),
        None if box is None else torch.tensor([[box]]),
        masks,
    )


def picture(given: PromptBatch) -> torch.Tensor:
    masks = drawn(given, SIZE, IMAGE).masks
    assert masks is not None
    assert masks.shape == (len(given.points), 1, *SIZE)
    return masks[0, 0]


def test_a_click_is_a_disk_around_its_place() -> None:
    mask = picture(prompts([[40.5, 10.5]], [1]))
    rows, columns = (mask == SURE).nonzero().double().mean(0).tolist()
    assert columns == pytest.approx((40.5 + 0.5) / 2 - 0.5)
    assert rows == pytest.approx((10.5 + 0.5) / 2 - 0.5)
    assert ((mask == SURE) | (mask == 0)).all()
    assert 1 <= (mask == SURE).sum() <= 9


def test_a_click_beside_the_object_is_negative() -> None:
    assert picture(prompts([[40.0, 10.0]], [0])).min() == -SURE
    assert picture(prompts([[40.0, 10.0]], [0])).max() == 0


def test_moving_a_click_moves_its_disk_along_the_same_axis() -> None:
    first, right, down = (picture(prompts([[x, y]], [1])) for x, y in ((20.0, 20.0), (24.0, 20.0), (20.0, 24.0)))
    assert torch.equal(right, first.roll(2, 1))
    assert torch.equal(down, first.roll(2, 0))


def test_a_box_says_what_lies_outside() -> None:
    mask = picture(prompts(box=[19.5, 7.5, 39.5, 27.5]))
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[4:14, 10:20] = True
    assert torch.equal(mask == 0, inside)
    assert (mask[~inside] == -SURE).all()


def test_filling_points_draw_nothing() -> None:
    assert (picture(prompts([[20.0, 20.0], [5.0, 5.0]], [1, -1])) == picture(prompts([[20.0, 20.0]], [1]))).all()


def test_clicks_are_drawn_over_an_earlier_mask() -> None:
    before = torch.full((1, 1, *SIZE), 3.0)
    mask = picture(prompts([[20.0, 20.0]], [0], box=[0.0, 0.0, 10.0, 10.0], masks=before))
    assert mask.min() == -SURE
    assert ((mask == 3.0) | (mask == -SURE)).all()
    assert (before == 3.0).all()


def test_frames_have_drawings_of_their_own() -> None:
    two = PromptBatch(torch.tensor([[[20.0, 20.0]], [[40.0, 8.0]]]), torch.tensor([[1], [0]]))
    both = drawn(two, SIZE, IMAGE).masks
    assert both is not None
    for row, (point, label) in enumerate((([20.0, 20.0], 1), ([40.0, 8.0], 0))):
        assert torch.equal(both[row, 0], picture(prompts([point], [label])))


def test_nothing_to_draw_leaves_the_prompts() -> None:
    masks = torch.zeros(1, 1, *SIZE)
    given = prompts(masks=masks)
    assert drawn(given, SIZE, IMAGE) is given
    assert drawn(prompts(), SIZE, IMAGE).masks is None
