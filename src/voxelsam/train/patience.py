"""Early stopping: a run ends once its validations no longer get better.

It looks at the history alone, so a run that was interrupted stops where an uninterrupted one would have.
"""

from collections.abc import Mapping, Sequence
from math import isnan

from voxelsam.train.history import Row


def best(history: Sequence[Row]) -> Row | None:
    """The row of the best validation, the first of equals; None before the first one that gave a number."""
    scored = [row for row in history if not isnan(row.get("val_dice", float("nan")))]
    return max(scored, key=lambda row: row["val_dice"], default=None)


def since_best(history: Sequence[Row]) -> int:
    """Validations since the best one."""
    validated = [row for row in history if "val_dice" in row]
    top = best(validated)
    return sum(top is None or row["epoch"] > top["epoch"] for row in validated)


def ending(history: Sequence[Row], patience: int | None, epochs: int) -> dict[str, float | bool]:
    """How a run ended, for its record.

    Args:
        history: its rows.
        patience: of its recipe.
        epochs: of its recipe; a run that had them all did not stop early.
    """
    top: Mapping[str, float] = best(history) or {}
    found: dict[str, float | bool] = {"epochs": len(history)}
    if top:
        found |= {"best_epoch": int(top["epoch"]) + 1, "best_val_dice": top["val_dice"]}
    return found | {"stopped_early": len(history) < epochs and is_over(history, patience)}


def is_over(history: Sequence[Row], patience: int | None) -> bool:
    """Whether so many validations in a row were not better; never without a patience."""
    return patience is not None and since_best(history) >= patience
