"""Images from a DICOMweb server, and segmentations back to it.

Identifiers and files come from somewhere else: they are checked before they become names of files. Messages name
neither patients nor credentials.
"""

import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from voxelsam.errors import FormatError, InputError, MissingExtra, OutputError, VoxelSamError

Progress = Callable[[int, int], None]
"""Told how many of how many files are done."""

logging.getLogger("dicomweb_client").addHandler(logging.NullHandler())

_IDENTIFIER = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST = 64
_AS_STORED = (("application/dicom", "*"),)
"""Files as the server has them, not unpacked."""


@dataclass(frozen=True)
class Series:
    """A series on a server."""

    study: str
    series: str
    modality: str
    description: str
    files: int | None
    """Number of files, where the server says so."""
    patient: Mapping[str, str] | None = None
    """Who and when, only where it was asked for: ``id``, ``name``, ``date``."""


def search(
    url: str,
    *,
    study: str | None = None,
    modality: str | None = None,
    limit: int = 100,
    patient: bool = False,
    headers: Mapping[str, str] | None = None,
) -> tuple[Series, ...]:
    """Lists series of a server.

    Args:
        url: Of the service, ``https://host/dicom-web``.
        study: Only series of this study.
        modality: Only series of this kind: ``CT``, ``SEG``.
        limit: Number of series at most.
        patient: Whether to list the patient's id, name and the date of the study, too.
        headers: Sent with every request, such as ``{"Authorization": "Bearer …"}``.

    Raises:
        FormatError: SET-01, the server has nothing of the kind or does not answer; it refuses, or answers nonsense.
        InputError: the study is no DICOM identifier, or the address is none.
        MissingExtra: dicomweb-client is not installed.
    """
    _check_identifiers(study=study)
    client = _client(url, headers)
    fields = ["SeriesDescription", "NumberOfSeriesRelatedInstances"]
    with _talking(url, FormatError):
        found = client.search_for_series(
            study_instance_uid=study,
            search_filters={} if modality is None else {"Modality": modality},
            fields=[*fields, "PatientID", "PatientName", "StudyDate"] if patient else fields,
            limit=limit,
        )
        return tuple(_series(item, patient, study) for item in found)


