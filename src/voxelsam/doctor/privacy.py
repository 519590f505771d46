"""PHI-01: what may say who the patient is, in file names and headers. Fields are named, their values never.

This is a search for what is often forgotten, not proof that a file is anonymous: pixels with burnt-in text, private
DICOM tags and compressed blocks of text are not read.
"""

import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from voxelsam import formats
from voxelsam.checks import Finding
from voxelsam.errors import InputError

_PATTERNS = {
    "a name": re.compile(r"[^\W\d_]+\^[^\W\d_]*"),
    "a date": re.compile(
        r"(?<!\d)(?:(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
        r"|(?:0[1-9]|[12]\d|3[01])[-_.](?:0[1-9]|1[0-2])[-_.](?:19|20)\d\d)(?!\d)"
    ),
    "a DICOM UID": re.compile(r"(?<![\d.])[12](?:\.\d+){5,}"),
    "a patient's number": re.compile(
        r"(?i)(?:mrn|pid|patient[-_ ]?(?:id|no|name)|accession)[-_ =:]*[a-z]?\d{4,}|(?<!\d)\d{7,}(?!\d)"
    ),
}
"""In the order in which they are tried; what one finds is hidden from the next."""

_HASH = re.compile(r"(?i)(?<![0-9a-z])(?=[0-9]*[a-f])[0-9a-f]{8,}(?![0-9a-z])")
_NIFTI_TEXT = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
_DICOM_WORDS = (
    "AccessionNumber", "AcquisitionDate", "AcquisitionDateTime", "AdditionalPatientHistory", "BranchOfService",
    "ContentDate", "CountryOfResidence", "DeviceSerialNumber", "EthnicGroup", "InstanceCreationDate",
    "InstitutionAddress", "InstitutionName", "IssuerOfPatientID", "MedicalRecordLocator", "MilitaryRank",
    "NameOfPhysiciansReadingStudy", "Occupation", "OperatorsName", "OtherPatientIDs", "OtherPatientIDsSequence",
    "OtherPatientNames", "PatientAddress", "PatientBirthDate", "PatientBirthName", "PatientBirthTime",
    "PatientComments", "PatientID", "PatientInsurancePlanCodeSequence", "PatientMotherBirthName", "PatientName",
    "PatientReligiousPreference", "PatientTelephoneNumbers", "PerformingPhysicianName", "PhysiciansOfRecord",
    "ReferringPhysicianAddress", "ReferringPhysicianName", "RegionOfResidence", "RequestingPhysician", "SeriesDate",
    "StationName", "StudyDate", "StudyID",
)  # fmt: skip
_PLAIN_KEYS = {
    "type", "dimension", "space", "space dimension", "sizes", "space directions", "kinds", "endian", "encoding",
    "space origin", "measurement frame", "centerings", "spacings", "units", "space units", "thicknesses", "axis mins",
    "axis maxs", "data file", "line skip", "byte skip", "min", "max", "old min", "old max", "block size",
    "objecttype", "ndims", "binarydata", "binarydatabyteordermsb", "compresseddata", "compresseddatasize",
    "transformmatrix", "offset", "centerofrotation", "anatomicalorientation", "elementspacing", "dimsize",
    "elementtype", "elementdatafile", "elementnumberofchannels", "elementsize", "headersize", "modality", "position",
    "orientation", "itk_inputfiltername", "sample units",
}  # fmt: skip
_PLAIN_TAGS = {
    "ImageWidth", "ImageLength", "BitsPerSample", "Compression", "PhotometricInterpretation", "StripOffsets",
    "SamplesPerPixel", "RowsPerStrip", "StripByteCounts", "XResolution", "YResolution", "PlanarConfiguration",
    "ResolutionUnit", "Orientation", "TileWidth", "TileLength", "TileOffsets", "TileByteCounts", "ColorMap",
    "ExtraSamples", "SampleFormat", "Predictor", "NewSubfileType", "FillOrder", "ExifOffset", "YCbCrPositioning",
    "YCbCrSubSampling", "ReferenceBlackWhite", "PageNumber", "JPEGTables", "JpegIFOffset", "JpegIFByteCount",
}  # fmt: skip
_PLAIN_INFO = {
    "dpi", "gamma", "transparency", "interlace", "srgb", "chromaticity", "aspect", "compression", "jfif",
    "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression", "adobe", "adobe_transform",
    "icc_profile", "exif", "resolution", "loop", "duration", "background", "mp", "mpoffset", "default_image",
    "bbox", "blend", "disposal",
}  # fmt: skip


