"""DICOMweb against Orthanc, and against a server that misbehaves."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import typer
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from voxelsam import dicomweb, formats
from voxelsam.cli import pull, push
from voxelsam.errors import ConfigError, FormatError, InputError, InputWarning, MissingExtra, OutputError
from voxelsam.volumes import LabelMap, Labels

ORTHANC = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PATIENCE = 60
STUDY, SERIES = "1.2.3.4", "1.2.3.4.5"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running Orthanc with an empty store."""
    if not (ORTHANC.is_file() and PLUGIN.is_file()):
        reason = "Orthanc and its DICOMweb plug-in are not installed (Debian's orthanc and orthanc-dicomweb)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("orthanc")
    port = free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"tester": "secret"},
        "DicomServerEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([ORTHANC, folder / "orthanc.json"], cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(port, server, folder / "log")
        yield f"http://127.0.0.1:{port}/dicom-web"
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as line:
            line.settimeout(1)
            if line.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"Orthanc did not start: {log.read_text(errors='replace')[-1500:]}")


LOGIN = {"Authorization": "Basic dGVzdGVyOnNlY3JldA=="}


@pytest.mark.shared
def test_a_series_and_its_segmentation_travel_both_ways(orthanc: str, shared: Path, tmp_path: Path) -> None:
    here = shared / "data" / "bad_input" / "dicom" / "dcmqi_ct_with_seg" / "ct-3slice"
    told: list[tuple[int, int]] = []
    sent = dicomweb.store(orthanc, [here], headers=LOGIN, progress=lambda done, total: told.append((done, total)))
    assert len(sent) == 3
    assert told == [(1, 3), (2, 3), (3, 3)]

    (found,) = dicomweb.search(orthanc, headers=LOGIN)
    first = pydicom.dcmread(sent[0], stop_before_pixels=True)
    assert (found.study, found.series) == (first.StudyInstanceUID, first.SeriesInstanceUID)
    assert (found.modality, found.files, found.patient) == ("CT", 3, None)
    (who,) = dicomweb.search(orthanc, headers=LOGIN, patient=True, study=found.study, modality="CT")
    assert who.patient is not None
    assert who.patient["id"] == first.PatientID
    assert dicomweb.search(orthanc, headers=LOGIN, modality="SEG") == ()

    folder = tmp_path / "deep" / "series"
    told.clear()
    assert (
        dicomweb.fetch(
            orthanc, found.study, found.series, folder, headers=LOGIN, progress=lambda a, b: told.append((a, b))
        )
        == folder
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert list((tmp_path / "deep").iterdir()) == [folder]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        image, original = formats.read(folder), formats.read(here)
    np.testing.assert_array_equal(image.data, original.data)
    assert image.grid.displacement(original.grid) == 0

    labels = Labels({"background": 0, "bone": 4, "air": 9})
    data = np.where(image.data[0] > 300, 4, np.where(image.data[0] < -900, 9, 0)).astype(np.uint8)
    formats.write_labels(tmp_path / "seg.dcm", LabelMap(data, image.grid, labels, author="test 1"), like=image)
    dicomweb.store(orthanc, [tmp_path / "seg.dcm"], headers=LOGIN)
    (seg,) = dicomweb.search(orthanc, headers=LOGIN, modality="SEG")
    assert seg.study == found.study
    again = formats.read_labels(
        dicomweb.fetch(orthanc, seg.study, seg.series, tmp_path / "back", headers=LOGIN), labels
    )
    np.testing.assert_array_equal(again.data, data)
    assert again.grid.displacement(image.grid) < 1e-3


def test_credentials_are_asked_for(orthanc: str, tmp_path: Path) -> None:
    for headers in (None, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="}):
        with pytest.raises(FormatError, match=r"access was refused \(status 401\)") as caught:
            dicomweb.fetch(orthanc, STUDY, SERIES, tmp_path / "a", headers=headers)
        assert "d3Jvbmc" not in str(caught.value)
    with pytest.raises(OutputError, match=r"0 of 1 files were stored before.*access was refused"):
        dicomweb.store(orthanc, [slice_file(tmp_path / "a.dcm")])
    assert {path.name for path in tmp_path.iterdir()} == {"a.dcm"}


def test_what_the_server_has_not_is_not_there(orthanc: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"no series {SERIES} in the study {STUDY}|404") as caught:
        dicomweb.fetch(orthanc, STUDY, SERIES, tmp_path / "a", headers=LOGIN)
    assert caught.value.code == "SET-01"
    with pytest.raises(FormatError, match=r"not found .status 404.") as caught:
        dicomweb.fetch(orthanc.replace("dicom-web", "elsewhere"), STUDY, SERIES, tmp_path / "a", headers=LOGIN)
    assert not list(tmp_path.iterdir())


def test_the_commands_do_the_same(orthanc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command("pull")(pull.pull)
    app.command("push")(push.push)
    login = ["--header", "Authorization: Basic dGVzdGVyOnNlY3JldA=="]
    path = slice_file(tmp_path / "a.dcm", study="1.9.8", series="1.9.8.7")
    run = CliRunner().invoke
    done = run(app, ["push", orthanc, str(path), "--json", *login], catch_exceptions=False)
    assert json.loads(done.stdout) == [{"id": "a.dcm", "output": str(path), "status": "stored"}]
    listed = run(app, ["pull", orthanc, "--study", "1.9.8", "--json", *login], catch_exceptions=False)
    (series,) = json.loads(listed.stdout)
    assert (series["series"], series["patient"]) == ("1.9.8.7", None)
    shown = run(app, ["pull", orthanc, "--study", "1.9.8", "--patients", *login], catch_exceptions=False)
    assert "1.9.8.7" in shown.stdout
    fetch = ["pull", orthanc, "--study", "1.9.8", "--series", "1.9.8.7", *login]
    done = run(app, [*fetch, "-o", str(tmp_path / "b"), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)[0]["status"] == "fetched"
    assert len(list((tmp_path / "b").iterdir())) == 1
    (entry,) = json.loads((tmp_path / "b.run.json").read_text())["runs"]
    assert (entry["command"], entry["cases"]["1.9.8.7"]["status"]) == ("pull", "done")
    assert isinstance(run(app, fetch).exception, ConfigError)
    monkeypatch.setenv("VOXELSAM_DICOMWEB_TOKEN", "wrong")
    assert isinstance(run(app, ["pull", orthanc]).exception, FormatError)


def test_headers_are_lines_of_name_and_value() -> None:
    assert pull.headers_of(["X-A: b: c"], "t") == {"Authorization": "Bearer t", "X-A": "b: c"}
    for line in ("Authorization", ": secret", "secret:"):
        with pytest.raises(ConfigError, match=r"the 1. one is not") as caught:
            pull.headers_of([line], None)
        assert "secret" not in str(caught.value)


def slice_of(study: str = STUDY, series: str = SERIES) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.PatientID = CTImageStorage, generate_uid(), "p"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = study, series, "CT"
    return data


def slice_file(path: Path, **identifiers: str) -> Path:
    slice_of(**identifiers).save_as(path, enforce_file_format=True)
    return path


Answer = tuple[int, str, bytes]


@pytest.fixture
def server() -> Iterator[Callable[[Callable[[str], Answer]], str]]:
    """Starts servers that answer as told: status, type, content, by path."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[str], Answer]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, content = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *text: Any) -> None:
                """Nothing: the test's output is not the place."""

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(made)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{made.server_port}/web"

    yield start
    for made in running:
        made.shutdown()
        made.server_close()


def sends(listed: list[Dataset], sent: list[Dataset]) -> Callable[[str], Answer]:
    """A server that lists some objects and sends others."""
    parts = []
    for data in sent:
        stream = BytesIO()
        data.save_as(stream, enforce_file_format=True)
        parts.append(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + stream.getvalue() + b"\r\n")

    def answer(path: str) -> Answer:
        if "/instances" in path:
            first = "offset" not in path or "offset=0" in path
            rows = [{"00080018": {"vr": "UI", "Value": [data.SOPInstanceUID]}} for data in listed] if first else []
            return 200, "application/dicom+json", json.dumps(rows).encode()
        return 200, 'multipart/related; type="application/dicom"; boundary=b', b"".join(parts) + b"--b--"

    return answer


def test_what_is_sent_becomes_files(server: Any, tmp_path: Path) -> None:
    files = [slice_of(), slice_of()]
    (tmp_path / "a").mkdir()
    folder = dicomweb.fetch(server(sends(files, files)), STUDY, SERIES, tmp_path / "a")
    assert {path.name for path in folder.iterdir()} == {f"{data.SOPInstanceUID}.dcm" for data in files}


def fails_to_fetch(url: str, tmp_path: Path, message: str, code: str) -> str:
    with pytest.raises(FormatError, match=message) as caught:
        dicomweb.fetch(url, STUDY, SERIES, tmp_path / "a")
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())
    return str(caught.value)


def test_half_a_series_is_none(server: Any, tmp_path: Path) -> None:
    files = [slice_of(), slice_of(), slice_of()]
    fails_to_fetch(server(sends(files, files[:2])), tmp_path, "sent 2 of 3 files.*1 are missing.*try again", "SET-03")


@pytest.mark.parametrize("name", ["../../evil", "1.2/../x", "", "1." * 40])
def test_names_of_files_are_not_the_servers_choice(server: Any, tmp_path: Path, name: str) -> None:
    evil = slice_of()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evil.SOPInstanceUID = name
        evil.file_meta.MediaStorageSOPInstanceUID = "1.2"
        evil.file_meta.MediaStorageSOPClassUID = CTImageStorage
        url = server(sends([slice_of()], [evil]))
    (tmp_path / "in").mkdir()
    fails_to_fetch(url, tmp_path / "in", "an object that is not of the series", "SET-03")
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_an_object_that_cannot_be_stored_is_one_sentence(server: Any, tmp_path: Path) -> None:
    whole = slice_of()
    complete = sends([whole], [whole])

    def answer(path: str) -> Answer:
        """Without what says what kind of object it is."""
        status, form, content = complete(path)
        content = content.replace(b"\x02\x00\x02\x00UI", b"\x02\x00\x16\x00UI")
        return status, form, content.replace(b"\x08\x00\x16\x00UI", b"\x08\x00\x17\x00UI")

    with pytest.raises(FormatError) as caught:
        dicomweb.fetch(server(answer), STUDY, SERIES, tmp_path / "a")
    assert caught.value.code == "SET-03"
    assert not (tmp_path / "a").exists()


def test_objects_of_another_series_are_refused(server: Any, tmp_path: Path) -> None:
    other = slice_of(series="1.2.9")
    fails_to_fetch(server(sends([other], [other])), tmp_path, "sent an object that is not of the series", "SET-03")


@pytest.mark.parametrize(
    ("status", "kind", "content", "message", "code"),
    [
        (200, "text/html", b"<html>hello</html>", "something that is no DICOMweb", "SET-03"),
        (200, "application/dicom+json", b"[{", "something that is no DICOMweb", "SET-03"),
        (200, "application/dicom+json", b"[]", f"no series {SERIES}", "SET-01"),
        (403, "text/plain", b"", "access was refused .status 403.", ""),
        (404, "text/plain", b"", "was not found .status 404.", "SET-01"),
        (500, "text/plain", b"", "the server refused .status 500.", ""),
    ],
)
def test_odd_answers_are_one_sentence(
    server: Any, tmp_path: Path, status: int, kind: str, content: bytes, message: str, code: str
) -> None:
    url = server(lambda path: (status, kind, content))
    told = fails_to_fetch(
        url.replace("127", "user:hidden@127").replace("web", "web?key=hidden"), tmp_path, message, code
    )
    assert "hidden" not in told
    assert "127.0.0.1" in told


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/web"
    fails_to_fetch(url, tmp_path, "no connection; check the address", "SET-01")
    path = slice_file(tmp_path / "a.dcm")
    with pytest.raises(OutputError, match="no connection"):
        dicomweb.store(url, [path])
    with pytest.raises(FormatError, match="no connection"):
        dicomweb.search(url)


@pytest.mark.parametrize(
    "url", ["ftp://host/web", "host/web", "", "http://", "http://[", "http://host:99999/web", "http://host:port/web"]
)
def test_what_is_no_address_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the address of a DICOMweb service"):
        dicomweb.fetch(url, STUDY, SERIES, tmp_path / "a")


def test_credentials_in_a_wrong_address_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        dicomweb.fetch("ftp://me:secret@host/web", STUDY, SERIES, tmp_path / "a")
    assert "secret" not in str(caught.value)
    assert "ftp://host/web" in str(caught.value)


@pytest.mark.parametrize(("study", "series"), [("../1", SERIES), (STUDY, "1.2/3"), ("", SERIES), (STUDY, "1" * 65)])
def test_what_is_no_identifier_is_refused(study: str, series: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named by digits and dots"):
        dicomweb.fetch("http://127.0.0.1/web", study, series, tmp_path / "a")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(OutputError, match="expected a new or an empty folder"):
            dicomweb.fetch("http://127.0.0.1/web", STUDY, SERIES, folder)
    assert (tmp_path / "mine").read_text() == "x"


def test_a_place_that_cannot_be_written_is_said(server: Any, tmp_path: Path) -> None:
    files = [slice_of()]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        dicomweb.fetch(server(sends(files, files)), STUDY, SERIES, tmp_path / "file" / "deeper")


def test_nothing_is_sent_before_all_files_are_known_to_be_dicom(server: Any, tmp_path: Path) -> None:
    asked: list[str] = []
    url = server(lambda path: (asked.append(path) or 200, "application/dicom+json", b"{}"))
    good = slice_file(tmp_path / "a.dcm")
    (tmp_path / "b.txt").write_text("no DICOM")
    with pytest.raises(FormatError, match=r"b.txt: is no DICOM file") as caught:
        dicomweb.store(url, [good, tmp_path / "b.txt"])
    assert caught.value.code == "SET-03"
    with pytest.raises(FormatError, match=r"c.dcm: no such file"):
        dicomweb.store(url, [good, tmp_path / "c.dcm"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="no file to send"):
        dicomweb.store(url, [tmp_path / "empty"])
    assert asked == []


def test_a_refused_file_is_named(server: Any, tmp_path: Path) -> None:
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}
    url = server(lambda path: (200, "application/dicom+json", json.dumps(failed).encode()))
    with pytest.raises(OutputError, match=r"refused .*a.dcm \(reason 0xA700\); 0 of 1 files"):
        dicomweb.store(url, [slice_file(tmp_path / "a.dcm")])


def test_without_the_extra_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dicomweb_client.web", None)
    with pytest.raises(MissingExtra, match=r"pip install 'voxelsam\[dicom\]'"):
        dicomweb.search("http://127.0.0.1/web")
