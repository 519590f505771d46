"""Every exception that voxelsam raises on purpose.

VoxelSamError
├── InputError              something about the given data is wrong
│   ├── FormatError         a file cannot be read as what it claims to be
│   ├── GeometryError       positions in space are missing, contradictory or do not agree
│   ├── LabelError          label values do not fit the label table
│   └── PromptError         a prompt cannot be used
├── WeightsError            a checkpoint or bundle does not fit
├── ConfigError             a recipe, an override or a plug-in name is wrong
├── TrainingError           a training run cannot go on; what was good before is kept
├── OutputError             a result cannot be written
└── MissingExtra            an optional dependency is not installed

A message says what was expected, what came, and what to do. The command line turns each of them into one
line and exit code 2.
"""

from collections.abc import Mapping
from typing import Any


class VoxelSamError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code
        """Stable name of the check that failed, e.g. ``GEO-02``; empty where there is none."""


class InputError(VoxelSamError):
    """Something about the given data is wrong."""


class FormatError(InputError):
    """A file cannot be read as what it claims to be."""


class GeometryError(InputError):
    """Positions in space are missing, contradictory, or do not agree."""


class LabelError(InputError):
    """Label values do not fit the label table."""


class PromptError(InputError):
    """A prompt, or a file of prompts, cannot be used: ``PRM-01`` to ``PRM-08``, see ``docs/reference/prompts.md``."""


class WeightsError(VoxelSamError):
    """A checkpoint or bundle does not fit."""


class ConfigError(VoxelSamError):
    """A recipe, an override or a plug-in name is wrong."""


class TrainingError(VoxelSamError):
    """A training run cannot go on: a loss that is no number, a lost process, no memory left; the last state is kept.

    Args:
        message: what happened, and what to do.
        facts: for the record of the run: epoch, step, ids of the cases; no paths.
    """

    def __init__(self, message: str, *, code: str = "", facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, code=code)
        self.facts = dict(facts or {})


class OutputError(VoxelSamError):
    """A result cannot be written."""


class MissingExtra(VoxelSamError):
    """An optional dependency is not installed."""


class InputWarning(UserWarning):
    """The input was usable, but something about it should be looked at."""
