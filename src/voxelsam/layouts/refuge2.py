"""REFUGE2: optic disc and cup in fundus photographs, as ``train``, ``val`` and ``test`` with ``images`` and ``mask``.

A mask is grey: 0 the cup, 128 the rim of the disc, 255 the background. The cup lies inside the disc, so the disc is a
region of both values. Each photograph is of another eye as far as the files say, and a group of its own.
"""

import re
from pathlib import Path

from voxelsam.layouts._dataset import Case, Dataset, Problems, Split, channels_in, visible
from voxelsam.layouts._pictures import bare, by_name, paired
from voxelsam.volumes import Labels
from voxelsam.volumes.labels import Encoding

EXPECTS = "train, val and test, each with images (g0001.jpg, n0001.jpg, V0001.jpg, T0001.jpg) and mask (.bmp or .png)"
SPECIALISES = ("pairs",)
_SIDES = ("train", "val", "test")
_MASKS = ("mask", "masks")
_NAME = re.compile(r"[gnvt]\d{4}", re.IGNORECASE)
_LABELS = Labels.from_json({"background": 0, "optic_disc": [1, 2], "optic_cup": 2})
_GREY = Encoding(values={255: 0, 128: 1, 0: 2})


def recognises(root: Path) -> bool:
    """Whether there are pictures with the names of REFUGE in ``train/images``, ``val/images`` or ``test/images``."""
    return any(_NAME.fullmatch(path.stem) for side in _SIDES for path in visible(root / side / "images"))


def read(root: Path) -> Dataset:
    """The data set in a folder; validation and test pictures may lack masks, and are then test cases.

    Raises:
        InputError: all that is wrong, at once: SET-01 pictures without a mask, masks without a picture, equal names, no
            training pictures.
    """
    problems = Problems(root)
    sides = {side: _cases(root / side, side, problems) for side in _SIDES}
    if not sides["train"]:
        problems.add("SET-01", f"no training cases; expected {EXPECTS}")
    validation = tuple(case for case in sides["val"] if case.label is not None)
    train = (*sides["train"], *validation)
    test = (*(case for case in sides["val"] if case.label is None), *sides["test"])
    problems.check_ids((*train, *test))
    problems.stop()
    ids = tuple(case.id for case in sides["train"]), tuple(case.id for case in validation)
    channels, kind = channels_in(train, ("image",))
    return Dataset(
        root, "refuge2", "REFUGE2", _LABELS, channels, kind, train, test, (Split(*ids),) if validation else ()
    )


def _cases(folder: Path, side: str, problems: Problems) -> tuple[Case, ...]:
    images = by_name(folder / "images", problems)
    drawn = [folder / name for name in _MASKS if (folder / name).is_dir()]
    if len(drawn) > 1:
        problems.add("SET-01", f"{folder}: both mask and masks are there; keep one of them")
    if not drawn and side != "train":
        return bare(images)
    return paired(images, by_name(drawn[0], problems) if drawn else {}, _GREY, problems)
