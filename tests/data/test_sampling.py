"""Which stacks an epoch shows, and how often."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxelsam import config
from voxelsam.data.sampling import Draw, Sampling, Shown, times_before
from voxelsam.errors import ConfigError, InputError


def shown(*cases: tuple[int, int, int]) -> Shown:
    """Cases of (empty stacks, stacks with class 1, stacks with classes 1 and 2)."""
    rows, numbers = [], []
    for number, (empty, one, both) in enumerate(cases):
        rows += [(1, 0, 0)] * empty + [(1, 1, 0)] * one + [(1, 1, 1)] * both
        numbers += [number] * (empty + one + both)
    return Shown(np.array(rows, bool), np.array(numbers))


def epoch(draw: Draw, number: int, seed: int = 3) -> np.ndarray:
    return draw.positions(np.random.default_rng([seed, number]))


MIXED = shown((60, 30, 2), (5, 20, 1), (40, 2, 0))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.29, 0.5])
@pytest.mark.parametrize("limit", [None, 10, 41, 1000])
def test_an_epoch_never_has_more_empty_stacks_than_it_may(share, limit):
    draw = Draw(Sampling(empty=share), MIXED, limit)
    for number in range(5):
        positions = epoch(draw, number)
        assert len(positions) == draw.length
        assert len(set(positions.tolist())) == draw.length
        empty = int(MIXED.empty[positions].sum())
        assert empty <= share * draw.length + 1e-9
        assert empty + 1 > min(share, 105 / 160) * draw.length


def test_an_epoch_is_as_long_as_the_empty_stacks_that_it_may_show_let_it_be():
    assert Draw(Sampling(empty=0.2), shown((100, 80, 0))).length == 100
    assert Draw(Sampling(empty=0.0), shown((100, 80, 0))).length == 80
    assert Draw(Sampling(empty=0.9), shown((10, 80, 0))).length == 90
    assert Draw(Sampling(empty=1.0), shown((100, 0, 0))).length == 100


def test_empty_stacks_are_chosen_anew_in_every_epoch():
    draw = Draw(Sampling(empty=0.2), MIXED)
    chosen = [set(positions[MIXED.empty[positions]].tolist()) for positions in (epoch(draw, n) for n in range(150))]
    assert set.union(*chosen) == set(np.flatnonzero(MIXED.empty).tolist())


def test_every_stack_with_a_structure_is_in_a_whole_epoch_with_few_empty_ones():
    positions = epoch(Draw(Sampling(empty=0.1), MIXED), 0)
    assert set(np.flatnonzero(~MIXED.empty)) <= set(positions.tolist())


def test_balance_draws_a_rare_class_as_often_as_a_common_one():
    data = shown((0, 98, 2))
    share = {}
    for balance in (0.0, 0.5, 1.0):
        draw = Draw(Sampling(balance=balance, cases="equal"), data)
        drawn = np.concatenate([epoch(draw, number) % 100 for number in range(40)])
        share[balance] = data.classes[drawn, 2].mean()
    assert share[0.0] == pytest.approx(0.02, abs=0.001)
    assert share[0.5] == pytest.approx(0.5 * 0.02 + 0.5 * (0.5 + 0.5 * 0.02), abs=0.005)
    assert share[1.0] == pytest.approx(0.5 + 0.5 * 0.02, abs=0.005)


def test_balance_leaves_the_share_of_empty_stacks_as_it_is():
    for sampling, share in ((Sampling(balance=1), 105 / 160), (Sampling(balance=1, empty=0.25), 0.25)):
        draw = Draw(sampling, MIXED)
        empty = MIXED.empty[epoch(draw, 0) % 160].mean()
        assert empty == pytest.approx(share, abs=0.02)


def test_equal_cases_have_the_same_share_however_long_they_are():
    data = shown((0, 200, 0), (0, 20, 0), (0, 5, 0))
    draw = Draw(Sampling(cases="equal"), data, limit=60)
    for number in range(5):
        positions = epoch(draw, number) % 225
        assert np.bincount(data.cases[positions]).tolist() == [20, 20, 20]
        assert np.bincount(positions, minlength=225)[220:].tolist() == [4] * 5
    natural = Draw(Sampling(empty=1.0), data, limit=60)
    assert np.bincount(data.cases[epoch(natural, 0)])[0] > 50


def test_every_case_comes_as_often_as_its_share_rounded_down_or_up():
    data = shown((0, 200, 0), (0, 101, 0), (0, 83, 0), (0, 7, 9))
    draw = Draw(Sampling(empty=1.0), data, limit=60)
    expected = 60 * np.bincount(data.cases) / 400
    for number in range(10):
        counts = np.bincount(data.cases[epoch(draw, number)], minlength=4)
        assert (np.abs(counts - expected) < 1).all()


def test_a_stack_comes_as_often_as_its_share_rounded_down_or_up():
    draw = Draw(Sampling(balance=0.7), MIXED)
    weights = draw._of_others / draw._of_others.sum() * (draw.length - draw.empties)
    for number in range(5):
        positions = epoch(draw, number) % 160
        counts = np.bincount(positions, minlength=160)[~MIXED.empty]
        expected = weights[~MIXED.empty]
        assert (counts >= np.floor(expected - 1e-9)).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()


def test_a_stack_that_comes_again_has_another_number():
    draw = Draw(Sampling(balance=1), shown((0, 9, 1)), limit=10)
    positions = epoch(draw, 0)
    assert len(set(positions.tolist())) == 10
    again = sorted(positions[positions % 10 == 9].tolist())
    assert again == [9 + 10 * turn for turn in range(len(again))]
    assert len(again) >= 5
    assert times_before(np.array([7, 3, 7, 7, 3])).tolist() == [0, 0, 1, 2, 1]


def test_an_epoch_is_a_function_of_seed_and_epoch():
    draw, other = (Draw(Sampling(empty=0.3, balance=0.5, cases="equal"), MIXED, limit=50) for _ in range(2))
    later = epoch(other, 7).tolist()
    assert [epoch(draw, number).tolist() for number in range(8)][7] == later
    assert epoch(draw, 7, seed=4).tolist() != later
    assert epoch(draw, 6).tolist() != later


def test_the_order_of_an_epoch_is_mixed():
    positions = epoch(Draw(Sampling(empty=0.5), MIXED), 0)
    empty = MIXED.empty[positions]
    assert 0.25 < empty[: len(empty) // 2].mean() < 0.75
    assert (np.diff(MIXED.cases[positions]) != 0).mean() > 0.3


def test_training_draws_as_the_recipe_says(
    phantom: Path, small: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxelsam.train.run import train

    drawn, positions = [], Draw.positions

    def noted(draw: Draw, random: np.random.Generator) -> np.ndarray:
        found = positions(draw, random)
        drawn.append((draw, found))
        return found

    monkeypatch.setattr(Draw, "positions", noted)
    wish = {"sampling": {"empty": 0.0, "balance": 1.0, "cases": "equal"}, "augment": {"preset": "nnunet"}}
    train(phantom, tmp_path / "run", settings=small | wish)
    assert len(drawn) >= 2
    for draw, found in drawn:
        assert len(found) == 6
        assert not draw.shown.empty[found % len(draw.shown.cases)].any()
    assert config.read(tmp_path / "run" / "recipe.yaml")["sampling"] == wish["sampling"]


# What is refused


def test_data_without_any_structure_cannot_have_few_empty_stacks():
    with pytest.raises(InputError, match=r"20% of the training stacks .* but all 7 are"):
        Draw(Sampling(empty=0.2), shown((7, 0, 0)))
    assert Draw(Sampling(balance=1), shown((7, 0, 0))).length == 7


@pytest.mark.parametrize(
    "values",
    [{"empty": 1.5}, {"empty": -0.1}, {"balance": 2}, {"balance": -1}, {"cases": "same"}, {"classes": 1}],
)
def test_wrong_sections_are_refused(values):
    with pytest.raises(ConfigError):
        config.parse(Sampling, values)


def test_a_section_survives_yaml():
    section = Sampling(empty=0.2, balance=0.5, cases="equal")
    assert config.parse(Sampling, config.plain(section)) == section
