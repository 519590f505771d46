"""A folder of images beside a folder of masks, files paired by equal names: ``images/a.nii.gz``, ``labels/a.nii.gz``.

The table is read from ``labels.json`` if there is one, else made from the values in the masks. Pictures are colour if
the first one is.
"""

from pathlib import Path

from voxelsam.errors import InputError
from voxelsam.layouts._dataset import Case, Dataset, Problems, channels_in, found_labels, stem, visible

EXPECTS = "a folder images (or image, imgs, img) and a folder labels (or label, masks, mask), files of equal names"
_IMAGES = ("images", "image", "imgs", "img")
_LABELS = ("labels", "label", "masks", "mask")


def recognises(root: Path) -> bool:
    """Whether there is a folder of images and one of masks."""
    return bool(_folders(root, _IMAGES)) and bool(_folders(root, _LABELS))


def read(root: Path) -> Dataset:
    """The data set in a folder; every case is labelled.

    Raises:
        InputError: all that is wrong, at once: SET-01 images without a mask, masks without an image, equal names.
    """
    problems = Problems(root)
    images = _by_stem(root, _IMAGES, problems)
    labels = _by_stem(root, _LABELS, problems)
    for name in sorted(images.keys() ^ labels.keys()):
        lone, lacks = (images[name], "mask") if name in images else (labels[name], "image")
        problems.add("SET-01", f"{name}: {lone} has no {lacks} of the same name")
    if not images and not labels:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.stop()
    cases = tuple(Case(name, (images[name],), labels[name]) for name in sorted(images))
    table = found_labels(root, cases, problems)
    channels, kind = channels_in(cases, ("image",))
    return Dataset(root, "pairs", root.resolve().name, table, channels, kind, cases, ())


def _folders(root: Path, names: tuple[str, ...]) -> list[Path]:
    return [root / name for name in names if (root / name).is_dir()]


def _by_stem(root: Path, names: tuple[str, ...], problems: Problems) -> dict[str, Path]:
    folders = _folders(root, names)
    if len(folders) != 1:
        found = ", ".join(folder.name for folder in folders) or "none"
        raise InputError(f"{root}: expected one of the folders {', '.join(names)}, but there is {found}", code="SET-01")
    files: dict[str, Path] = {}
    for path in visible(folders[0]):
        if stem(path) in files:
            problems.add("SET-01", f"{stem(path)}: both {files[stem(path)]} and {path} have this name")
        files[stem(path)] = path
    return files
