"""Every exception that voxelsam raises on purpose.

VoxelSamError
├── InputError              something about the given data is wrong
│   ├── FormatError         a file cannot be read as what it claims to be
│   ├── GeometryError       positions in space are missing, contradictory or do not agree
│   ├── LabelError          label values do not fit the label table
│   └── PromptError         a prompt cannot be used
├── WeightsError            a checkpoint or bundle does not fit
├── ConfigError             a recipe, an override or a plug-in name is wrong
├── OutputError             a result cannot be written
└── MissingExtra            an optional dependency is not installed

A message says what was expected, what came, and what to do. The command line turns each of them into one
line and exit code 2.
"""


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


class OutputError(VoxelSamError):
    """A result cannot be written."""


class MissingExtra(VoxelSamError):
    """An optional dependency is not installed."""


class InputWarning(UserWarning):
    """The input was usable, but something about it should be looked at."""
