"""TN-SCUI 2020: nodules of the thyroid in ultrasound, ``image/1.PNG``, ``mask/1.PNG`` and ``train.csv``.

Masks are 0 and 255. ``train.csv`` names every picture (``ID``) and its class (``CATE``, not used); it is held against
the files. Every picture counts as a patient of its own, because the files do not say whose it is.
"""

import csv
from pathlib import Path

from voxelsam.errors import InputError
from voxelsam.layouts._dataset import Dataset, Problems, channels_in
from voxelsam.layouts._pictures import BLACK_AND_WHITE, by_name, paired
from voxelsam.volumes import Labels

EXPECTS = "image/1.PNG, mask/1.PNG and train.csv with the columns ID and CATE"
SPECIALISES = ("pairs",)
_LABELS = Labels({"background": 0, "nodule": 1})


def recognises(root: Path) -> bool:
    """Whether there are the two folders, and a train.csv with the columns of the challenge."""
    if not ((root / "image").is_dir() and (root / "mask").is_dir() and (root / "train.csv").is_file()):
        return False
    try:
        with (root / "train.csv").open(encoding="utf-8-sig", newline="") as stream:
            return {"ID", "CATE"} <= {name.strip() for name in next(csv.reader(stream), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def read(root: Path) -> Dataset:
    """The data set in a folder; every case is labelled.

    Raises:
        InputError: all that is wrong, at once: SET-01 pictures without a mask, masks without a picture, pictures that
            train.csv does not name or that it names without there being a file; SET-03 train.csv cannot be read.
    """
    problems = Problems(root)
    images, masks = (by_name(root / name, problems) for name in ("image", "mask"))
    cases = paired(images, masks, BLACK_AND_WHITE, problems)
    listed = _listed(root / "train.csv")
    for name in sorted(listed - images.keys()):
        problems.add("SET-01", f"{name}: train.csv names it, but {root / 'image' / name}.PNG does not exist")
    for name in sorted(images.keys() - listed):
        problems.add("SET-01", f"{name}: {images[name]} is not in train.csv")
    if not cases:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids(cases)
    problems.stop()
    channels, kind = channels_in(cases, ("image",))
    return Dataset(root, "tnscui", "TN-SCUI 2020", _LABELS, channels, kind, cases, ())


def _listed(path: Path) -> set[str]:
    """Names of the pictures in the table, without their suffix."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [{(key or "").strip(): value for key, value in row.items()} for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})", code="SET-03") from None
    return {Path(str(row["ID"]).strip()).stem for row in rows if row.get("ID")}
