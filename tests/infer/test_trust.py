"""Quality beside the truth: correlations with the right sign, thresholds that part bad from good, nothing made up."""

import pytest

from voxelsam.infer.quality import Flag, Quality, StructureQuality
from voxelsam.infer.trust import ENOUGH, POOLED, quality_table, thresholds


def cases(pairs: list[tuple[float, float]]) -> tuple[dict[str, Quality], dict[str, dict[str, float | None]]]:
    """One case per (confidence, Dice)."""
    quality = {
        f"c{number}": Quality(
            {"liver": StructureQuality(confidence=confidence)},
            (Flag("QUA-01", "confidence", "", "liver"),) if confidence < 0.5 else (),
        )
        for number, (confidence, _) in enumerate(pairs)
    }
    return quality, {f"c{number}": {"liver": dice} for number, (_, dice) in enumerate(pairs)}


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_rank_correlation_has_the_right_sign(sign: int, expected: float) -> None:
    table = quality_table(*cases([(0.5 + sign * number**2 / 100, number / 5) for number in range(5)]))
    found = {row.structure: row.spearman for row in table.correlations}
    assert found == {POOLED: pytest.approx(expected), "liver": pytest.approx(expected)}
    assert {row.measure for row in table.correlations} == {"confidence"}


@pytest.mark.parametrize("pairs", [[], [(0.5, 0.5)], [(0.5, 0.1), (0.6, 0.2)], [(0.5, 0.1 * n) for n in range(5)]])
def test_no_correlation_is_made_up(pairs: list[tuple[float, float]]) -> None:
    assert all(row.spearman is None for row in quality_table(*cases(pairs)).correlations)


def test_undefined_dice_and_unscored_cases_are_left_out() -> None:
    quality, dice = cases([(0.9, 0.9), (0.8, 0.8), (0.7, 0.7)])
    dice["c0"]["liver"] = None
    dice["c1"]["liver"] = float("nan")
    assert [row["case"] for row in quality_table(quality, dice).rows] == ["c2"]
    assert quality_table(quality, {}).rows == ()


def test_flags_are_counted_against_bad_masks() -> None:
    table = quality_table(*cases([(0.4, 0.1), (0.4, 0.9), (0.9, 0.1), (0.9, 0.9), (0.9, 0.9)]))
    assert table.caught == {"all": 5, "bad": 2, "flagged": 2, "both": 1}


def test_a_threshold_lies_in_the_gap() -> None:
    pairs = [(0.6, 0.3)] * 5 + [(0.8, 0.9)] * (ENOUGH - 5)
    assert thresholds(quality_table(*cases(pairs))) == {"confidence": {"liver": pytest.approx(0.7)}}


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.6, 0.3)] * 4 + [(0.8, 0.9)] * (ENOUGH - 5),
        [(0.6, 0.9)] * 5 + [(0.8, 0.9)] * 5,
        [(0.6, 0.1)] * 5 + [(0.8, 0.1)] * 5,
        [(0.8, 0.1)] * 5 + [(0.6, 0.9)] * 5,
        [(0.8, 0.1)] * 5 + [(0.8, 0.9)] * 5,
    ],
    ids=["too few", "none bad", "none good", "upside down", "constant"],
)
def test_no_threshold_from_nothing(pairs: list[tuple[float, float]]) -> None:
    assert thresholds(quality_table(*cases(pairs))) == {}
