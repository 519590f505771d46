"""Predictions against references, as numbers, tables, pictures and a page to read."""

from voxelsam.evaluate.run import evaluate
from voxelsam.evaluate.scores import Report

__all__ = ["Report", "evaluate"]
