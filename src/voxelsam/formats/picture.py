"""PNG, JPEG, BMP and TIFF: one slice whose first row is at the top, i the column and j the row.

Pictures of 8 bits hold 0 to 255 (kind PICTURE). Deeper ones keep their numbers, whose range is arbitrary (UNKNOWN).
Grey gives one channel, colour three; a palette gives one if all its colours are grey. An opaque alpha channel is
dropped, a picture with transparent pixels refused. Where a file asks to be turned on display (EXIF orientation), what
is read is what is shown, with a warning.

A picture says nothing about a place in a patient: pixels count as 1 mm apart, whatever print resolution the file
states, and the axes are those of a canonical axial slice, so that nothing is mirrored on the way to a model.

Masks hold one whole number per pixel: grey values, or the indices of a palette. They are never JPEG, which changes
values. They are read back and compared before they get their name.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from einops import rearrange
from jaxtyping import Shaped
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from voxelsam import checks
from voxelsam.errors import FormatError, InputError, InputWarning, LabelError, OutputError, VoxelSamError
from voxelsam.formats._files import fresh_file, head_of, store
from voxelsam.formats._values import check_finite, chosen, compact, integers, named, warn_if_constant
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels, count_values
from voxelsam.volumes.volume import Kind, LabelMap, Source, Volume

NAME = "picture"
SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
ENDINGS = (*SUFFIXES, ".jpg", ".jpeg")

_READERS = ("PNG", "JPEG", "BMP", "TIFF")
_WRITERS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_GREY, _COLOUR, _NUMBERS = ("1", "L", "LA"), ("RGB", "RGBA"), ("I;16", "I;16L", "I;16B", "I", "F")

Rows = Shaped[np.ndarray, "height width"]
Pixels = Shaped[np.ndarray, "height width channels"]


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first bytes are those of a PNG, JPEG, TIFF or BMP file."""
    is_bmp = head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return head.startswith(_STARTS) or is_bmp


