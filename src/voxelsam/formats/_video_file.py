"""Film files by PyAV: frames as a player shows them, no more than fit into memory, none lost without a word."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from voxelsam import checks
from voxelsam.errors import FormatError, InputError, MissingExtra, OutputError
from voxelsam.formats._files import head_of
from voxelsam.formats._values import Array

LIMIT = 4 << 30
"""Bytes that the frames of one film may have in memory."""

_UNEVEN = 0.1
"""Frames whose length differs from the mean by less than this part of it count as equal."""
_LOST = 2.5
"""A film that ends before its time by more than so many of its longest frames is cut off."""

Frames = UInt8[np.ndarray, "k height width channels"]
Turn = Float64[np.ndarray, "2 2"]
"""Where columns (first row) and rows (second row) of a stored frame run on display, along x and y."""


@dataclass(frozen=True, eq=False)
class Film:
    """Frames, and seconds from one to the next."""

    pixels: Frames
    seconds: float


def decode(path: Path, start: int, stop: int | None) -> Film:
    """Frames of a film file.

    Raises:
        FormatError, InputError, MissingExtra: as ``video.read``.
    """
    av = _library()
    head_of(path)
    with _opened(path, av) as container:
        stream = next((item for item in container.streams.video if not _is_cover(item)), None)
        if stream is None:
            raise FormatError(f"{path}: holds no film (sound or a cover picture at most)", code="SET-03")
        stream.thread_type = "AUTO"
        taken = _Taken(_Growing(path, *_expected(stream, start, stop)))
        trouble = _take(path, container, stream, taken, start, stop, av)
        if not trouble and (stop is None or taken.number < stop):
            trouble = _lost(container, stream, taken)
        rate, base = stream.average_rate, float(stream.time_base)
    if not taken.kept.count:
        where = f"from {start} on " if start else ""
        raise FormatError(
            f"{path}: {path.stat().st_size} bytes, but no frame {where}can be read{': ' if trouble else ''}{trouble}",
            code="SET-03",
        )
    if trouble:
        checks.refuse(
            "VID-01",
            f"{path}: the film is damaged: {trouble}; fetch it again, or accept the {taken.kept.count} frames before",
            FormatError,
        )
    seconds = _pace(path, taken.times[start:], 1 / float(rate) if rate else 0.04, base)
    return Film(taken.kept.room[: taken.kept.count], seconds)


def encode(path: Path, pixels: Frames, rate: Fraction) -> None:
    """Writes a film as an MP4 file; frames of odd size are padded by a copy of their last row or column.

    Raises:
        OutputError: it cannot be encoded.
        MissingExtra: the package that encodes films is not installed.
    """
    av = _library()
    _, height, width, _ = pixels.shape
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "medium"})
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            for frame in pixels:
                padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        raise OutputError(f"{path.parent}: the film cannot be written ({error})") from error
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


class _Growing:
    """Frames that come one by one, with room for as many as are expected."""

    def __init__(self, path: Path, expected: int, certain: bool) -> None:
        self.path, self.expected, self.certain, self.count = path, max(expected, 1), certain, 0
        self.room: Array = np.empty(0, np.uint8)

    def add(self, frame: Array) -> None:
        most = LIMIT // frame.nbytes
        needed = max(self.count + 1, self.expected if self.certain else 0)
        if needed > most:
            raise InputError(
                f"{self.path}: {needed} frames or more of {frame.shape[1]} × {frame.shape[0]} pixels need more than "
                f"{LIMIT >> 20} MiB; read a part (start=0, stop={most}), or a smaller film",
                code="VAL-05",
            )
        if not self.count:
            self.room = np.empty((min(self.expected, most), *frame.shape), np.uint8)
        if frame.shape != self.room.shape[1:]:
            raise FormatError(f"{self.path}: frame {self.count} has another size than the first", code="VID-01")
        if self.count == len(self.room):
            more = min(max(2 * self.count, 16), most)
            self.room = np.concatenate([self.room, np.empty((more - self.count, *frame.shape), np.uint8)])
        self.room[self.count] = frame
        self.count += 1


@dataclass
class _Taken:
    """What came out of a file so far."""

    kept: _Growing
    number: int = 0
    """Of the next frame."""
    times: list[float] = field(default_factory=list)
    """Of every frame, in seconds."""
    last: float = 0.0
    """Length of the last frame in seconds, if the file says it."""
    transparent: bool = False
    """Whether transparent pixels were found and accepted."""


def _take(path: Path, container: Any, stream: Any, taken: _Taken, start: int, stop: int | None, av: Any) -> str:
    """Decodes; returns what went wrong, or nothing."""
    layout, turn = _layout(path, stream), None
    try:
        for image in container.decode(stream):
            if image.is_corrupt:
                return f"frame {taken.number} is damaged"
            if taken.number >= start:
                turn = _turn_of(path, image, av) if turn is None else turn
                taken.kept.add(_pixels(path, image, layout, turn, taken))
            taken.times.append(float(image.time or 0))
            taken.last = float((image.duration or 0) * (image.time_base or 0))
            taken.number += 1
            if stop is not None and taken.number >= stop:
                break
    except av.FFmpegError as error:
        return f"frame {taken.number} cannot be decoded ({error.strerror})"
    return ""


def _expected(stream: Any, start: int, stop: int | None) -> tuple[int, bool]:
    """Frames to expect, and whether there are so many for certain."""
    if stream.frames:
        return min(int(stream.frames), stop or int(stream.frames)) - start, True
    return (stop or start) - start, False


def _lost(container: Any, stream: Any, taken: _Taken) -> str:
    """Whether a file ends before the film does, by what its header says."""
    if container.format.name == "avi" and taken.number < stream.frames:
        return f"it should have {stream.frames} frames, but ends after {taken.number}"
    length = _length(container, stream)
    steps = [after - before for before, after in pairwise(taken.times)]
    longest = max([*steps, taken.last])
    end = (taken.times or [0.0])[-1] + (taken.last or longest)
    if not longest or length - end <= _LOST * longest:
        return ""
    return f"it should last {length:.3g} s, but ends after {end:.3g} s"


def _length(container: Any, stream: Any) -> float:
    """Seconds that a film lasts; 0 if it does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if found := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    return float(container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(stream.disposition).lower()


def _library() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtra("films need the extra 'video': pip install 'voxelsam[video]'") from None
    return av


@contextmanager
def _opened(path: Path, av: Any) -> Iterator[Any]:
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise FormatError(
            f"{path}: {path.stat().st_size} bytes, cut off or damaged, or no film that can be decoded ({error}); fetch "
            "or export it again",
            code="SET-03",
        ) from None
    with container:
        yield container


def _layout(path: Path, stream: Any) -> str:
    """How frames are unpacked, by what the file holds."""
    form = stream.codec_context and stream.codec_context.format
    if form is None:
        raise FormatError(f"{path}: its film is packed in a way that cannot be decoded", code="SET-03")
    deepest = max(part.bits for part in form.components)
    if deepest > 8:
        checks.notice("VID-01", f"{path}: samples of {deepest} bits are read as 8", stacklevel=5)
    if form.name == "pal8":  # one component, whose numbers stand for colours
        return "rgb24"
    if any(part.is_alpha for part in form.components):
        checks.notice("VID-01", f"{path}: the alpha channel of the film is left out", stacklevel=5)
        return "rgba"
    return "gray" if len(form.components) == 1 else "rgb24"


def _pixels(path: Path, image: Any, layout: str, turn: Turn, taken: _Taken) -> Array:
    """One frame as it is shown, with one or three channels last."""
    samples: Array = image.to_ndarray(format=layout)
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.shape[2] == 4:
        hidden = int((samples[..., 3] < 255).sum())
        if hidden and not taken.transparent:
            taken.transparent = True
            _refuse_transparency(path, taken.number, hidden)
        samples = samples[..., :3]
    if turn[0, 0] == 0:
        samples = samples.swapaxes(0, 1)
    vertical, horizontal = turn[:, 1].sum(), turn[:, 0].sum()
    return samples[:: 1 if vertical > 0 else -1, :: 1 if horizontal > 0 else -1]


def _refuse_transparency(path: Path, number: int, hidden: int) -> None:
    checks.refuse(
        "VID-01",
        f"{path}: {hidden} pixels of frame {number} are transparent, and what lies behind them is not in the file; "
        "write the film without alpha, or accept the colours as they are stored",
    )


def _turn_of(path: Path, image: Any, av: Any) -> Turn:
    """How the file asks to be shown."""
    side = image.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if side is None:
        return np.eye(2)
    numbers = np.frombuffer(bytes(side), "<i4").astype(np.float64)[[0, 1, 3, 4]].reshape(2, 2) / (1 << 16)
    turn: Turn = np.rint(numbers)
    if not np.allclose(turn, numbers, atol=1e-3) or abs(np.linalg.det(turn)) != 1:
        checks.notice("VID-01", f"{path}: the film asks to be shown at an angle, which is not done", stacklevel=6)
        return np.eye(2)
    if not np.array_equal(turn, np.eye(2)):
        checks.notice(
            "VID-01",
            f"{path}: the film asks to be turned on display (by {image.rotation} degrees, or mirrored); it is read as "
            "it is shown, and its masks must lie on it as it is shown",
            stacklevel=6,
        )
    return turn


def _pace(path: Path, times: Sequence[float], usual: float, base: float) -> float:
    """Seconds from frame to frame, the mean of a film whose pace changes."""
    if len(times) < 2 or times[-1] <= times[0]:
        return usual
    steps = np.diff(times)
    mean = float(steps.mean())
    if np.abs(steps - mean).max() > max(_UNEVEN * mean, 2.001 * base):
        checks.notice(
            "VID-01",
            f"{path}: frames are {steps.min():.3g} to {steps.max():.3g} s apart; all count as {mean:.3g} s",
            stacklevel=5,
        )
    return mean
