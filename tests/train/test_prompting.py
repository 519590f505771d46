"""What a training step asks: rows, prompts, corrections."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from voxelsam.nn.decoder import Scores
from voxelsam.stacks.cut import StackBatch
from voxelsam.train import prompting
from voxelsam.train.prompting import CONFIRMING, Kind, PromptSection, Rows, ask

MASKS = (24, 32)
"""Size of mask prompts for pictures of 48 × 64 with patches of 8."""

KINDS: tuple[Kind, ...] = ("point", "box", "cuboid", "mask")


def scene(**tensors: Any) -> StackBatch:
    """Two stacks of three slices: a class 1 on slices 0 and 1, a class 2 on slice 1 of the second stack only."""
    target = torch.zeros(2, 3, 48, 64, dtype=torch.long)
    target[0, 0, 10:20, 30:50] = 1
    target[0, 1, 12:18, 30:40] = 1
    target[1, 1, 5:40, 8:12] = 2
    return StackBatch(torch.zeros(2, 3, 3, 48, 64), torch.zeros(2), (), ("a", "b"), target, **tensors)


def asked(kind: Kind, seed: int = 0, batch: StackBatch | None = None, **settings: Any) -> Rows:
    before = settings.pop("before", None)
    rows = ask(kind, batch or scene(), PromptSection(free=0, **settings), np.random.default_rng(seed), MASKS, before)
    assert rows is not None
    return rows


def values(mask: Tensor, points: Tensor) -> Tensor:
    """What a mask holds at points (x, y)."""
    return torch.stack([mask[round(float(y)), round(float(x))] for x, y in points])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_an_object_on_a_slice(kind: Kind) -> None:
    batch = scene()
    rows = asked(kind, batch=batch)
    assert batch.target is not None
    frames = batch.target.flatten(0, 1)
    for frame, class_, truth in zip(rows.frames, rows.classes, rows.truth, strict=True):
        assert torch.equal(truth, frames[frame] == class_)
    assert {int(frame) // 3 for frame in rows.frames} <= {0, 1}


@pytest.mark.parametrize("kind", ["point", "box"])
def test_slices_without_the_object_are_not_asked(kind: Kind) -> None:
    rows = asked(kind)
    assert rows.frames.tolist() == [0, 1, 4]
    assert rows.truth.flatten(1).any(1).all()
    assert rows.objects.tolist() == [0, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_first_clicks_lie_on_the_object(seed: int) -> None:
    rows = asked("point", seed, points=4)
    labels = rows.prompts.point_labels
    assert set(labels.flatten().tolist()) == {1}
    for truth, points, signs in zip(rows.truth, rows.prompts.points, labels, strict=True):
        assert values(truth, points[signs == 1]).all()


def test_all_slices_of_a_step_get_as_many_clicks() -> None:
    batch = scene()
    assert batch.target is not None
    batch.target[0, 0] = 0
    batch.target[0, 0, 3, 4] = 1  # fewer pixels than clicks
    counts = {asked("point", seed, batch, points=9).prompts.points.shape[1] for seed in range(8)}
    assert len(counts) > 1
    assert counts <= set(range(1, 10))


def test_boxes_without_jitter_are_the_edges_of_the_object() -> None:
    rows = asked("box", jitter=0.0, loose=0.0)
    assert rows.prompts.boxes is not None
    assert rows.prompts.boxes[:, 0].tolist() == [
        [29.5, 9.5, 49.5, 19.5],
        [29.5, 11.5, 39.5, 17.5],
        [7.5, 4.5, 11.5, 39.5],
    ]
    assert rows.prompts.points.shape[1] == 0


def test_loose_boxes_hold_the_tight_one() -> None:
    tight = asked("box", jitter=0.0, loose=0.0).prompts.boxes
    for seed in range(5):
        loose = asked("box", seed, jitter=0.0, loose=0.2).prompts.boxes
        assert tight is not None
        assert loose is not None
        sides = (tight[..., 2:] - tight[..., :2]).repeat(1, 1, 2)
        outwards = (loose - tight) * torch.tensor([-1.0, -1.0, 1.0, 1.0]) / sides
        assert outwards.min() >= 0
        assert 0 < outwards.max() <= 0.2 + 1e-6


def test_jitter_moves_edges() -> None:
    first, second = (asked("box", seed, jitter=0.2).prompts.boxes for seed in (0, 1))
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_a_3d_box_is_one_rectangle_on_every_slice_of_its_range() -> None:
    extents = torch.full((2, 3, 6), float("nan"))
    extents[0, 1] = torch.tensor([20.5, 5.5, 55.5, 30.5, -4.0, 2.0])  # the scan shows more than the stack
    extents[1, 2] = torch.tensor([7.5, 4.5, 11.5, 39.5, 1.0, 1.0])
    rows = asked("cuboid", batch=scene(extents=extents), jitter=0.0, loose=0.0)
    assert rows.frames.tolist() == [0, 1, 2, 4]
    assert rows.prompts.boxes is not None
    assert rows.prompts.boxes[:3, 0].tolist() == [[20.5, 5.5, 55.5, 30.5]] * 3
    assert not rows.truth[2].any()


def test_a_loose_3d_box_reaches_slices_that_do_not_show_the_object() -> None:
    extents = torch.full((2, 3, 6), float("nan"))
    extents[1, 2] = torch.tensor([7.5, 4.5, 11.5, 39.5, 1.0, 1.0])
    reached = {tuple(asked("cuboid", seed, scene(extents=extents), loose=1.0).frames.tolist()) for seed in range(12)}
    assert reached == {(4,), (3, 4, 5)}


def test_a_mask_prompt_is_that_of_a_neighbouring_slice() -> None:
    rows = asked("mask")
    assert rows.prompts.masks is not None
    assert rows.frames.tolist() == [0, 1]  # class 2 has no neighbour that shows it
    drawn = rows.prompts.masks[:, 0] > 0
    swapped = rows.truth[[1, 0]][:, 1::2, 1::2]
    assert (drawn == swapped).float().mean() > 0.97
    assert rows.prompts.masks.abs().max() <= 8


def test_a_lone_picture_lends_its_own_mask_a_little_moved() -> None:
    target = torch.zeros(1, 1, 48, 64, dtype=torch.long)
    target[..., 10:30, 20:50] = 1
    batch = StackBatch(torch.zeros(1, 1, 3, 48, 64), torch.zeros(1), (), ("a",), target)
    drawn = [asked("mask", seed, batch).prompts.masks for seed in range(6)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:] if other is not None and drawn[0] is not None)
    for masks in drawn:
        assert masks is not None
        here, there = masks[0, 0] > 0, target[0, 0, 1::2, 1::2] == 1
        assert (here & there).sum() / (here | there).sum() > 0.7


def answered(batch: StackBatch) -> Tensor:
    """Logits of an answer that misses half of an object on one slice, and sees one on a slice that has none."""
    assert batch.target is not None
    before = torch.zeros(6, 3, 48, 64)
    before[:, 1] = torch.where(batch.target.flatten(0, 1) == 1, 3.0, -3.0)
    before[0, 1, 10:20, 40:50] = -3.0
    before[2, 1, 30:40, 10:20] = 3.0
    before[:, 0] += 1.0
    before[:, 2] = torch.where(batch.target.flatten(0, 1) == 2, 3.0, -3.0)
    return before


def test_now_and_then_a_click_confirms_the_answer() -> None:
    batch = scene()
    before = answered(batch)
    columns = []
    for seed in range(60):
        rows = asked("correction", seed, batch, before=before)
        assert rows.prompts.point_labels[:, 0].tolist() == [1, 0]  # nothing is right on the second one's slice
        columns.append(float(rows.prompts.points[0, 0, 0]))
    confirming = sum(column < 40 for column in columns) / len(columns)
    assert confirming == pytest.approx(CONFIRMING, abs=0.15)
    assert confirming > 0


def test_a_correction_starts_from_the_prompt_free_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompting, "CONFIRMING", 0.0)
    batch = scene()
    before = answered(batch)
    rows = asked("correction", batch=batch, before=before)
    assert rows.frames.tolist() == [0, 2]
    assert rows.classes.tolist() == [1, 1]
    assert rows.prompts.point_labels.tolist() == [[1], [0]]
    (x, y), (u, v) = rows.prompts.points[:, 0].tolist()
    assert 40 <= x < 50
    assert 10 <= y < 20
    assert 10 <= u < 20
    assert 30 <= v < 40
    assert rows.prompts.masks is not None
    assert rows.prompts.masks[0, 0, 7, 17].item() == pytest.approx(2.0)
    with pytest.raises(ValueError, match="prompt-free answer"):
        asked("correction")


def test_objects_are_instances_where_the_recipe_says_so() -> None:
    batch = scene()
    assert batch.target is not None
    instances = torch.zeros_like(batch.target)
    instances[0, 0, 10:20, 30:40], instances[0, 0, 10:20, 40:50] = 7, 9
    batch.instances = instances
    rows = asked("box", batch=batch, per="instance", objects=5, jitter=0.0, loose=0.0)
    assert rows.prompts.boxes is not None
    assert sorted(rows.prompts.boxes[:, 0].tolist()) == [[29.5, 9.5, 39.5, 19.5], [39.5, 9.5, 49.5, 19.5]]
    assert rows.classes.tolist() == [1, 1]
    assert rows.objects.tolist() == [0, 1]
    with pytest.raises(ValueError, match="instance maps"):
        asked("box", per="instance")


def test_the_generator_decides_everything() -> None:
    first, again, other = (asked("point", seed, points=3).prompts.points for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_nothing_to_ask_about_gives_no_rows() -> None:
    empty = StackBatch(torch.zeros(1, 2, 3, 8, 8), torch.zeros(1), (), ("a",), torch.zeros(1, 2, 8, 8).long())
    assert ask("point", empty, PromptSection(free=0), np.random.default_rng(0), (4, 4)) is None
    ignored = StackBatch(torch.zeros(1, 2, 3, 8, 8), torch.zeros(1), (), ("a",), torch.full((1, 2, 8, 8), 255))
    assert ask("point", ignored, PromptSection(free=0), np.random.default_rng(0), (4, 4)) is None


def test_the_answer_of_a_row_is_its_class_against_the_background() -> None:
    rows = asked("box")
    logits = torch.randn(len(rows.classes), 3, 48, 64)
    answer = rows.logits(Scores(logits))
    for row, class_ in enumerate(rows.classes):
        assert torch.equal(answer[row], logits[row, class_] - logits[row, 0])


def test_a_correction_is_one_click_on_an_error_and_the_answer_as_mask() -> None:
    rows = asked("box", jitter=0.0, loose=0.0)
    logits = torch.where(rows.truth, 4.0, -4.0)
    logits[0, 10:20, 30:35] = -4.0  # missing
    logits[1, 30:40, 50:60] = 4.0  # too much
    after = rows.corrected(logits, np.random.default_rng(0), MASKS)
    assert after.prompts.point_labels.tolist() == [[1], [0], [-1]]
    (x, y), (u, v) = after.prompts.points[:2, 0].tolist()
    assert 30 <= x < 35
    assert 10 <= y < 20
    assert 50 <= u < 60
    assert 30 <= v < 40
    assert after.prompts.masks is not None
    assert ((after.prompts.masks[:, 0] > 0) == (logits > 0)[:, ::2, ::2]).float().mean() > 0.97
    assert after.prompts.boxes is rows.prompts.boxes
    assert rows.prompts.points.shape[1] == 0  # the earlier round stays as it was


def test_corrections_add_up() -> None:
    rows = asked("point", points=1)
    wrong = torch.full(rows.truth.shape, -4.0)
    for _ in range(3):
        rows = rows.corrected(wrong, np.random.default_rng(1), MASKS)
    assert rows.prompts.points.shape[1] == 4


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"free": 1.2}, "free"),
        ({"free": 0.5, "kinds": ()}, "kinds"),
        ({"free": 0, "kinds": ("correction",)}, "kinds"),
        ({"jitter": 0.5}, "jitter"),
        ({"loose": 1.5}, "loose"),
        ({"points": 0}, "points"),
        ({"corrections": -1}, "corrections"),
        ({"objects": 0}, "objects"),
        ({"quality": -1}, "quality"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}:"):
        PromptSection(**settings)


def test_what_was_learnt_is_recorded() -> None:
    assert PromptSection().learnt().free
    assert PromptSection().learnt().kinds == ()
    mixed = PromptSection(free=0.0, kinds=("box",), quality=1.0).learnt()
    assert (mixed.free, mixed.kinds, mixed.quality) == (False, ("box",), True)
