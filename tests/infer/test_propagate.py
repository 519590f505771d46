"""Propagation on a made-up object: where it goes, when it ends, what it is told."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from voxelsam.errors import ConfigError
from voxelsam.infer.prompted import Answer, Patch
from voxelsam.infer.propagate import Asked, Carried, Cue, Direction, Stop, cue, prior_share, routes, sweep
from voxelsam.prompts.place import FramePrompts
from voxelsam.stacks.frame import FrameMap

FRAME = FrameMap.fit((20, 10), (40, 40))


def answer(side: int, quality: float | None = None) -> Answer:
    """A square object with one corner at row 3, column 2."""
    scores = np.zeros((20, 10), np.float32)
    scores[3 : 3 + side, 2 : 2 + side] = 0.9
    return Answer(torch.full((4, 4), float(side)), Patch.of(scores), quality)


class Shrinking:
    """A segmenter whose object is one pixel smaller with every slice away from slice 10; keeps what it was told."""

    def __init__(self, quality: float = 1.0) -> None:
        self.told: list[tuple[int, FramePrompts, torch.Tensor | None]] = []
        self.quality = quality

    def __call__(self, asked: Sequence[Asked]) -> list[Answer]:
        return [self.one(question) for question in asked]

    def one(self, asked: Asked) -> Answer:
        self.told.append((asked.slice, asked.prompts, asked.earlier))
        away = abs(asked.slice - 10)
        assert asked.distance == away
        return answer(max(6 - away, 0), self.quality**away)


def reached(model: Shrinking, route: range, stop: Stop, cues: tuple[Cue, ...] = ("mask",)) -> list[int]:
    carried = [Carried(answer(6), route, cues, stop)]
    return [asked.slice for asked, found in sweep(model, carried, FRAME) if found is not None]


def test_routes_go_forward_together_and_end_apart() -> None:
    passes: list[list[tuple[int, int]]] = []
    model = Shrinking()

    def ask(asked: Sequence[Asked]) -> list[Answer]:
        passes.append([(question.of, question.slice) for question in asked])
        return model(asked)

    stops = Stop(area=0.5), Stop(area=0), Stop(area=0)
    routes = range(11, 20), range(9, -1, -1), range(11, 13)
    carried = [Carried(answer(6), route, ("mask",), stop) for route, stop in zip(routes, stops, strict=True)]
    found = [(asked.of, asked.slice, reply is not None) for asked, reply in sweep(ask, carried, FRAME)]
    assert passes[:3] == [[(0, 11), (1, 9), (2, 11)], [(0, 12), (1, 8), (2, 12)], [(1, 7)]]
    for number, (route, stop) in enumerate(zip(routes, stops, strict=True)):
        alone = reached(Shrinking(), route, stop)
        assert [slice_ for of, slice_, shown in found if of == number and shown] == alone
    assert [(of, slice_) for of, slice_, shown in found if not shown] == [(0, 12), (1, 4)]


def test_routes_without_slices_ask_nothing() -> None:
    model = Shrinking()
    assert list(sweep(model, [Carried(answer(6), range(0), ("mask",), Stop())], FRAME)) == []
    assert list(sweep(model, [], FRAME)) == []
    assert model.told == []


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (Stop(area=0), [11, 12, 13, 14, 15]),
        (Stop(area=0.05), [11, 12, 13, 14]),
        (Stop(area=0.5), [11]),
        (Stop(area=0, quality=0.7), [11, 12, 13]),
    ],
)
def test_an_object_ends_where_the_rule_says(stop: Stop, expected: list[int]) -> None:
    assert reached(Shrinking(quality=0.9), range(11, 20), stop) == expected


def test_downwards_too() -> None:
    assert reached(Shrinking(), range(9, -1, -1), Stop()) == [9, 8, 7, 6]


def test_nothing_is_asked_after_the_end() -> None:
    model = Shrinking()
    reached(model, range(11, 20), Stop(area=0))
    assert [number for number, _, _ in model.told] == [11, 12, 13, 14, 15, 16]


def test_a_quality_that_is_not_known_stops_nothing() -> None:
    assert not Stop(quality=0.9).after(answer(6, None), 36)


def test_each_slice_is_told_of_the_one_before() -> None:
    model = Shrinking()
    reached(model, range(11, 14), Stop(area=0), ("mask", "box", "click"))
    for (_, prompts, earlier), side in zip(model.told, (6, 5, 4), strict=True):
        assert earlier is not None
        assert earlier[0, 0] == side
        assert prompts.box is not None
        corners = FRAME.to_slice(np.array(prompts.box).reshape(2, 2)).ravel()
        np.testing.assert_allclose(corners, (1.5, 2.5, 1.5 + side, 2.5 + side), atol=1e-9)
        x, y = FRAME.to_slice(prompts.points)[0]
        assert 2 <= round(x) < 2 + side
        assert 3 <= round(y) < 3 + side
        assert prompts.inside.tolist() == [True]


@pytest.mark.parametrize(
    ("cues", "points", "box", "mask"), [(("mask",), 0, False, True), (("click",), 1, False, False)]
)
def test_only_what_was_chosen_is_told(cues: tuple[Cue, ...], points: int, box: bool, mask: bool) -> None:
    model = Shrinking()
    reached(model, range(11, 12), Stop(), cues)
    _, prompts, earlier = model.told[0]
    assert (len(prompts.points), prompts.box is not None, earlier is not None) == (points, box, mask)


def test_a_caller_may_stop_at_any_slice() -> None:
    model = Shrinking()
    for asked, _ in sweep(model, [Carried(answer(6), range(11, 20), ("mask",), Stop())], FRAME):
        if asked.slice == 12:
            break
    assert [number for number, _, _ in model.told] == [11, 12]


def as_lists(found: list[tuple[int, range]]) -> list[tuple[int, list[int]]]:
    return [(start, list(route)) for start, route in found]


@pytest.mark.parametrize(
    ("starts", "fixed", "direction", "expected"),
    [
        ({2}, {2}, "both", [(2, [3, 4, 5]), (2, [1, 0])]),
        ({2}, {2}, "up", [(2, [3, 4, 5])]),
        ({2}, {2}, "down", [(2, [1, 0])]),
        ({0}, {0}, "down", []),
        ({1, 4}, {1, 4}, "both", [(1, [2]), (1, [0]), (4, [5]), (4, [3])]),
        ({1, 5}, {1, 5}, "both", [(1, [2, 3]), (1, [0]), (5, [4])]),
        ({1, 5}, {1, 5}, "up", [(1, [2, 3, 4])]),
        ({1}, {1, 4}, "both", [(1, [2, 3]), (1, [0])]),
        ({3}, {2, 3, 4}, "both", []),
    ],
)
def test_routes(starts: set[int], fixed: set[int], direction: Direction, expected: list[object]) -> None:
    assert as_lists(routes(starts, fixed, 6, direction)) == expected


def test_routes_cover_every_free_slice_once() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        fixed = set(rng.choice(20, rng.integers(1, 6), replace=False).tolist())
        covered = [number for _, route in routes(fixed, fixed, 20, "both") for number in route]
        assert sorted(covered) == sorted(set(range(20)) - fixed)
        for start, route in routes(fixed, fixed, 20, "both"):
            assert all(min(abs(number - other) for other in fixed) == abs(number - start) for number in route)


def test_a_route_has_a_limit() -> None:
    assert as_lists(routes({2}, {2}, 9, "both", most=2)) == [(2, [3, 4]), (2, [1, 0])]


@pytest.mark.parametrize("wrong", [{"area": -0.1}, {"area": 1.0}, {"quality": 1.5}, {"slices": 0}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Stop(**wrong)  # type: ignore[arg-type]


def test_the_prompt_free_answer_counts_more_with_every_slice() -> None:
    shares = [prior_share(distance, 4.0) for distance in range(9)]
    assert shares[0] == 0
    assert shares[4] == pytest.approx(0.5)
    assert shares == sorted(shares)
    assert shares[8] == pytest.approx(0.75)


def test_a_cue_of_nothing_is_empty() -> None:
    assert cue(answer(3), FRAME, ()).box is None
    assert not len(cue(answer(3), FRAME, ()).points)
