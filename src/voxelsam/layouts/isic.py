"""ISIC challenges of 2016, 2017 and 2018, the part about the borders of skin lesions, as downloaded and unpacked.

Masks are 0 and 255. The organisers' parts stay what they are: training and validation make the split, the test part is
for testing. Nothing in these downloads says which pictures show the same lesion or patient, so every picture is a group
of its own.
"""

from pathlib import Path

from voxelsam.layouts._dataset import Case, Dataset, Problems, Split, channels_in
from voxelsam.layouts._pictures import BLACK_AND_WHITE, bare, by_name, paired
from voxelsam.volumes import Labels

EXPECTS = (
    "ISBI2016_ISIC_Part1_Training_Data/ISIC_*.jpg beside ISBI2016_ISIC_Part1_Training_GroundTruth/"
    "ISIC_*_Segmentation.png (or those of 2017 or 2018), and the same for Validation and Test"
)
_EDITIONS = {
    "ISIC 2016": ("ISBI2016_ISIC_Part1_{}_Data", "ISBI2016_ISIC_Part1_{}_GroundTruth"),
    "ISIC 2017": ("ISIC-2017_{}_Data", "ISIC-2017_{}_Part1_GroundTruth"),
    "ISIC 2018": ("ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth"),
}
_PARTS = {"train": ("Training",), "val": ("Validation",), "test": ("Test", "Test_v2")}
_LABELS = Labels({"background": 0, "lesion": 1})


def recognises(root: Path) -> bool:
    """Whether there is a folder of pictures of one of the challenges."""
    return bool(_editions(root))


def read(root: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: all that is wrong, at once: SET-01 several challenges in one folder, pictures without a mask, masks
            without a picture, equal names.
    """
    problems = Problems(root)
    found = _editions(root)
    if len(found) > 1:
        problems.add("SET-01", f"{' and '.join(found)} lie in one folder and share pictures; give each its own folder")
        problems.stop()
    sides = {side: _cases(root, found, parts, side, problems) for side, parts in _PARTS.items()}
    train = [case for side in ("train", "val") for case in sides[side] if case.label is not None]
    test = [case for side in ("val", "test") for case in sides[side] if side == "test" or case.label is None]
    if not train and not test:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids((*train, *test))
    problems.stop()
    ids = {side: tuple(case.id for case in sides[side] if case.label is not None) for side in ("train", "val")}
    splits = (Split(ids["train"], ids["val"]),) if all(ids.values()) else ()
    channels, kind = channels_in((*train, *test), ("image",))
    return Dataset(root, "isic", found[0], _LABELS, channels, kind, tuple(train), tuple(test), splits)


def _editions(root: Path) -> list[str]:
    every = [part for parts in _PARTS.values() for part in parts]
    return [name for name, (images, _) in _EDITIONS.items() if any((root / images.format(p)).is_dir() for p in every)]


def _cases(root: Path, found: list[str], parts: tuple[str, ...], side: str, problems: Problems) -> tuple[Case, ...]:
    cases: tuple[Case, ...] = ()
    for edition in found:
        for part in parts:
            images, masks = (_unpacked(root / name.format(part)) for name in _EDITIONS[edition])
            pictures = {
                name: path for name, path in by_name(images, problems).items() if not name.endswith("_superpixels")
            }
            if masks.is_dir() or side == "train":
                drawn = by_name(masks, problems, "_segmentation")
                cases += paired(pictures, drawn, BLACK_AND_WHITE, problems)
            else:
                cases += bare(pictures)
    return cases


def _unpacked(folder: Path) -> Path:
    """Where the files are: some programs unpack an archive into a folder of its own name."""
    return folder / folder.name if (folder / folder.name).is_dir() else folder
