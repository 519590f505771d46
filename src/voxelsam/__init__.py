"""voxelsam adapts SAM-family foundation models to medical volumes.

The whole main job in Python::

    import voxelsam

    voxelsam.load("runs/liver/best")(voxelsam.read("ct.nii.gz")).save("liver.nii.gz")

Training is ``voxelsam.train.run.train`` and scoring ``voxelsam.evaluate.evaluate``. Names are imported on first use, so
that ``import voxelsam`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxelsam.formats import read, read_labels
    from voxelsam.infer.prediction import Prediction
    from voxelsam.infer.predictor import Predictor, load
    from voxelsam.infer.session import Session
    from voxelsam.model import Segmenter
    from voxelsam.prompts.prompt import Box, Mask, Point, Prompts, Scribble, Target
    from voxelsam.volumes.labels import Labels
    from voxelsam.volumes.volume import LabelMap, Volume

__version__ = "0.1.0"

_HOME = {
    "Box": "voxelsam.prompts.prompt",
    "LabelMap": "voxelsam.volumes.volume",
    "Labels": "voxelsam.volumes.labels",
    "Mask": "voxelsam.prompts.prompt",
    "Point": "voxelsam.prompts.prompt",
    "Prediction": "voxelsam.infer.prediction",
    "Predictor": "voxelsam.infer.predictor",
    "Prompts": "voxelsam.prompts.prompt",
    "Scribble": "voxelsam.prompts.prompt",
    "Segmenter": "voxelsam.model",
    "Session": "voxelsam.infer.session",
    "Target": "voxelsam.prompts.prompt",
    "Volume": "voxelsam.volumes.volume",
    "load": "voxelsam.infer.predictor",
    "read": "voxelsam.formats",
    "read_labels": "voxelsam.formats",
}

__all__ = [
    "Box",
    "LabelMap",
    "Labels",
    "Mask",
    "Point",
    "Prediction",
    "Predictor",
    "Prompts",
    "Scribble",
    "Segmenter",
    "Session",
    "Target",
    "Volume",
    "__version__",
    "load",
    "read",
    "read_labels",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'voxelsam' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