def findings(paths: Iterable[Path]) -> list[Finding]:
    """PHI-01 for the files of a case; a place is shown with its suspicious parts starred out."""
    found = []
    for path in paths:
        where = masked(str(path))
        if kinds := suspicions(path.name if path.is_file() else f"{path.parent.name}/{path.name}"):
            found.append(Finding("PHI-01", "warning", f"the name may hold {', '.join(kinds)}", where))
        if names := sorted(set(_fields(path))):
            text = f"header fields that may say who the patient is: {', '.join(names)} (values are not shown)"
            found.append(Finding("PHI-01", "warning", text, where))
    return found


def suspicions(text: str) -> list[str]:
    """What a text seems to hold: a name, a date, a DICOM UID, a patient's number."""
    return [what for what, _ in _matches(text)]


def masked(text: str) -> str:
    """A text with everything that looks like a name, a date or a number of a patient starred out."""
    for _, pieces in _matches(text):
        for piece in pieces:
            text = text.replace(piece, "*" * len(piece))
    return text


def _matches(text: str) -> Iterator[tuple[str, list[str]]]:
    left = _HASH.sub("", text)
    for what, pattern in _PATTERNS.items():
        if pieces := [match[0] for match in pattern.finditer(left)]:
            left = pattern.sub("", left)
            yield what, pieces


def _fields(path: Path) -> Iterator[str]:
    """Names of the fields of a header that hold words about a patient; nothing where the file cannot be read."""
    try:
        family = formats.family(path)
    except InputError:
        return
    readers = {"nifti": _nifti, "picture": _picture, "dicom": _dicom}
    if _begins(path, b"NRRD"):
        yield from _words(path, re.compile(rb"^([^:#\r\n]{1,64}):[ =](.*)$"))
    elif path.suffix.lower() in (".mha", ".mhd"):
        yield from _words(path, re.compile(rb"^([\w ]{1,64}?) ?= ?(.*)$"))
    elif family in readers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from readers[family](path)


def _begins(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _nifti(path: Path) -> Iterator[str]:
    from voxelsam.formats import nifti

    try:
        header, extensions = nifti.header(path)
    except InputError:
        return
    for field in _NIFTI_TEXT:
        if field in header and bytes(header[field].item()).strip(b"\0 "):
            yield field
    if extensions:
        yield "extensions"


def _words(path: Path, line: re.Pattern[bytes]) -> Iterator[str]:
    with path.open("rb") as stream:
        for _ in range(1000):
            content = stream.readline(4096).rstrip(b"\r\n")
            match = line.match(content)
            if not content.strip() or b"\0" in content or (match and match[1].lower() == b"elementdatafile"):
                return
            if match and match[2].strip():
                name = match[1].decode("ascii", "replace").strip()
                if name.lower() not in _PLAIN_KEYS and not re.match(r"(?i)segment\d+_", name):
                    yield name


def _picture(path: Path) -> Iterator[str]:
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as image:
            tags: dict[int, Any] = dict(getattr(image, "tag_v2", {})) | dict(image.getexif())
            info = set(image.info) | set(getattr(image, "text", {}))
            places = {"GPSInfo"} if image.getexif().get_ifd(ExifTags.IFD.GPSInfo) else set()
            details = image.getexif().get_ifd(ExifTags.IFD.Exif)
    except (OSError, SyntaxError, ValueError, EOFError):
        return
    named = {str(ExifTags.TAGS.get(tag, f"tag {tag}")) for tag in (*tags, *_dated(details))}
    yield from named - _PLAIN_TAGS
    yield from (str(name) for name in info if str(name).lower() not in _PLAIN_INFO)
    yield from places


def _dated(details: dict[int, Any]) -> list[int]:
    """EXIF fields of the details that say when or by whom; exposure and lenses say neither."""
    from PIL import ExifTags

    said = ("DateTimeOriginal", "DateTimeDigitized", "UserComment", "CameraOwnerName", "BodySerialNumber")
    return [tag for tag in details if ExifTags.TAGS.get(tag) in said]


def _dicom(path: Path) -> Iterator[str]:
    try:
        import pydicom
    except ImportError:
        return
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    wanted = [*_DICOM_WORDS, "BurnedInAnnotation"]
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file() or file.name.startswith("."):
            continue
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=wanted)
            yield from (word for word in _DICOM_WORDS if dataset.get(word))
            if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
                yield "BurnedInAnnotation (text is burnt into the pixels)"
        except Exception:  # noqa: S112
            continue
