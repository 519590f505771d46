"""Masks of objects: how they become one label map, by value."""

import numpy as np
import pytest
import torch

from voxelsam.infer.prompted import (
    PASS,
    Answer,
    Claim,
    Overlap,
    Patch,
    Question,
    answers,
    compose,
    drawn,
    ground,
    shrunk,
)
from voxelsam.nn.decoder import Scores
from voxelsam.nn.drawing import SURE
from voxelsam.nn.prompt_encoder import PromptBatch
from voxelsam.prompts.place import FramePrompts
from voxelsam.stacks.frame import FrameMap


def patch(*rows: list[float]) -> Patch:
    return Patch.of(np.array(rows, np.float32))


def claim(class_: int, scores: list[float], instance: int = 1, turn: int = 0) -> Claim:
    return Claim(class_, instance, turn, patch(scores))


def test_a_patch_is_the_mask() -> None:
    scores = np.random.default_rng(0).random((9, 7)).astype(np.float32) * 0.6
    scores[:2], scores[:, 6] = 0.1, 0.5
    found = Patch.of(scores)
    assert np.array_equal(found.mask((9, 7)), scores > 0.5)
    assert found.area == (scores > 0.5).sum()
    assert found.scores.size < scores.size


def test_an_empty_patch_claims_nothing() -> None:
    empty = patch([0.5, 0.2, 0.0])
    assert empty.area == 0
    assert not empty.mask((1, 3)).any()
    below = np.array([[2, 0, 1]], np.uint8)
    assert np.array_equal(compose(below, [Claim(1, 1, 0, empty)], "score")[0], below)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [("score", [1, 2, 1, 2, 0]), ("order", [1, 1, 1, 2, 0]), ("last", [1, 1, 1, 2, 0])],
)
def test_who_gets_a_voxel_that_two_classes_claim(overlap: Overlap, expected: list[int]) -> None:
    claims = [claim(2, [0.1, 0.9, 0.7, 0.6, 0.5], turn=0), claim(1, [0.8, 0.6, 0.7, 0.2, 0.5], turn=1)]
    for order in (claims, claims[::-1]):
        assert compose(np.zeros((1, 5), np.uint8), order, overlap)[0][0].tolist() == expected


def test_the_last_prompted_wins_whatever_its_class() -> None:
    claims = [claim(1, [0.9, 0.9], turn=3), claim(2, [0.6, 0.1], turn=7)]
    assert compose(np.zeros((1, 2), np.uint8), claims, "last")[0][0].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("overlap", "expected"), [("score", [1, 2, 1, 2, 0]), ("order", [1, 1, 1, 2, 0]), ("last", [1, 2, 2, 2, 0])]
)
def test_instances_are_one_class_and_stay_apart(overlap: Overlap, expected: list[int]) -> None:
    claims = [
        claim(3, [0.9, 0.6, 0.8, 0.0, 0.0], instance=1, turn=0),
        claim(3, [0.0, 0.7, 0.8, 0.9, 0.0], instance=2, turn=1),
    ]
    classes, instances = compose(np.zeros((1, 5), np.uint8), claims, overlap)
    assert classes[0].tolist() == [3, 3, 3, 3, 0]
    assert instances[0].tolist() == expected


def test_what_is_not_claimed_stays_as_it_was() -> None:
    below = np.array([[4, 4, 0, 2]], np.uint8)
    classes, instances = compose(below, [claim(1, [0.0, 0.9, 0.9, 0.0])], "score")
    assert classes[0].tolist() == [4, 1, 1, 2]
    assert instances[0].tolist() == [0, 1, 1, 0]
    assert below[0].tolist() == [4, 4, 0, 2]


def test_the_ground_without_a_class_is_the_runner_up() -> None:
    probabilities = torch.tensor([[[0.1, 0.4, 0.05]], [[0.6, 0.5, 0.15]], [[0.3, 0.1, 0.8]]])
    assert ground(probabilities, [])[0].tolist() == [1, 1, 2]
    assert ground(probabilities, [1])[0].tolist() == [2, 0, 2]
    assert ground(probabilities, [1, 2])[0].tolist() == [0, 0, 0]


