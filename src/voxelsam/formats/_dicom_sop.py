"""What kind of DICOM object a file holds, told from its first bytes without any library."""

from pathlib import Path

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segments that are yes or no, or a share, voxel by voxel."""
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""One number of a segment per voxel."""
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""Contours of radiotherapy."""

_SIGN = b"DICM"
_PREAMBLE = 128
_KIND = b"\x02\x00\x02\x00UI"
"""Tag and type of the element that names the kind; what precedes data is always written in this byte order."""
_LONGEST = 64
"""Characters of the longest identifier."""


def sop_class(head: bytes) -> str:
    """The kind of object (SOP class), empty where the first bytes are no DICOM file's.

    Args:
        head: The first bytes of a file, some hundreds of them.
    """
    if head[_PREAMBLE : _PREAMBLE + len(_SIGN)] != _SIGN:
        return ""
    start = head.find(_KIND, _PREAMBLE + len(_SIGN))
    if start < 0:
        return ""
    start += len(_KIND)
    length = int.from_bytes(head[start : start + 2], "little")
    if length > _LONGEST:
        return ""
    return head[start + 2 : start + 2 + length].rstrip(b"\0 ").decode("ascii", "replace")


def objects_in(folder: Path, kinds: tuple[str, ...], least: int) -> list[Path]:
    """The files of a folder, sorted by name; empty as soon as one of them is no object of those kinds.

    Args:
        folder: An existing folder.
        kinds: SOP classes.
        least: Bytes to look at.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_file() or sop_class(_start_of(path, least)) not in kinds:
            return []
        found.append(path)
    return found


def _start_of(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""
