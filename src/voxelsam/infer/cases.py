"""Which cases a file or folder holds, and where the mask of each goes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

from voxelsam import checks, formats
from voxelsam.errors import InputError, OutputError
from voxelsam.formats import can_write, dicom, ending_of, mask_ending, picture, read_channels
from voxelsam.volumes.volume import Volume

ARCHIVE = ".zip"
"""Ending of archives, which may hold DICOM series."""


@dataclass(frozen=True)
class Task:
    """One case to segment."""

    id: str
    images: tuple[Path, ...]
    """One file (or folder of a DICOM series) per channel."""
    output: Path
    series: str | None = None
    """Which DICOM series, where the folder or archive holds several."""
    frame: int | None = None
    """Which volume, where a file holds several."""

    def read(self, channels: int) -> Volume:
        """The image, with that many channels."""
        return read_channels(self.images, channels, frame=self.frame, series=self.series)


def tasks(
    source: Path,
    output: Path,
    channels: int,
    *,
    ending: str | None = None,
    series: str | None = None,
    frame: int | None = None,
    film: bool = False,
) -> tuple[Task, ...]:
    """The cases of a file or folder, and where each mask goes.

    A folder that holds DICOM files is one case; in any other folder every image file is a case, and every folder or zip
    archive with DICOM files. Folders without one are named in a notice. With one channel a mask has the name of its
    image, without nnU-Net's ``_0000``. With several channels files are named ``CASE_0000.nii.gz``,
    ``CASE_0001.nii.gz`` and so on, as in nnU-Net. A picture, a film, a DICOM series, or a file with a volume for each
    channel in a fourth axis, may hold all channels, so each is a case of its own, unless there is one for each channel
    under those names. A mask is of the same family as its image: NIfTI beside NIfTI, DICOM SEG beside DICOM, PNG beside
    pictures, a folder of PNG beside a film.

    Args:
        source: an image file, a folder of image files, a DICOM series, or a folder of them.
        output: a folder; for one file also the name of the mask.
        channels: how many channels the model takes.
        ending: of the masks' names; None: see above.
        series: which DICOM series of all that lie in ``source``, which is then a single case.
        frame: which volume of files that hold several, from 0.
        film: folders of numbered pictures are films; otherwise each picture is a case of its own.

    Raises:
        InputError: there is nothing to segment, a case lacks a channel, or two cases would share a mask.
        OutputError: masks cannot be written in the format of that file name.
    """
    if not source.exists():
        raise InputError(f"there is no {source}")
    groups = _grouped(_images(source, film, series), channels)
    if not groups:
        raise InputError(f"there is no image of a known format in {source}", code="SET-03")
    wrong = [
        f"  {name}: {', '.join(p.name for p in paths)}"
        for name, paths in groups.items()
        if len(paths) != channels and not (len(paths) == 1 and _holds_all(paths[0], channels))
    ]
    if wrong:
        need = "CASE_0000 …" if channels > 1 else "one file per case"
        raise InputError(
            f"expected {channels} file(s) per case ({need}), but found\n" + "\n".join(wrong), code="VAL-06"
        )
    if series is not None and len(groups) > 1:
        raise InputError(f"{source} holds {len(groups)} cases: a series can be chosen for one case only", code="DCM-03")
    if ending is not None and not can_write(Path(f"mask{ending}")):
        raise OutputError(f"masks cannot be written as {ending}")
    if not ending_of(output):
        masks = {name: output / f"{name}{ending or mask_ending(paths[0])}" for name, paths in groups.items()}
        return tuple(Task(name, tuple(paths), masks[name], series, frame) for name, paths in groups.items())
    if len(groups) > 1:
        raise InputError(f"{source} holds {len(groups)} cases: give a folder for their masks, not {output}")
    if ending is not None and not output.name.endswith(ending):
        raise OutputError(f"{output} does not end with {ending}: leave one of the two out")
    if not can_write(output):
        better = mask_ending(output) or "the name of a folder"
        raise OutputError(f"{output}: masks cannot be written as {ending_of(output)}; take {better}")
    return tuple(Task(name, tuple(paths), output, series, frame) for name, paths in groups.items())


def _images(source: Path, film: bool, series: str | None) -> list[Path]:
    """What is a case or a channel of one: see ``tasks``."""
    if not source.is_dir():
        return [source] if ending_of(source) or _is_archive(source) or formats.family(source) else []
    if series is not None and _family(source) == "dicom":
        return [source]
    inside = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    if any(_is_slice(path) for path in inside) or (film and _family(source) == "video"):
        return [source]
    families = {path: _family(path) for path in inside if path.is_dir()}
    known = [path for path, family in families.items() if family in (("dicom", "video") if film else ("dicom",))]
    frames = [path.name for path, family in families.items() if family == "video" and path not in known]
    if frames:
        checks.notice(
            "SET-03", f"{source}: folders of pictures are left out, unless --film takes them: {_some(frames)}"
        )
    others = [path.name for path in families if path not in known and path.name not in frames]
    if known and others:
        checks.notice("SET-03", f"{source}: folders without an image that can be read are left out: {_some(others)}")
    return [path for path in inside if (path in known if path.is_dir() else ending_of(path) or _is_archive(path))]


def _family(path: Path) -> str | None:
    """Name of the format; None also for files that hold nothing."""
    try:
        return formats.family(path)
    except InputError:
        return None


def _is_slice(path: Path) -> bool:
    """Whether a file is one of a DICOM series; files that have the ending of another format are not opened."""
    if not path.is_file() or path.suffix.lower() == ARCHIVE:
        return False
    return ending_of(path).lower() in ("", *dicom.ENDINGS) and _family(path) == "dicom"


def _is_archive(path: Path) -> bool:
    """Whether this is an archive with DICOM, or a damaged one, which nobody knows."""
    return path.suffix.lower() == ARCHIVE and (_family(path) == "dicom" or not is_zipfile(path))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _holds_all(path: Path, channels: int) -> bool:
    """Whether one file or folder may hold all channels; what is wrong with it is told when its turn comes."""
    if _may_be_coloured(path):
        return True
    try:
        return path.is_file() and formats.frames(path) == channels
    except InputError:
        return False


def _may_be_coloured(path: Path) -> bool:
    """Whether this is a picture, a film or DICOM, all of which may be red, green and blue."""
    return picture.named_so(path) or _family(path) in ("dicom", "video")


def _grouped(files: Sequence[Path], channels: int) -> dict[str, list[Path]]:
    """The files of each case, by its id."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(_without(path, r"_\d{4}$" if channels > 1 else r"_0000$"), []).append(path)
    cases: dict[str, list[Path]] = {}
    for name, paths in groups.items():
        alone = channels > 1 and len(paths) != channels and all(map(_may_be_coloured, paths))
        for case, members in ((_without(p, r"_0000$"), [p]) for p in paths) if alone else ((name, paths),):
            cases.setdefault(case, []).extend(members)
    return cases


def _without(path: Path, number: str) -> str:
    """A file's name without its ending, and without its number."""
    named = path if path.name not in ("", "..") else path.resolve()
    ending = ending_of(named) or (named.suffix if named.suffix.lower() == ARCHIVE else "")
    return re.sub(number, "", named.name.removesuffix(ending))
