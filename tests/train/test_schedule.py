"""Warm-up and decay."""

import pytest

from voxelsam.train.schedule import rate

OFFICIAL = {
    0: 3.2e-06,
    1: 3.2e-06,
    2: 6.4e-06,
    100: 0.00032,
    250: 0.0008,
    251: 0.0008,
    252: 0.0007998888955024271,
    1000: 0.0007203975562284746,
    20159: 2.3734364598952558e-05,
    37799: 5.6088167365687505e-08,
}
"""Rates of MA-SAM's official training on BTCV (golden case auto_5slices)."""


@pytest.mark.parametrize(("step", "expected"), OFFICIAL.items())
def test_rates_are_those_of_the_official_training(step: int, expected: float) -> None:
    assert rate(step, base=8e-4, warmup=250, total=400 * 126, power=7.0) == pytest.approx(expected, rel=1e-12)


def test_rises_in_the_warm_up_and_falls_after_it() -> None:
    rates = [rate(step, 1.0, 10, 30, 2.0) for step in range(45)]
    assert rates[1:11] == sorted(set(rates[1:11]))
    assert rates[11:41] == sorted(set(rates[11:41]), reverse=True)
    assert max(rates) == rates[10] == rates[11] == 1.0


def test_is_zero_after_the_end() -> None:
    assert [rate(step, 1.0, 10, 30, 0.9) for step in (41, 42, 1000)] == [0.0, 0.0, 0.0]
    assert rate(40, 1.0, 10, 30, 0.9) > 0


def test_without_warm_up_the_first_step_uses_the_base() -> None:
    assert [rate(step, 2.0, 0, 4, 1.0) for step in range(4)] == [2.0, 2.0, 1.5, 1.0]


@pytest.mark.parametrize("wrong", [{"step": -1}, {"warmup": -1}, {"total": 0}])
def test_impossible_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="total >= 1"):
        rate(**{"step": 0, "base": 1.0, "warmup": 1, "total": 1, "power": 1.0, **wrong})