def fetch(
    url: str,
    study: str,
    series: str,
    folder: str | Path,
    *,
    headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Brings a series into a folder, one file per object, whole or not at all.

    Args:
        url: Of the service, ``https://host/dicom-web``.
        study: Identifier of the study.
        series: Identifier of the series.
        folder: Target, new or empty.
        headers: Sent with every request.
        progress: Told after each file.

    Returns:
        The folder.

    Raises:
        FormatError: SET-01, there is no such series, or the server does not answer; SET-03, it sends something else or
            not everything; it refuses.
        InputError: study or series are no DICOM identifiers, or the address is none.
        OutputError: the folder is not empty, or cannot be written.
        MissingExtra: dicomweb-client is not installed.
    """
    _check_identifiers(study=study, series=series)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target}: expected a new or an empty folder, but it holds something; choose another one")
    client = _client(url, headers)
    with _talking(url, FormatError):
        listed = client.search_for_instances(study_instance_uid=study, series_instance_uid=series, get_remaining=True)
        wanted = {str(_value(item, "00080018")) for item in listed}
    if not wanted:
        raise FormatError(f"{_shown(url)}: there is no series {series} in the study {study}", code="SET-01")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as work:
            beside = Path(work) / "series"
            beside.mkdir()
            _receive(client, url, (study, series), beside, wanted, progress)
            if target.is_dir():
                target.rmdir()
            beside.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}); nothing was kept") from error
    return target


def store(
    url: str,
    files: Sequence[str | Path],
    *,
    headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Sends DICOM files to a server, one after the other.

    Args:
        url: Of the service, ``https://host/dicom-web``.
        files: The files, or folders of them.
        headers: Sent with every request.
        progress: Told after each file.

    Returns:
        The files, folders opened.

    Raises:
        FormatError: SET-01, no such file, or no file at all; SET-03, a file is no DICOM. Nothing was sent then.
        InputError: the address is none.
        OutputError: the server does not answer or refuses a file; the message says how many it has.
        MissingExtra: dicomweb-client is not installed.
    """
    paths = _opened(files)
    client = _client(url, headers)
    for path in paths:
        _dataset(path, pixels=False)
    for done, path in enumerate(paths):
        with _talking(url, OutputError, f"{path} ({done} of {len(paths)} files were stored before)"):
            answer = client.store_instances([_dataset(path)])
            refused = answer.get("FailedSOPSequence") if answer is not None else None
            if refused:
                reason = refused[0].get("FailureReason", 0)
                raise OutputError(
                    f"{_shown(url)}: refused {path} (reason 0x{int(reason):04X}); {done} of {len(paths)} files were "
                    "stored before"
                )
        if progress is not None:
            progress(done + 1, len(paths))
    return paths


def _client(url: str, headers: Mapping[str, str] | None) -> Any:
    try:
        web = import_module("dicomweb_client.web")
    except ImportError:
        raise MissingExtra("DICOMweb needs the extra 'dicom': pip install 'voxelsam[dicom]'") from None
    if _parts(url).scheme not in ("http", "https"):
        raise InputError(f"expected the address of a DICOMweb service (https://host/dicom-web), but {_shown(url)} came")
    try:
        client = web.DICOMwebClient(url=url.rstrip("/"), headers=dict(headers or {}))
    except ValueError as error:
        raise InputError(f"{_shown(url)}: is no address of a DICOMweb service ({error})") from None
    client.set_http_retry_params(retry=False)
    return client


def _receive(
    client: Any, url: str, asked: tuple[str, str], folder: Path, wanted: set[str], progress: Progress | None
) -> None:
    with _talking(url, FormatError):
        arriving = iter(client.iter_series(*asked, media_types=_AS_STORED))
    got: set[str] = set()
    while (data := _next(url, arriving)) is not None:
        identifier = _keep(url, data, asked, folder)
        got.add(identifier)
        if progress is not None:
            progress(len(got), max(len(got), len(wanted)))
    if lost := wanted - got:
        raise FormatError(
            f"{_shown(url)}: sent {len(got)} of {len(wanted)} files of the series {asked[1]} ({len(lost)} are "
            "missing); try again",
            code="SET-03",
        )


def _keep(url: str, data: Any, asked: tuple[str, str], folder: Path) -> str:
    """Writes an object under its identifier, which it returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        identifier = str(data.get("SOPInstanceUID", ""))
        if not _is_identifier(identifier) or (data.get("StudyInstanceUID"), data.get("SeriesInstanceUID")) != asked:
            raise FormatError(f"{_shown(url)}: sent an object that is not of the series {asked[1]}", code="SET-03")
        try:
            data.save_as(folder / f"{identifier}.dcm", enforce_file_format=True)
        except OSError:
            raise
        except Exception as error:
            raise FormatError(
                f"{_shown(url)}: sent the object {identifier}, which is no complete DICOM file "
                f"({type(error).__name__}); try again, or export the series from the archive",
                code="SET-03",
            ) from error
    return identifier


def _next(url: str, arriving: Iterator[Any]) -> Any:
    with _talking(url, FormatError):
        return next(arriving, None)


@contextmanager
def _talking(url: str, kind: type[VoxelSamError], what: str = "") -> Iterator[None]:
    """Turns what the client raises into an error of ours that shows no credentials."""
    requests = import_module("requests")
    subject = f"{_shown(url)}: {f'{what}: ' if what else ''}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except VoxelSamError:
        raise
    except requests.HTTPError as error:
        raise _answered(subject, kind, error.response.status_code) from None
    except requests.Timeout:
        raise kind(f"{subject}the server did not answer in time; try again", code="SET-01") from None
    except requests.ConnectionError:
        raise kind(f"{subject}no connection; check the address and whether the server runs", code="SET-01") from None
    except Exception as error:
        raise kind(
            f"{subject}the server answered with something that is no DICOMweb ({type(error).__name__}); check the path "
            "of the address, such as /dicom-web",
            code="SET-03",
        ) from error


def _answered(subject: str, kind: type[VoxelSamError], status: int) -> VoxelSamError:
    if status in (401, 403):
        return kind(f"{subject}access was refused (status {status}); give valid credentials in the headers")
    if status == 404:
        return kind(f"{subject}was not found (status 404); check the address and the identifiers", code="SET-01")
    return kind(f"{subject}the server refused (status {status})")


def _series(item: Mapping[str, Any], patient: bool, study: str | None) -> Series:
    files = _value(item, "00201209")
    who = {
        name: str(_value(item, tag) or "")
        for name, tag in (("id", "00100020"), ("name", "00100010"), ("date", "00080020"))
    }
    return Series(
        study=str(_value(item, "0020000D") or study or ""),
        series=str(_value(item, "0020000E") or ""),
        modality=str(_value(item, "00080060") or ""),
        description=str(_value(item, "0008103E") or ""),
        files=None if files is None else int(files),
        patient=who if patient else None,
    )


def _value(item: Mapping[str, Any], tag: str) -> Any:
    """The first value of an element in DICOM JSON; None where there is none."""
    values = item.get(tag, {}).get("Value") or [None]
    return values[0].get("Alphabetic") if isinstance(values[0], Mapping) else values[0]


def _opened(files: Sequence[str | Path]) -> tuple[Path, ...]:
    paths: list[Path] = []
    for file in map(Path, files):
        if not file.exists():
            raise FormatError(f"{file}: no such file; check the path", code="SET-01")
        inside = sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]
        paths.extend(inside)
    if not paths:
        raise FormatError("there is no file to send", code="SET-01")
    return tuple(paths)


def _dataset(path: Path, pixels: bool = True) -> Any:
    pydicom = import_module("pydicom")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except Exception:
        raise FormatError(f"{path}: is no DICOM file that can be read", code="SET-03") from None


def _check_identifiers(**identifiers: str | None) -> None:
    for name, identifier in identifiers.items():
        if identifier is not None and not _is_identifier(identifier):
            raise InputError(f"a {name} is named by digits and dots, at most {_LONGEST}, but {identifier!r} came")


def _is_identifier(text: str) -> bool:
    return len(text) <= _LONGEST and _IDENTIFIER.fullmatch(text) is not None


def _shown(url: str) -> str:
    """The address without what may be secret in it."""
    parts = _parts(url)
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit((parts.scheme, f"{parts.hostname}{port}", parts.path, "", ""))


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.hostname and (parts.port is None or parts.port):
            return parts
    except ValueError:
        pass
    raise InputError("expected the address of a DICOMweb service (https://host/dicom-web), but it is no address")