def test_a_drawn_mask_is_its_own_answer() -> None:
    mask = np.random.default_rng(1).random((6, 5)) > 0.5
    answer = drawn(mask, torch.zeros(4, 4))
    assert np.array_equal(answer.patch.mask((6, 5)), mask)
    assert answer.quality is None


def test_logits_shrink_to_means() -> None:
    steps = torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 4)[None]
    assert shrunk(torch.full((1, 8, 8), SURE), (4, 4)).unique().tolist() == [SURE]
    small = shrunk(steps, (2, 2))[0]
    assert small[0, 0] < 2 < small[0, 1]


FRAME = FrameMap.fit((16, 16), (16, 16))


class Decoder:
    """Answers class c with c · (number of the slice) plus the first click's x; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[PromptBatch] = []

    def __call__(self, features: torch.Tensor, prompts: PromptBatch) -> Scores:
        self.asked.append(prompts)
        level = features[:, 0, 0, 0]
        if prompts.points.shape[1]:
            level = level + prompts.points[:, 0, 0]
        logits = torch.arange(4)[None, :, None, None] * level[:, None, None, None].expand(-1, 4, 16, 16)
        return Scores(logits, torch.arange(4.0).expand(len(features), 4) / 10)


def features(slices: list[int]) -> torch.Tensor:
    return torch.tensor(slices, dtype=torch.float32)[:, None, None, None].expand(-1, 2, 4, 4)


def click(x: float) -> FramePrompts:
    return FramePrompts(np.array([[x, 1.0]]), np.array([True]))


BOX = FramePrompts(np.zeros((0, 2)), np.zeros(0, bool), (1.0, 2.0, 5.0, 6.0))


def ask(decoder: Decoder, questions: list[Question]) -> list[Answer]:
    return answers(decoder, features, questions, FRAME, (4, 4))


def test_answers_are_about_their_own_class_slice_and_prompts() -> None:
    decoder = Decoder()
    found = ask(decoder, [Question(1, 2, click(3)), Question(5, 1, BOX), Question(0, 3, click(2))])
    assert [answer.logits.mean().item() for answer in found] == pytest.approx([8.0, 5.0, 6.0])
    assert [answer.quality for answer in found] == pytest.approx([0.2, 0.1, 0.3])
    assert all(answer.patch.area == 256 and answer.asked for answer in found)


def test_prompts_of_one_frame_do_not_change_another() -> None:
    alone = ask(Decoder(), [Question(1, 2, click(3))])[0]
    many = ask(Decoder(), [Question(4, 2, click(9)), Question(1, 2, click(3)), Question(1, 1, BOX)])[1]
    assert torch.equal(alone.logits, many.logits)


def test_questions_of_one_shape_share_a_pass() -> None:
    decoder = Decoder()
    ask(decoder, [Question(k, 1, click(k)) for k in range(3)] + [Question(k, 1, BOX) for k in range(3)])
    assert len(decoder.asked) == 2


def test_passes_are_bounded() -> None:
    decoder, seen = Decoder(), list[tuple[int, int]]()
    questions = [Question(k, 1, click(k)) for k in range(PASS + 3)]
    answers(decoder, features, questions, FRAME, (4, 4), lambda done, total: seen.append((done, total)))
    assert [len(prompts.points) for prompts in decoder.asked] == [PASS, 3]
    assert seen == [(PASS, PASS + 3), (PASS + 3, PASS + 3)]


def test_an_earlier_answer_goes_in_as_it_is() -> None:
    decoder, earlier = Decoder(), torch.randn(4, 4)
    ask(decoder, [Question(0, 1, click(1), earlier), Question(0, 1, click(1))])
    with_mask = [prompts.masks for prompts in decoder.asked if prompts.masks is not None]
    assert len(with_mask) == 1
    assert torch.equal(with_mask[0][0, 0], earlier)


def test_a_logit_of_zero_is_not_the_object() -> None:
    found = ask(Decoder(), [Question(0, 2, click(0))])[0]
    assert found.patch.area == 0