def named_so(path: Path) -> bool:
    """Whether a file's name is that of a picture, whatever the file holds."""
    return path.suffix.lower() in ENDINGS


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as they are stored, without decoding it.

    Raises:
        FormatError: SET-03, the file cannot be read.
    """
    with _opened(path) as image:
        width, height = image.size
    return width, height


def lattice(width: int, height: int) -> Grid:
    """Where the pixels of a picture count as lying: canonical axial axes, 1 mm apart."""
    return Grid((width, height, 1), np.diag([-1.0, -1.0, 1.0, 1.0]), "single")


def frames(path: Path) -> int:
    """Number of pages of a TIFF (or pictures of an animated PNG); 1 for a single picture.

    Raises:
        FormatError: SET-03, the file cannot be read.
    """
    with _opened(path) as image:
        return _pages(image)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """A picture, grey or colour.

    Args:
        path: The file.
        frame: Which page of a file that holds several.

    Raises:
        FormatError: SET-03, the file is cut off or broken.
        InputError: VAL-01, NaN or infinite values; VAL-05, transparent pixels, colours that are not red, green and
            blue, 16-bit colours, or several pages and none chosen.
    """
    pixels = _channels(path, _load(path, frame))
    pixels = check_finite(path, pixels)
    warn_if_constant(path, pixels)
    kind: Kind = "PICTURE" if pixels.dtype == np.uint8 else "UNKNOWN"
    height, width, _ = pixels.shape
    return Volume(rearrange(pixels, "j i c -> c i j 1"), lattice(width, height), kind, Source((path,), NAME))


def read_numbers(path: Path) -> Volume:
    """Whole numbers that stand for something, as an image of one channel.

    Raises:
        FormatError, InputError: as ``read``.
        LabelError: LAB-01, colours, a JPEG file, or values that are not within 0.001 of an integer.
    """
    numbers = integers(path, _numbers(path, _load(path, None)))
    return Volume(rearrange(numbers, "j i -> 1 i j 1"), lattice(*numbers.shape[::-1]), "UNKNOWN", Source((path,), NAME))


def read_labels(path: Path, labels: Labels | None = None) -> LabelMap:
    """A label map, as uint8 or uint16.

    Args:
        path: The file.
        labels: Table that the values must be in; None makes one from the values found.

    Raises:
        FormatError, InputError: as ``read``.
        LabelError: as ``read_numbers``; LAB-02, values outside the table.
    """
    return named(path, read_numbers(path), labels)


def check_target(path: Path, image: Volume) -> None:
    """Refuses an image whose label map is no picture.

    Raises:
        OutputError: it has several slices, or a place in a patient.
    """
    _check_flat(path, image.grid)


def write_labels(path: Path, label_map: LabelMap, like: Source | None = None) -> None:
    """Writes the label map of one picture, 8 bits where the values allow, else 16.

    Args:
        path: Target, ``.png``, ``.tif``, ``.tiff`` or ``.bmp``; an existing file is replaced.
        label_map: What to write; its values must be in its table.
        like: Not needed: pictures have no header worth keeping.

    Raises:
        LabelError: LAB-02, values outside the table.
        OutputError: this is no label map of one picture, or the file cannot be written or does not read back.
    """
    label_map.labels.check(label_map.data, f"the label map for {path}")
    _check_flat(path, label_map.grid)
    _write(path, compact(rearrange(label_map.data, "i j 1 -> j i")))


def write_volume(path: Path, volume: Volume) -> None:
    """Writes a picture: grey (8 or 16 bits) or colour (8 bits).

    Raises:
        OutputError: the image is no such picture, or the file cannot be written or does not read back.
    """
    _check_flat(path, volume.grid)
    depths: dict[int, tuple[type, ...]] = {1: (np.uint8, np.uint16), 3: (np.uint8,)}
    if volume.data.dtype not in depths.get(volume.channels, ()):
        raise OutputError(
            f"{path}: a picture has one channel of 8 or 16 bits or three of 8, but the image has {volume.channels} of "
            f"{volume.data.dtype}"
        )
    pixels = rearrange(volume.data, "c i j 1 -> j i c")
    _write(path, pixels[..., 0] if volume.channels == 1 else pixels)


@dataclass(frozen=True)
class _Picture:
    """A loaded picture, as it is shown."""

    image: Image.Image
    format: str
    bits: int
    """Of one sample in the file; Pillow stretches samples of 2 and 4 bits to 8."""


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The file, not decoded yet; whatever Pillow finds wrong then or later becomes a FormatError."""
    head = head_of(path)
    try:
        with _without_pillows_warnings(), path.open("rb") as stream, _identified(path, head, stream) as image:
            yield image
    except (VoxelSamError, InputWarning, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise FormatError(f"{path}: too large to be read as a picture ({error})", code="SET-03") from None
    except Exception as error:
        raise FormatError(
            f"{path}: {path.stat().st_size} bytes, cut off or damaged, or of a kind that cannot be decoded "
            f"({_first_line(error)}); fetch or export it again",
            code="SET-03",
        ) from None


@contextmanager
def _without_pillows_warnings() -> Iterator[None]:
    """Pillow tells of every odd tag; what matters of it ends as an error or is told by us."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _identified(path: Path, head: bytes, stream: BinaryIO) -> ImageFile.ImageFile:
    try:  # from a stream: a file that Pillow maps into memory itself goes wrong if it is a TIFF to be turned
        return Image.open(stream, formats=_READERS)
    except UnidentifiedImageError:
        place = _wrong_photometric(path, head)
        if place is None:
            raise
    content = bytearray(path.read_bytes())
    content[place : place + 2] = struct.pack(_byte_order(head) + "H", 2)
    checks.notice(
        "VAL-05",
        f"{path}: the file says that it is grey, but it holds three samples for each pixel; they are read as red, "
        "green and blue",
        stacklevel=7,
    )
    return Image.open(io.BytesIO(content), formats=_READERS)


def _wrong_photometric(path: Path, head: bytes) -> int | None:
    """Where a TIFF of three 8-bit samples says that it is grey; None if it does not."""
    if head[2:4] not in (b"*\0", b"\0*"):
        return None
    order = _byte_order(head)
    with path.open("rb") as stream:
        stream.seek(struct.unpack_from(order + "I", head, 4)[0])
        directory = stream.tell() + 2
        count = struct.unpack(order + "H", stream.read(2))[0]
        entries = [struct.unpack(order + "HHIH2x", stream.read(12)) for _ in range(count)]
    values = {tag: value for tag, _, _, value in entries}
    counts = {tag: number for tag, _, number, _ in entries}
    says_grey = values.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 1
    if not says_grey or values.get(TiffImagePlugin.SAMPLESPERPIXEL) != 3 or counts.get(258) != 3:
        return None
    return directory + 12 * list(values).index(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) + 8


def _byte_order(head: bytes) -> str:
    return "<" if head.startswith(b"II") else ">"


def _pages(image: ImageFile.ImageFile) -> int:
    """Pages; what telephones store behind a JPEG (a preview, a depth map) is none."""
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def _load(path: Path, frame: int | None) -> _Picture:
    with _opened(path) as image:
        image.seek(chosen(path, _pages(image), frame, thing="page"))
        form, bits = image.format or "", _bits(image, head_of(path))
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
        inverted = getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        image.load()
        shown = ImageOps.exif_transpose(image)
        picture = _Picture(shown, form, bits)
    if bits > 8 and (inverted or shown.mode not in _NUMBERS):
        what = "0 stands for white" if inverted else "they would lose half of their bits"
        raise InputError(
            f"{path}: samples of {bits} bits that cannot be read as they are ({what}); store colours with 8 bits, "
            "grey with 0 for black",
            code="VAL-05",
        )
    if 1 < turn <= 8:
        checks.notice(
            "GEO-06",
            f"{path}: the file asks to be turned on display (EXIF orientation {turn}); it is read as it is shown, and "
            "its mask must lie on it as it is shown",
            stacklevel=4,
        )
    return picture


def _bits(image: ImageFile.ImageFile, head: bytes) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    return head[24] if image.format == "PNG" else 8


def _channels(path: Path, picture: _Picture) -> Pixels:
    image = _opaque(path, picture.image)
    if image.mode in _NUMBERS:
        return _native(image)[..., None]
    if image.mode in _GREY:
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "P":
        colours = np.reshape(image.getpalette() or [], (-1, 3))
        return _rgb(image)[..., : 1 if (colours == colours[:, :1]).all() else 3]
    if image.mode in _COLOUR:
        return _rgb(image)
    raise InputError(f"{path}: its colours are {image.mode}; store red, green and blue, or grey", code="VAL-05")


def _numbers(path: Path, picture: _Picture) -> Rows:
    image = picture.image
    if picture.format in ("JPEG", "MPO"):
        found = list(count_values(_rgb(image)))
        raise LabelError(
            f"{path}: JPEG changes values, so it cannot hold a mask; this one holds {len(found)} values "
            f"({', '.join(map(str, found[:8]))}{' …' if len(found) > 8 else ''}): "
            "choose a threshold, and store the mask as PNG",
            code="LAB-01",
        )
    if image.mode == "P":  # what is transparent in a palette is a matter of display
        return np.asarray(image)
    image = _opaque(path, image)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in _NUMBERS:
        return _native(image)
    if image.mode in _GREY:
        stretched = 255 // (2 ** min(picture.bits, 8) - 1)
        return np.asarray(image.convert("L")) // np.uint8(stretched)
    colours = _rgb(image) if image.mode in _COLOUR else None
    if colours is None or not (colours == colours[..., :1]).all():
        raise LabelError(
            f"{path}: a mask holds one number per pixel, but this holds colours ({image.mode}); turn each colour into "
            "a number (volumes.colours_to_labels does)",
            code="LAB-01",
        )
    return np.ascontiguousarray(colours[..., 0])


def _opaque(path: Path, image: Image.Image) -> Image.Image:
    """The picture itself, if nothing of it is transparent."""
    if not image.has_transparency_data:
        return image
    hidden = -1 if image.mode in _NUMBERS else int((np.asarray(image.convert("RGBA"))[..., 3] < 255).sum())
    if hidden:
        how_many = "a value that stands for transparent pixels" if hidden < 0 else f"{hidden} transparent pixels"
        raise InputError(
            f"{path}: {how_many}, and what lies behind them is not in the file; put the picture on a ground of your "
            "choice and store it without alpha",
            code="VAL-05",
        )
    return image


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def _native(image: Image.Image) -> Rows:
    data: np.ndarray[Any, Any] = np.asarray(image)
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def _check_flat(path: Path, grid: Grid) -> None:
    """Refuses what a picture cannot hold: several slices, or a place in a patient."""
    if grid.shape[2] != 1:
        raise OutputError(f"{path}: a picture holds one slice, but there are {grid.shape[2]}; write one file for each")
    if not np.array_equal(grid.affine[:2], lattice(*grid.shape[:2]).affine[:2]):
        raise OutputError(f"{path}: a picture cannot say where in the patient a scan lies; write a .nii.gz file")


def _write(path: Path, pixels: Shaped[np.ndarray, "height width *channels"]) -> None:
    def write(stream: BinaryIO) -> None:
        packed = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(packed, _WRITERS[path.suffix.lower()])
        stream.write(packed.getvalue())

    with fresh_file(path) as beside:
        store(beside, write)
        try:
            found = _native(_load(beside, None).image)
        except InputError as error:
            raise OutputError(f"{path}: cannot be read back ({error}); nothing was changed") from error
        if not (np.array_equal(found, pixels) and found.dtype == pixels.dtype):
            raise OutputError(f"{path}: does not read back as what was written; nothing was changed")
