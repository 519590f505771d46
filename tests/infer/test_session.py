"""A session: what a prompt changes, what it leaves alone, and that every step can be taken back."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voxelsam import formats
from voxelsam.bundle import Bundle
from voxelsam.errors import ConfigError, InputError, PromptError
from voxelsam.infer.embeddings import key
from voxelsam.infer.predictor import Predictor
from voxelsam.infer.propagate import Stop
from voxelsam.infer.session import Session
from voxelsam.model import Segmenter
from voxelsam.nn.decoder import Scores
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.prompts.prompt import Box, Point, Target
from voxelsam.space.grid import Grid
from voxelsam.volumes.volume import Volume

AFFINE = np.array([[0, 2.0, 0, -20], [-2.0, 0, 0, 5], [0, 0, -4.0, 9], [0, 0, 0, 1]])
"""Axial slices whose rows and columns are swapped and whose order runs towards the feet."""

SHAPE = (24, 30, 7)

Learnt = Callable[..., Bundle]


@pytest.fixture(scope="module")
def promptable(learnt: Learnt) -> Predictor:
    return Predictor(learnt(), device="cpu")


@pytest.fixture(scope="module")
def volume() -> Volume:
    data = np.random.default_rng(4).normal(20, 15, (1, *SHAPE)).astype(np.float32)
    data[0, 5:15, 8:20, 1:6] += 150
    return Volume(data, Grid(SHAPE, AFFINE), "CT")


@pytest.fixture
def session(promptable: Predictor, volume: Volume) -> Session:
    return promptable.open(volume)


class Bright(torch.nn.Module):
    """In place of the network: bright pixels near a click or inside a box are every class, nothing else is any.

    An earlier mask counts too, where it was positive, so propagation and corrections follow it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.encoded = 0
        self.decoded: list[PromptBatch | None] = []
        monkeypatch.setattr(Segmenter, "encode", lambda _, images: self.encode(images))
        monkeypatch.setattr(Segmenter, "decode", lambda _, features, prompts=None: self.decode(features, prompts))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.encoded += len(images)
        return images.flatten(0, 1)[:, :1]

    def decode(self, features: torch.Tensor, prompts: PromptBatch | None) -> Scores:
        self.decoded.append(prompts)
        height, width = features.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        near = torch.zeros(len(features), height, width, dtype=torch.bool)
        if prompts is None:
            near[:] = True
        else:
            for frame in range(len(features)):
                if prompts.masks is not None:
                    mask = torch.nn.functional.interpolate(prompts.masks[frame][None], (height, width))
                    near[frame] |= mask[0, 0] > 0
                for box in [] if prompts.boxes is None else prompts.boxes[frame]:
                    near[frame] |= (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
                for at, label in zip(prompts.points[frame], prompts.point_labels[frame], strict=True):
                    here = (x - at[0]).square() + (y - at[1]).square() < 16
                    near[frame] = near[frame] | here if label == 1 else near[frame] & ~here
        z = torch.where(near & (features[:, 0] > 0.6), 6.0, -6.0)
        logits = torch.stack([torch.zeros_like(z), *[z] * 4], 1)
        return Scores(logits, torch.full((len(features), 5), 0.8))


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Bright:
    return Bright(monkeypatch)


def labels(session: Session) -> np.ndarray:
    return session.result().labels.data


def test_a_box_finds_what_is_bright_where_it_is(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_bbox_interaction((4, 7, 1), (16, 21, 6), "spleen")
    truth = volume.data[0] > 150
    found = labels(session) == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75
    assert not found[:, :, [0, 6]].any()
    assert session.result().labels.grid.same_place(volume.grid)


def test_a_mask_follows_its_prompt(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    for at in [(6, 9, 2), (13, 9, 2), (6, 18, 2), (6, 9, 4)]:
        session = promptable.open(volume)
        session.add_point_interaction(at, "spleen")
        found = np.argwhere(labels(session) == 1)
        assert len(found)
        assert np.abs(found.mean(0) - at).max() < 3.5
        assert set(found[:, 2]) == {at[2]}


def test_the_same_place_in_any_space_is_the_same_prompt(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    ras = volume.grid.to_world(np.array([[9, 12, 3]]))[0]
    results = []
    for at, space in [((9, 12, 3), "voxel"), (tuple(ras), "ras"), (tuple(ras * (-1, -1, 1)), "lps")]:
        session = promptable.open(volume)
        session.add_point_interaction(at, "spleen", space=space)  # type: ignore[arg-type]
        results.append(labels(session))
    assert results[0].any()
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_the_encoder_runs_once_per_stack(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    for at in [(6, 9, 2), (9, 12, 2), (7, 9, 3)]:
        session.add_point_interaction(at, "spleen")
    session.add_bbox_interaction((4, 7, 1), (16, 21, 6), "liver")
    assert bright.encoded == 5
    decoded = len(bright.decoded)
    labels(session)
    session.undo()
    session.redo()
    labels(session)
    assert (bright.encoded, len(bright.decoded)) == (5, decoded)


def test_a_further_prompt_asks_about_its_own_slice_only(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_bbox_interaction((4, 7, 1), (16, 21, 6), "spleen")
    bright.decoded.clear()
    session.add_point_interaction((9, 12, 3), "spleen", inside=False)
    assert [len(prompts.points) for prompts in bright.decoded if prompts] == [1]


def test_a_correction_starts_from_the_mask_that_is_there(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_point_interaction((6, 9, 2), "spleen")
    assert bright.decoded[-1] is not None
    assert bright.decoded[-1].masks is None
    before = labels(session)
    session.add_point_interaction((13, 18, 2), "spleen")
    after = bright.decoded[-1]
    assert after is not None
    assert after.masks is not None
    assert after.points.shape == (1, 2, 2)
    assert (labels(session)[before == 1] == 1).all()
    session.add_point_interaction((7, 9, 2), "kidney")
    assert bright.decoded[-1] is not None
    assert bright.decoded[-1].masks is None


def test_an_initial_mask_stays_exactly_as_it_is(session: Session) -> None:
    mask = np.random.default_rng(0).random(SHAPE) > 0.7
    mask[:, :, 3] = False
    session.add_initial_seg(mask, "liver")
    assert np.array_equal(labels(session) == session.labels.values["liver"], mask)


def test_a_click_corrects_an_initial_mask(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    mask = np.zeros(SHAPE, bool)
    mask[5:15, 8:20, 2:4] = True
    session.add_initial_seg(mask, "spleen")
    assert not bright.decoded
    session.add_point_interaction((6, 9, 2), "spleen", inside=False)
    found = labels(session) == 1
    assert not found[6, 9, 2]
    assert found[12, 17, 2]
    assert np.array_equal(found[:, :, 3], mask[:, :, 3])


STEPS: list[Callable[[Session], object]] = [
    lambda session: session.add_point_interaction((6, 9, 2), "spleen"),
    lambda session: session.add_bbox_interaction((4, 7, 1), (16, 21, 6), "liver"),
    lambda session: session.add_scribble_interaction([(6, 9, 2), (6, 18, 2)], "spleen", inside=False),
    lambda session: session.add_initial_seg(np.arange(7)[None, None] * np.ones(SHAPE) == 4, "aorta"),
    lambda session: session.propagate("aorta", stop=Stop(area=0)),
    lambda session: session.add_bbox_interaction((4, 7, 3), (16, 21, 4), "spleen", instance=2),
    lambda session: session.remove(2),
]


@pytest.mark.parametrize("base", ["background", "free"])
def test_undo_brings_back_every_earlier_result_and_redo_every_later_one(
    promptable: Predictor, volume: Volume, base: str
) -> None:
    session = promptable.open(volume, base=base)
    seen = [(labels(session), session.instances(), session.prompts.items)]
    for step in STEPS:
        step(session)
        seen.append((labels(session), session.instances(), session.prompts.items))
    assert len({result[0].tobytes() for result in seen}) > 4

    def same(one: tuple[np.ndarray, np.ndarray, object]) -> bool:
        now = labels(session), session.instances(), session.prompts.items
        return np.array_equal(one[0], now[0]) and np.array_equal(one[1], now[1]) and one[2] == now[2]

    for before in seen[-2::-1]:
        assert session.undo()
        assert same(before)
    assert not session.undo()
    for after in seen[1:]:
        assert session.redo()
        assert same(after)
    assert not session.redo()


def test_a_new_step_ends_redoing(session: Session) -> None:
    STEPS[0](session)
    session.undo()
    STEPS[1](session)
    assert not session.redo()


def test_two_sessions_agree(promptable: Predictor, learnt: Learnt, volume: Volume) -> None:
    one, other = promptable.open(volume), Predictor(learnt(), device="cpu").open(volume)
    for session in (one, other):
        for step in STEPS:
            step(session)
    assert np.array_equal(labels(one), labels(other))


def test_the_order_of_prompts_on_different_slices_does_not_matter(promptable: Predictor, volume: Volume) -> None:
    prompts = [((6, 9, 2), "spleen"), ((12, 15, 4), "spleen"), ((9, 9, 5), "liver")]
    one, other = promptable.open(volume), promptable.open(volume)
    for at, label in prompts:
        one.add_point_interaction(at, label)
    for at, label in reversed(prompts):
        other.add_point_interaction(at, label)
    assert np.array_equal(labels(one), labels(other))
    together = promptable.open(volume)
    together.add(*[Point(at, Target(label)) for at, label in prompts])
    assert (labels(together) == labels(one)).mean() > 0.9999


def test_a_removed_prompt_was_never_there(promptable: Predictor, volume: Volume) -> None:
    one, other = promptable.open(volume), promptable.open(volume)
    one.add_point_interaction((6, 9, 2), "spleen")
    number = one.add_point_interaction((12, 15, 2), "spleen", inside=False)
    one.add_point_interaction((9, 9, 5), "liver")
    one.remove(number)
    other.add_point_interaction((6, 9, 2), "spleen")
    other.add_point_interaction((9, 9, 5), "liver")
    assert one.prompts.items == other.prompts.items
    assert np.array_equal(labels(one), labels(other))
    one.remove(1)
    one.remove(1)
    assert not labels(one).any()


def test_removing_the_start_of_a_propagation_removes_it(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_point_interaction((9, 12, 3), "spleen")
    session.propagate("spleen")
    assert (labels(session) == 1).any((0, 1)).sum() > 1
    session.remove(1)
    assert not labels(session).any()


def test_a_prompt_changes_its_own_slice_only(session: Session) -> None:
    STEPS[1](session)
    before = labels(session)
    session.add_point_interaction((6, 9, 2), "spleen")
    changed = (labels(session) != before).any((0, 1))
    assert not np.delete(changed, 2).any()


def test_a_prompt_that_moves_changes_the_result_of_the_network(promptable: Predictor, volume: Volume) -> None:
    found = []
    for x in (3, 20):
        session = promptable.open(volume)
        session.add_point_interaction((x, 15, 2), "spleen")
        (answer,) = session._state.answers.values()
        found.append(answer.logits)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_instances_are_one_structure_and_stay_apart(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_point_interaction((6, 9, 2), "spleen", instance=1)
    session.add_point_interaction((13, 18, 2), "spleen", instance=4)
    instances = session.instances()
    assert set(np.unique(instances)) == {0, 1, 4}
    assert np.array_equal(instances > 0, labels(session) == 1)
    assert instances[6, 9, 2] == 1
    assert instances[13, 18, 2] == 4


def test_without_prompts_the_free_base_is_the_prompt_free_answer(promptable: Predictor, volume: Volume) -> None:
    alone = Predictor(promptable.bundle, device="cpu", stride=promptable.plan.depth)
    assert np.array_equal(labels(alone.open(volume, base="free")), alone(volume).labels.data)
    assert not labels(promptable.open(volume)).any()


def test_a_prompted_class_leaves_the_base_on_its_slices(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume, base="free")
    base = labels(session)
    assert (base == 1).any((0, 1)).sum() > 3
    session.add_point_interaction((6, 9, 2), "spleen")
    after = labels(session)
    assert np.array_equal(np.delete(after, 2, axis=2), np.delete(base, 2, axis=2))
    assert 0 < (after[:, :, 2] == 1).sum() < (base[:, :, 2] == 1).sum()
    assert (after[:, :, 2] == 2).any()


ALL = ("point", "box", "cuboid", "mask", "correction")


@pytest.mark.parametrize("kinds", [("mask", "correction"), ALL])
def test_a_click_corrects_the_free_base(learnt: Learnt, volume: Volume, bright: Bright, kinds: tuple[str, ...]) -> None:
    session = Predictor(learnt(kinds), device="cpu").open(volume, base="free")
    base = labels(session)
    assert base[6, 9, 2] == 1
    session.add_point_interaction((6, 9, 2), "spleen", inside=False)
    after = labels(session)
    assert after[6, 9, 2] == 2
    assert (after[10:14, 13:19, 2] == 1).all()
    assert np.array_equal(np.delete(after, 2, axis=2), np.delete(base, 2, axis=2))


@pytest.mark.parametrize(
    ("kinds", "base", "at", "inside", "corrects"),
    [
        (ALL, "free", (6, 9, 2), False, True),
        (ALL, "free", (6, 9, 2), True, True),
        (ALL, "free", (20, 25, 2), True, True),
        (ALL, "free", (20, 25, 2), False, True),
        (ALL, "background", (20, 25, 2), True, False),
        (ALL[:1], "free", (20, 25, 2), True, False),
        (ALL[:1], "free", (6, 9, 2), False, True),
        (ALL[4:], "free", (6, 9, 2), True, True),
    ],
)
def test_first_clicks_correct_the_base_if_the_model_learnt_that(
    learnt: Learnt,
    volume: Volume,
    bright: Bright,
    kinds: tuple[str, ...],
    base: str,
    at: tuple[int, int, int],
    inside: bool,
    corrects: bool,
) -> None:
    session = Predictor(learnt(kinds), device="cpu").open(volume, base=base)
    session.add_point_interaction(at, "spleen", inside=inside)
    asked = bright.decoded[-1]
    assert asked is not None
    assert (asked.masks is not None) == corrects


def test_corrections_alone_need_a_base_to_correct(learnt: Learnt, volume: Volume) -> None:
    session = Predictor(learnt(("correction",)), device="cpu").open(volume)
    with pytest.raises(ConfigError, match="correction"):
        session.add_point_interaction((6, 9, 2), "spleen")


@pytest.mark.parametrize("outside", ["nothing", "free"])
def test_what_a_3d_box_means_outside(promptable: Predictor, volume: Volume, bright: Bright, outside: str) -> None:
    session = promptable.open(volume, base="free", outside=outside)
    base = labels(session)
    session.add_bbox_interaction((4, 7, 2), (16, 21, 4), "spleen")
    after = labels(session)
    beyond = [0, 1, 4, 5, 6]
    if outside == "free":
        assert np.array_equal(after[:, :, beyond], base[:, :, beyond])
    else:
        assert not (after[:, :, beyond] == 1).any()
        assert (after[:, :, beyond][base[:, :, beyond] == 1] == 2).all()
    assert (after[:, :, 2:4] == 1).any()


def test_a_box_of_one_slice_says_nothing_about_others(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume, base="free")
    base = labels(session)
    session.add_bbox_interaction((4, 7, 2), (16, 21, 3), "spleen")
    assert np.array_equal(np.delete(labels(session), 2, axis=2), np.delete(base, 2, axis=2))


@pytest.mark.parametrize(("overlap", "winner"), [("order", 1), ("last", 4), ("score", 1)])
def test_overlaps_go_by_the_declared_rule(
    promptable: Predictor, volume: Volume, bright: Bright, overlap: str, winner: int
) -> None:
    session = promptable.open(volume, overlap=overlap)
    session.add_point_interaction((6, 9, 2), "spleen")
    session.add_point_interaction((7, 9, 2), "liver")
    assert labels(session)[6, 9, 2] == winner


def test_propagation_reaches_where_the_object_is(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_bbox_interaction((4, 7, 3), (16, 21, 4), "spleen")
    seen: list[tuple[int, int]] = []
    count = session.propagate("spleen", progress=lambda done, total: seen.append((done, total)))
    shown = (labels(session) == 1).any((0, 1))
    assert shown.tolist() == [False, True, True, True, True, True, False]
    assert count == 4
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(("direction", "slices"), [("up", 1), ("down", 1), ("both", 2)])
def test_propagation_has_a_direction_and_a_limit(
    promptable: Predictor, volume: Volume, bright: Bright, direction: str, slices: int
) -> None:
    session = promptable.open(volume)
    session.add_bbox_interaction((4, 7, 3), (16, 21, 4), "spleen")
    assert session.propagate("spleen", direction, stop=Stop(slices=1)) == slices  # type: ignore[arg-type]


def test_prompted_slices_are_never_overwritten(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_bbox_interaction((4, 7, 3), (16, 21, 4), "spleen")
    session.add_point_interaction((9, 12, 4), "spleen", inside=False)
    assert not (labels(session)[:, :, 4] == 1).any()
    session.propagate("spleen")
    shown = (labels(session) == 1).any((0, 1))
    assert shown.tolist() == [False, True, True, True, False, False, False]


def test_a_prompt_on_a_reached_slice_is_a_new_start(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_bbox_interaction((4, 7, 3), (16, 21, 4), "spleen")
    session.propagate("spleen")
    bright.decoded.clear()
    session.add_point_interaction((6, 9, 5), "spleen", inside=False)
    assert bright.decoded[0] is not None
    assert bright.decoded[0].masks is not None
    corrected = labels(session)[:, :, 5].copy()
    assert not corrected[6, 9]
    session.propagate("spleen", cues=("mask",))
    assert np.array_equal(labels(session)[:, :, 5], corrected)
    assert not labels(session)[6, 9, 4]


def test_in_a_3d_box_the_prompt_free_answer_counts_too_and_never_outside(
    promptable: Predictor, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts find nothing here, the prompt-free answer everything; only over the base ``free`` is it asked."""

    def decode(_: Segmenter, features: torch.Tensor, prompts: PromptBatch | None = None) -> Scores:
        z = torch.full(features.shape[:1] + features.shape[-2:], 6.0 if prompts is None else -2.0)
        return Scores(torch.stack([torch.zeros_like(z), *[z] * 4], 1), None)

    monkeypatch.setattr(Segmenter, "encode", lambda _, images: images.flatten(0, 1)[:, :1])
    monkeypatch.setattr(Segmenter, "decode", decode)
    for base, expected in (("free", 1.0), ("background", 0.0)):
        session = promptable.open(volume, base=base)  # type: ignore[arg-type]
        session.add_bbox_interaction((4, 7, 1), (16, 21, 6), "spleen")
        found = labels(session) == 1
        assert found[5:15, 8:20, 1:6].mean() == expected
        if base == "free":
            assert not found[:3, :, 1:6].any()
            assert not found[:, 23:, 1:6].any()


def test_far_from_its_start_a_carried_mask_yields_to_the_prompt_free_answer(
    promptable: Predictor, volume: Volume, bright: Bright
) -> None:
    def small() -> Session:
        session = promptable.open(volume, base="free")
        mask = np.zeros(SHAPE, bool)
        mask[5:10, 8:14, 1] = True
        session.add_initial_seg(mask, "spleen")
        return session

    carried, faded = small(), small()
    carried.propagate("spleen", fade=None, cues=("mask",))
    faded.propagate("spleen", fade=0.5, cues=("mask",))
    truth = volume.data[0, :, :, 4] > 150
    assert (labels(faded)[:, :, 4] == 1).sum() > 0.7 * truth.sum()
    assert (labels(carried)[:, :, 4] == 1).sum() < 0.5 * truth.sum()


def test_over_an_empty_base_it_does_not(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    found = []
    for fade in (None, 0.5):
        session = promptable.open(volume)
        mask = np.zeros(SHAPE, bool)
        mask[8:10, 12:14, 1] = True
        session.add_initial_seg(mask, "spleen")
        session.propagate("spleen", fade=fade, cues=("mask",))
        found.append(labels(session))
    assert np.array_equal(*found)


def test_nor_where_several_objects_of_a_structure_are_prompted(
    promptable: Predictor, volume: Volume, bright: Bright
) -> None:
    found = []
    for fade in (None, 0.5):
        session = promptable.open(volume, base="free")
        for instance, place in ((1, slice(6, 8)), (2, slice(12, 14))):
            mask = np.zeros(SHAPE, bool)
            mask[place, 12:14, 1] = True
            session.add_initial_seg(mask, "spleen", instance=instance)
        session.propagate("spleen", fade=fade, cues=("mask",))
        found.append(labels(session))
    assert np.array_equal(*found)


def test_an_interrupted_propagation_does_no_harm(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    session.add_bbox_interaction((4, 7, 3), (16, 21, 4), "spleen")
    before = labels(session)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.propagate("spleen", progress=interrupt)
    assert np.array_equal(labels(session), before)
    assert session.propagate("spleen") == 4


def test_frames_of_a_film_are_slices_too(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    film = Volume(volume.data, Grid(SHAPE, np.diag([1.0, 1.0, 0.04, 1.0]), "time"), "VIDEO")
    session = promptable.open(film)
    session.add_bbox_interaction((4, 7, 1), (16, 21, 2), "spleen")
    assert session.propagate("spleen", "up") == 4


def test_quality_is_a_mean_per_object(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    session = promptable.open(volume)
    STEPS[0](session)
    STEPS[1](session)
    STEPS[3](session)
    assert session.quality == {Target("spleen"): pytest.approx(0.8), Target("liver"): pytest.approx(0.8)}


def test_the_folder_spares_the_encoder(
    promptable: Predictor, volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(predictor: Predictor, image: Volume) -> np.ndarray:
        session = predictor.open(image, folder=tmp_path, base="free")
        session.add_point_interaction((6, 9, 2), "spleen")
        return labels(session)

    calls: list[int] = []
    encode = Segmenter.encode
    monkeypatch.setattr(
        Segmenter, "encode", lambda self, images: calls.extend([1] * len(images)) or encode(self, images)
    )
    first = run(promptable, volume)
    assert len(calls) == 7
    assert np.array_equal(run(promptable, volume), first)
    assert len(calls) == 7
    other = Volume(volume.data + 1, volume.grid, volume.kind)
    run(promptable, other)
    assert len(calls) == 14


def test_features_kept_in_half_precision_take_half_and_change_little(
    promptable: Predictor, volume: Volume, tmp_path: Path
) -> None:
    sizes, answers = [], []
    for half in (False, True):
        session = promptable.open(volume, folder=tmp_path / str(half), half=half)
        session.add_bbox_interaction((4, 7, 1), (16, 21, 6), "spleen")
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(half)).rglob("*.safetensors")))
        answers.append(torch.stack([answer.logits for answer in session._state.answers.values()]))
    assert 0.5 <= sizes[1] / sizes[0] < 0.6
    assert 0 < (answers[1] - answers[0]).norm() < 2e-3 * answers[0].norm()


def test_a_further_click_calls_the_encoder_never_and_the_decoder_once(
    promptable: Predictor, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = promptable.open(volume)
    session.add_point_interaction((6, 9, 2), "spleen")
    calls: list[str] = []
    for name in ("encode", "embed", "encode_embedded", "decode"):
        own = getattr(Segmenter, name)
        monkeypatch.setattr(
            Segmenter, name, lambda self, *given, name=name, own=own: calls.append(name) or own(self, *given)
        )
    session.add_point_interaction((8, 11, 2), "spleen")
    session.add_point_interaction((9, 11, 2), "liver")
    assert calls == ["decode", "decode"]


def test_objects_are_carried_together_as_they_are_apart(promptable: Predictor, volume: Volume, bright: Bright) -> None:
    found, passes = [], []
    for together in (False, True):
        session = promptable.open(volume, base="free")
        session.add_bbox_interaction((4, 7, 3), (16, 21, 4), "spleen")
        session.add_point_interaction((6, 9, 2), "liver")
        bright.decoded.clear()
        targets = [Target("spleen"), Target("liver")]
        if together:
            assert session.propagate_all(targets) == 8
            assert session.undo()
            assert session.propagate_all(targets) == 8
        else:
            assert sum(session.propagate(target.label) for target in targets) == 8
        passes.append(len(bright.decoded))
        found.append(labels(session))
    assert np.array_equal(*found)
    assert passes[1] / 2 < 0.7 * passes[0]


def test_a_prompt_free_answer_is_decoded_once_for_all_objects_of_a_slice(
    promptable: Predictor, volume: Volume, bright: Bright
) -> None:
    session = promptable.open(volume, base="free")
    low, high = (4, 7, 1), (16, 21, 6)
    session.add(*(Box(low, high, Target(name)) for name in ("spleen", "liver", "kidney")))
    assert sum(prompts is None for prompts in bright.decoded) == 1


def test_the_key_knows_all_that_features_depend_on(promptable: Predictor, volume: Volume) -> None:
    trained, plan = promptable.bundle, promptable.plan
    known = trained.description
    moved = AFFINE.copy()
    moved[0, 3] += 1
    data = volume.data.copy()
    data[0, 0, 0, 0] += 1
    tensors = {name: tensor + 1 for name, tensor in trained.tensors.items()}

    def described(**change: object) -> Bundle:
        return Bundle(replace(known, **change), trained.tensors)  # type: ignore[arg-type]

    keys = [
        key(volume, trained, plan, "fp32"),
        key(volume, trained, plan, "bf16"),
        key(volume, trained, plan, "fp32", half=True),
        key(volume, trained, replace(plan, stride=2), "fp32"),
        key(volume, described(weights_sha256="x"), plan, "fp32"),
        key(volume, Bundle(known, tensors), plan, "fp32"),
        key(volume, described(backbone=replace(known.backbone, sha256="x")), plan, "fp32"),
        key(volume, described(intensity=replace(known.intensity, scope="stack")), plan, "fp32"),
        key(Volume(data, volume.grid), trained, plan, "fp32"),
        key(Volume(volume.data.astype(np.float64), volume.grid), trained, plan, "fp32"),
        key(Volume(volume.data, Grid(SHAPE, moved)), trained, plan, "fp32"),
    ]
    assert len(set(keys)) == len(keys)
    again = Volume(np.asfortranarray(volume.data), Grid(SHAPE, AFFINE))
    assert key(again, trained, plan, "fp32") == keys[0]


def test_prompts_survive_their_file(session: Session, phantom: Path, tmp_path: Path) -> None:
    session.set_image(next((phantom / "imagesTs").iterdir()))
    session.add(Point((6, 9, 2), Target("spleen")), Box((4, 7, 1), (16, 21, 6), Target("liver", 2)))
    result = labels(session)
    session.save_prompts(tmp_path / "prompts.json")
    session.reset_interactions()
    assert not labels(session).any()
    assert session.load_prompts(tmp_path / "prompts.json") == 2
    assert np.array_equal(labels(session), result)


def test_another_volume_begins_anew(session: Session, volume: Volume, phantom: Path) -> None:
    STEPS[0](session)
    session.set_image(next((phantom / "imagesTs").iterdir()))
    assert not session.prompts.items
    assert not session.undo()
    assert labels(session).shape == session.volume.grid.shape != volume.grid.shape


def test_the_result_is_saved_over_its_scan(session: Session, phantom: Path, tmp_path: Path) -> None:
    scan = next((phantom / "imagesTs").iterdir())
    session.set_image(scan)
    session.add_bbox_interaction((10, 10, 2), (30, 30, 6), "liver")
    session.result().save(tmp_path / "mask.nii.gz")
    assert formats.read_labels(tmp_path / "mask.nii.gz").grid.same_place(formats.read(scan).grid)


def test_the_example_of_the_documentation_runs(
    learnt: Learnt, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).resolve().parents[2] / "docs/how-to/prompt.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    learnt().save(tmp_path / "run" / "best")
    shutil.copy(next((phantom / "imagesTs").iterdir()), tmp_path / "ct.nii.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Session] = {}
    exec(compile(code, page.name, "exec"), names)  # noqa: S102
    assert len(names["session"].prompts.items) == 4
    mask = formats.read_labels("mask.nii.gz", names["session"].labels)
    assert mask.grid.same_place(names["session"].volume.grid)
    assert np.array_equal(mask.data, labels(names["session"])) or mask.data.any()


REFUSED: dict[str, tuple[Callable[[Session], object], type[Exception], str]] = {
    "an unknown structure": (lambda s: s.add_point_interaction((1, 1, 1), "tail"), PromptError, "tail"),
    "outside": (lambda s: s.add_point_interaction((1, 1, 9), "liver"), PromptError, "2"),
    "no prompt": (lambda s: s.add(), InputError, "at least one"),
    "no such number": (lambda s: s.remove(7), InputError, "7"),
    "number 0": (lambda s: s.remove(0), InputError, "0"),
    "nothing to propagate": (lambda s: s.propagate("liver"), InputError, "prompt it on a slice first"),
    "propagation of what is unknown": (lambda s: s.propagate("tail"), InputError, "tail"),
    "no fading": (lambda s: s.propagate("spleen", fade=0), ConfigError, "fade"),
    "no cue": (lambda s: s.propagate("spleen", cues=()), ConfigError, "cues"),
    "an unknown cue": (lambda s: s.propagate("spleen", cues=("guess",)), ConfigError, "guess"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_changes_nothing(session: Session, name: str) -> None:
    STEPS[0](session)
    before, prompts = labels(session), session.prompts.items
    attempt, error, complaint = REFUSED[name]
    with pytest.raises(error, match=complaint):
        attempt(session)
    assert np.array_equal(labels(session), before)
    assert session.prompts.items == prompts


def test_without_a_volume_nothing_goes(promptable: Predictor) -> None:
    session = promptable.open()
    for attempt in (STEPS[0], labels, lambda s: s.volume, lambda s: s.instances(), lambda s: s.propagate("liver")):
        with pytest.raises(InputError, match="no volume is open"):
            attempt(session)


def test_a_volume_with_other_channels_is_refused(promptable: Predictor, volume: Volume) -> None:
    with pytest.raises(InputError, match="takes 1 channel"):
        promptable.open(Volume(np.concatenate([volume.data] * 2), volume.grid))


def test_a_model_without_prompts_refuses_them(learnt: Learnt) -> None:
    with pytest.raises(ConfigError, match="prompts section"):
        Predictor(learnt(()), device="cpu").open()


def test_a_model_that_needs_prompts_refuses_to_go_without(learnt: Learnt, volume: Volume) -> None:
    predictor = Predictor(learnt(free=False), device="cpu")
    assert predictor.promptable
    assert not predictor.prompt_free
    with pytest.raises(ConfigError, match="voxelsam prompt"):
        predictor(volume)
    with pytest.raises(ConfigError, match="base background"):
        predictor.open(base="free")
    predictor.open(volume).add_point_interaction((6, 9, 2), "spleen")


def test_a_quality_head_that_was_not_trained_ranks_nothing(learnt: Learnt) -> None:
    with pytest.raises(ConfigError, match="quality"):
        Predictor(learnt(quality=False), device="cpu").open().quality  # noqa: B018


@pytest.mark.parametrize(
    ("kinds", "step", "missing"),
    [
        (("box", "cuboid", "mask"), 0, "point"),
        (("point", "mask"), 1, "cuboid"),
        (("point", "box"), 1, "cuboid"),
        (("point", "mask"), 5, "box"),
    ],
)
def test_kinds_that_were_never_trained_are_refused(
    learnt: Learnt, volume: Volume, kinds: tuple[str, ...], step: int, missing: str
) -> None:
    session = Predictor(learnt(kinds), device="cpu").open(volume)
    with pytest.raises(ConfigError, match=missing):
        STEPS[step](session)


def test_clicks_may_correct_what_another_kind_began(learnt: Learnt, volume: Volume) -> None:
    session = Predictor(learnt(("cuboid",)), device="cpu").open(volume)
    STEPS[1](session)
    session.add_point_interaction((9, 12, 3), "liver", inside=False)
    STEPS[5](session)
    with pytest.raises(ConfigError, match="point"):
        session.add_point_interaction((9, 12, 0), "liver")


def test_cues_are_what_the_model_was_trained_with(learnt: Learnt, volume: Volume, bright: Bright) -> None:
    told = {}
    for kinds in (("point",), ("point", "box"), ("mask", "point"), ("mask", "cuboid")):
        session = Predictor(learnt(kinds), device="cpu").open(volume)
        mask = np.zeros(SHAPE, bool)
        mask[5:15, 8:20, 2] = True
        session.add_initial_seg(mask, "spleen")
        session.propagate("spleen", stop=Stop(slices=1))
        prompts = bright.decoded[-1]
        assert prompts is not None
        told[kinds] = (prompts.points.shape[1], prompts.boxes is not None, prompts.masks is not None)
    assert list(told.values()) == [(1, False, False), (0, True, False), (0, False, True), (0, True, True)]
    with pytest.raises(ConfigError, match="alone"):
        Predictor(learnt(("point",)), device="cpu").open(volume).propagate("spleen", cues=("box",))
