"""What layouts of pictures beside masks share."""

from collections.abc import Mapping
from pathlib import Path

from voxelsam.formats import picture
from voxelsam.layouts._dataset import Case, Problems, visible
from voxelsam.volumes.labels import Encoding

BLACK_AND_WHITE = Encoding(values={0: 0, 255: 1})
"""Masks in which 255 stands for the only structure."""


def by_name(folder: Path, problems: Problems, ending: str = "") -> dict[str, Path]:
    """Pictures of a folder by their names without the suffix; other files do not count.

    Args:
        folder: where they lie; one that does not exist holds nothing.
        problems: takes note of two pictures of one name (SET-01).
        ending: what the names end with, in whatever case; it is taken off, and pictures without it do not count.
    """
    found: dict[str, Path] = {}
    for path in visible(folder):
        if not picture.named_so(path) or not path.stem.lower().endswith(ending.lower()):
            continue
        name = path.stem[: len(path.stem) - len(ending)]
        if name in found:
            problems.add("SET-01", f"{name}: both {found[name]} and {path} have this name")
        found[name] = path
    return found


def paired(
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    encoding: Encoding,
    problems: Problems,
    *,
    group: str = "",
    prefix: str = "",
) -> tuple[Case, ...]:
    """Labelled cases from pictures and masks of the same names, in the order of the names.

    Args:
        images: picture of each name.
        masks: mask of each name.
        encoding: what the masks' numbers or colours stand for.
        problems: takes note of pictures without a mask and masks without a picture (SET-01).
        group: what the cases belong to; each is its own group if empty.
        prefix: goes before the names to give the ids.
    """
    for name in sorted(images.keys() ^ masks.keys()):
        lone, lacks = (images[name], "mask") if name in images else (masks[name], "picture")
        problems.add("SET-01", f"{prefix}{name}: {lone} has no {lacks}")
    return tuple(
        Case(f"{prefix}{name}", (images[name],), masks[name], group, encoding=encoding)
        for name in sorted(images.keys() & masks.keys())
    )


def bare(images: Mapping[str, Path], *, group: str = "", prefix: str = "") -> tuple[Case, ...]:
    """Cases without a label, in the order of the names; arguments as for ``paired``."""
    return tuple(Case(f"{prefix}{name}", (images[name],), None, group) for name in sorted(images))
