"""What all file formats share: saying why a file is unreadable, and writing so that no half file is ever seen."""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from voxelsam.errors import FormatError, OutputError

HEAD = 4096
"""Bytes at the start of a file that formats are recognised by."""

GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; False where the name itself cannot be."""
    try:
        return path.is_dir()
    except OSError:
        return False


def head_of(path: Path) -> bytes:
    """First bytes of a file, for recognising its format.

    Raises:
        FormatError: SET-01, there is no such file; SET-03, it is a folder, cannot be opened, or holds something that
            is no medical file in any format (nothing, a web page, a Git LFS pointer).
    """
    try:
        if not path.exists():
            raise FormatError(f"{path}: no such file; check the path", code="SET-01")
        if not path.is_file():
            found = "a folder" if path.is_dir() else "a pipe or a device"
            raise FormatError(f"{path}: expected a file, but this is {found}", code="SET-03")
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})", code="SET-03") from None
    if trouble := _no_data(unpacked(head)):
        raise FormatError(f"{path}: {path.stat().st_size} bytes, {trouble}", code="SET-03")
    return head


def unpacked(head: bytes) -> bytes:
    """The first bytes of what a gzip stream holds; other bytes as they are."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(31).decompress(head, HEAD)
    except zlib.error:
        return b""


def first_bytes(head: bytes) -> str:
    """The start of a file for a message, e.g. ``b'%PDF-1.7'``."""
    packed = " inside gzip" if head.startswith(GZIP) and unpacked(head) else ""
    return f"{(unpacked(head) or head)[:16]!r}{packed}"


def _no_data(content: bytes) -> str | None:
    start = content.lstrip()[:64].lower()
    if not content:
        return "but it holds no data: the file is empty or its compression is broken; fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "but it is a Git LFS pointer, not the data; run `git lfs pull` in the repository that it came from"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "but it is a web page (a failed download?); fetch the file again"
    return None


@contextmanager
def fresh_file(target: Path) -> Iterator[Path]:
    """A path beside the target to write to; it takes the target's place when the block ends without an error.

    After an error the target is as it was before and nothing is left beside it.

    Raises:
        OutputError: the folder is missing, the disk is full, or the file cannot be written for another reason.
    """
    if target.is_dir():
        raise OutputError(f"{target}: cannot be written, a folder of this name exists")
    beside = target.with_name(f".{uuid4().hex}.part")
    try:
        yield beside
        beside.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def store(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Makes a new file and returns only after its bytes have reached the disk."""
    with path.open("xb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
