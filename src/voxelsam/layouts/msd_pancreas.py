"""Pancreas and pancreatic tumours in CT: Task07 of the Medical Segmentation Decathlon, for MA-SAM's tumour task.

The folder is that of the Decathlon (``Task07_Pancreas/dataset.json``; 281 scans ``imagesTr/pancreas_001.nii.gz`` with
``labelsTr/pancreas_001.nii.gz``, 139 in ``imagesTs``) and is read as such. This layout adds what MA-SAM states, the
window of -50 to 200 HU, and a region, ``pancreas_and_cancer``, the whole organ with its tumour. MA-SAM's task is the
tumour (``cancer``) alone.

Folds are those of ``dataset.json``; the download has none. MA-SAM's five lie in a pickle (``split_pancreas.pkl``, from
3DSAM-adapter) whose ids are not known here, and which of them was used is not stated. Every scan counts as another
patient.
"""

from dataclasses import replace
from pathlib import Path

from voxelsam.errors import InputError, LabelError
from voxelsam.layouts import decathlon
from voxelsam.layouts._dataset import Dataset, read_table
from voxelsam.volumes import Labels

EXPECTS = "MSD Task07: dataset.json with the labels pancreas and cancer, imagesTr/pancreas_001.nii.gz, labelsTr"
SPECIALISES = ("decathlon",)

LABELS = Labels(
    {"background": 0, "pancreas": 1, "cancer": 2},
    regions={"pancreas_and_cancer": (1, 2)},
)
WINDOW = (-50.0, 200.0)


def recognises(root: Path) -> bool:
    """Whether a folder of the Decathlon's layout has the labels pancreas and cancer, with their values there."""
    if not decathlon.recognises(root):
        return False
    try:
        found = Labels.from_json(read_table(root / "dataset.json").get("labels", {}))
    except (InputError, LabelError):
        return False
    return dict(found.values) == dict(LABELS.values)


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: as ``decathlon.read``; LAB-02, other labels than those of Task07.
    """
    dataset = decathlon.read(root)
    if dataset.labels is None or dict(dataset.labels.values) != dict(LABELS.values):
        found = dataset.labels.to_json() if dataset.labels else {}
        raise LabelError(
            f"{root}: expected the labels {LABELS.to_json()}, but dataset.json has {found}; read it as decathlon",
            code="LAB-02",
        )
    return replace(dataset, layout="msd_pancreas", labels=LABELS, window=WINDOW)
