"""What kind of DICOM object a file holds, told from its first bytes without any library.

DICOM is told by content: ``DICM`` after 128 bytes, or, where a file has no such preamble, a chain of elements that
starts with group 0002 or 0008 and names its SOP class.
"""

import struct
from pathlib import Path

MAGIC = b"DICM"

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segments that are yes or no, or a share, voxel by voxel."""
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""One number of a segment per voxel."""
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""Contours of radiotherapy."""
LABELS = (SEGMENTATION, LABEL_MAP, STRUCTURE_SET)
"""Objects that say where structures are, which are no images."""

_SOP_CLASS, _RECOGNITION, _SYNTAX, _MEDIA = (0x0008, 0x0016), (0x0008, 0x0010), (0x0002, 0x0010), (0x0002, 0x0002)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_SHORT = (
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
)  # fmt: skip
_IMPLICIT, _BIG, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"

Tag = tuple[int, int]


def sop_class(head: bytes) -> str | None:
    """What kind of DICOM object the first bytes of a file belong to.

    Args:
        head: At least some hundred bytes.

    Returns:
        The SOP class UID; empty if it stands further behind; None if this is no DICOM file.
    """
    if head[128:132] == MAGIC:
        meta, end = _chain(head, 132, explicit=True, order="<", groups=(2,))
        if _MEDIA in meta:
            return _uid(meta[_MEDIA])
        return _uid(_body(head, end, _uid(meta.get(_SYNTAX, b""))).get(_SOP_CLASS, b""))
    if head[:2] == b"\x02\x00":
        meta, end = _chain(head, 0, explicit=True, order="<", groups=(2,))
        body = _body(head, end, _uid(meta.get(_SYNTAX, b"")))
        found = _uid(meta.get(_MEDIA, body.get(_SOP_CLASS, b"")))
        return found if len(meta) >= 2 and found.startswith("1.2.") else None
    if head[:2] not in (b"\x08\x00", b"\x00\x08"):
        return None
    for syntax in (_BIG,) if head[:2] == b"\x00\x08" else ("", _IMPLICIT):
        body = _body(head, 0, syntax)
        found = _uid(body.get(_SOP_CLASS, b""))
        if len(body) >= 3 and (found.startswith("1.2.") or body.get(_RECOGNITION, b"").startswith(b"ACR-NEMA")):
            return found
    return None


def deflated_from(head: bytes) -> int | None:
    """Where the packed part of a deflated data set begins; None for other files."""
    meta, end = _chain(head, 132, explicit=True, order="<", groups=(2,))
    return end if head[128:132] == MAGIC and _uid(meta.get(_SYNTAX, b"")) == _DEFLATED else None


def _body(head: bytes, start: int, syntax: str) -> dict[Tag, bytes]:
    """The elements of group 0008 of a data set that are known by its first bytes."""
    if syntax == _DEFLATED:
        return {}
    order = ">" if syntax == _BIG else "<"
    explicit = head[start + 4 : start + 6] in _LONG + _SHORT and syntax != _IMPLICIT
    return _chain(head, start, explicit=explicit, order=order, groups=(8,))[0]


def _chain(
    head: bytes, start: int, *, explicit: bool, order: str, groups: tuple[int, ...]
) -> tuple[dict[Tag, bytes], int]:
    """Elements of ascending tags in these groups, and where they end."""
    found: dict[Tag, bytes] = {}
    last: Tag = (0, 0)
    while start + 12 <= len(head):
        tag: Tag = struct.unpack_from(order + "HH", head, start)
        kind = head[start + 4 : start + 6]
        if (tag <= last and found) or tag[0] not in groups:
            break
        if explicit and kind in _SHORT:
            begin, length = start + 8, struct.unpack_from(order + "H", head, start + 6)[0]
        elif explicit and kind in _LONG:
            begin, length = start + 12, struct.unpack_from(order + "I", head, start + 8)[0]
        elif not explicit:
            begin, length = start + 8, struct.unpack_from(order + "I", head, start + 4)[0]
        else:
            break
        if begin + length > len(head):
            break
        found[tag] = head[begin : begin + length]
        last, start = tag, begin + length
    return found, start


def _uid(value: bytes) -> str:
    return value.decode("ascii", "replace").rstrip("\0 ")


def objects_in(folder: Path, kinds: tuple[str, ...], least: int) -> list[Path]:
    """The files of a folder, sorted by name; empty as soon as one of them is no object of those kinds.

    Args:
        folder: An existing folder.
        kinds: SOP classes.
        least: Bytes to look at.
    """
    found = []
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return []
    for path in inside:
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
