"""Do the quality measures tell good masks from bad ones? Asked where the truth is known: on validation cases.

Everything here takes plain values, case → structure → Dice, so that it goes with any way to score.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from voxelsam.infer.quality import MEASURES, Quality

Dice = Mapping[str, Mapping[str, float | None]]
"""Case, then structure; None or NaN where the Dice is undefined."""

ENOUGH = 10
"""A threshold is only learnt from at least so many cases that show the structure."""

BAD = 0.7
"""A mask below this Dice is one that a flag should find, unless told otherwise."""

POOLED = "all"
"""Name of the rows over all structures."""


@dataclass(frozen=True)
class Row:
    """How one measure goes with the true Dice of one structure, over cases."""

    measure: str
    structure: str
    """``all``: over the structures of all cases together."""
    cases: int
    """Pairs of a measure and a Dice."""
    spearman: float | None
    """Rank correlation, -1 to 1; None below 3 pairs, or where one of the two is constant."""


@dataclass(frozen=True)
class QualityTable:
    """Quality measures beside the true Dice."""

    rows: tuple[dict[str, Any], ...]
    """One per case and structure: ``case``, ``structure``, ``dice``, each measure, ``flagged``."""
    correlations: tuple[Row, ...]
    caught: Mapping[str, int]
    """How many masks are ``bad`` (Dice below ``BAD``), ``flagged``, and ``both``, of ``all``."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "definition": "Spearman's rank correlation of each quality measure with the Dice, over cases",
            "bad": f"Dice below {BAD}",
            "correlations": [vars(row) for row in self.correlations],
            "caught": dict(self.caught),
            "rows": list(self.rows),
        }


def quality_table(quality: Mapping[str, Quality], dice: Dice) -> QualityTable:
    """Sets the quality measures of predictions beside their true Dice.

    Args:
        quality: of each case's prediction.
        dice: true Dice; cases and structures without one are left out.
    """
    rows = tuple(_rows(quality, dice))
    structures = list(dict.fromkeys(row["structure"] for row in rows))
    correlations = tuple(
        _correlation(measure, structure, [row for row in rows if structure in (POOLED, row["structure"])])
        for measure in MEASURES
        for structure in (POOLED, *structures)
        if any(row[measure] is not None for row in rows)
    )
    bad = [row["dice"] < BAD for row in rows]
    flagged = [row["flagged"] for row in rows]
    both = [one and other for one, other in zip(bad, flagged, strict=True)]
    caught = {"all": len(rows), "bad": sum(bad), "flagged": sum(flagged), "both": sum(both)}
    return QualityTable(rows, correlations, caught)


def thresholds(table: QualityTable, bad: float = BAD) -> dict[str, dict[str, float]]:
    """Per measure and structure the value that best parts masks below a Dice from the others; for ``bundle.judge``.

    It is the middle of the gap with the largest Youden index (share of bad masks found + share of good masks passed
    - 1; Youden, Cancer 3 (1950)). A structure with fewer than ``ENOUGH`` cases, without bad or without good masks, or
    whose measure parts them no better than chance, gets none.

    Args:
        table: of validation cases.
        bad: masks below this Dice should be found.
    """
    found: dict[str, dict[str, float]] = {}
    for measure in MEASURES:
        for structure in dict.fromkeys(row["structure"] for row in table.rows):
            pairs = _pairs(measure, [row for row in table.rows if row["structure"] == structure])
            value = _youden(pairs, bad) if len(pairs) >= ENOUGH else None
            if value is not None:
                found.setdefault(measure, {})[structure] = value
    return found


def _rows(quality: Mapping[str, Quality], dice: Dice) -> Iterator[dict[str, Any]]:
    for case, said in quality.items():
        for structure, one in said.structures.items():
            true = dice.get(case, {}).get(structure)
            if true is not None and not np.isnan(true):
                flagged = any(flag.structure in ("", structure) for flag in said.flags)
                values: dict[str, float | None] = {measure: getattr(one, measure) for measure in MEASURES}
                yield {"case": case, "structure": structure, "dice": float(true), **values, "flagged": flagged}


def _correlation(measure: str, structure: str, rows: Sequence[Mapping[str, Any]]) -> Row:
    pairs = _pairs(measure, rows)
    values, true = ([pair[axis] for pair in pairs] for axis in (0, 1))
    if len(pairs) < 3 or len(set(values)) == 1 or len(set(true)) == 1:
        return Row(measure, structure, len(pairs), None)
    return Row(measure, structure, len(pairs), float(stats.spearmanr(values, true).statistic))


def _pairs(measure: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(measure, Dice), where the measure is known."""
    return [(row[measure], row["dice"]) for row in rows if row[measure] is not None]


def _youden(pairs: Sequence[tuple[float, float]], bad: float) -> float | None:
    values = np.array([value for value, _ in pairs])
    low = np.array([dice < bad for _, dice in pairs])
    if low.all() or not low.any():
        return None
    steps = np.unique(values)
    middles = (steps[:-1] + steps[1:]) / 2
    scores = [(values[low] < cut).mean() + (values[~low] >= cut).mean() - 1 for cut in middles]
    if not scores or max(scores) <= 0:
        return None
    return float(middles[int(np.argmax(scores))])
