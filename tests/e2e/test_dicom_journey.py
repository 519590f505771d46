"""DICOM through the command, from a folder of an archive to a mask that other programs find in its place."""

import gzip
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from voxelsam import formats, record
from voxelsam.bundle import Bundle
from voxelsam.formats import dicom_seg

pytestmark = pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")

Run = Callable[..., tuple[int, str, str]]
LPS = np.array([-1.0, -1.0, 1.0])
SPACING = 2.0, 1.5
"""Between rows, between columns."""
SECRETS = "Zaphod", "Beeblebrox", "PID-77341", "19511103", "ACC-99", "St Elsewhere"


@pytest.fixture(scope="module")
def model(learnt: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without training: masks of sense are not the matter here."""
    folder = tmp_path_factory.mktemp("model") / "ct"
    learnt().save(folder)
    return folder


def series(
    folder: Path,
    uid: str = "1.2.840.99.71",
    places: tuple[int, ...] = (0, 1, 2, 3, 4),
    shift: float = 0.0,
    reference: bool = True,
    names: Callable[[int], str] = "{:03}.dcm".format,
) -> Path:
    """A CT of a patient who must not be named; ``shift`` moves each slice along its columns, in mm."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(900, 1200, (len(places), 24, 20)).astype(np.int16)
    pixels[1:, 5:15, 5:12] += 150
    for number, place in enumerate(places):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.PatientName, data.PatientID, data.PatientBirthDate = "Zaphod^Beeblebrox", "PID-77341", "19511103"
        data.AccessionNumber, data.InstitutionName, data.PatientSex = "ACC-99", "St Elsewhere", "M"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.840.99.1", uid, "CT"
        data.StudyID, data.StudyDate, data.StudyTime, data.ReferringPhysicianName = "1", "20200101", "", ""
        data.PositionReferenceIndicator, data.Manufacturer, data.SeriesNumber = "", "nobody", 3
        if reference:
            data.FrameOfReferenceUID = "1.2.840.99.2"
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-10, 20 + shift * place, 30 + 3 * place]
        data.PixelSpacing, data.SliceThickness, data.InstanceNumber = list(SPACING), 3, number + 1
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.Rows, data.Columns = pixels.shape[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = pixels[number].tobytes()
        data.save_as(folder / names(number), enforce_file_format=True)
    return folder


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"export/{path.name}")
    return target


def millimetres(path: Path) -> dict[str, np.ndarray]:
    """Where the voxels of each structure lie in LPS, as highdicom reads them slice by slice."""
    segmentation = highdicom.seg.segread(path)
    found: dict[str, list[np.ndarray]] = {}
    for index, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        spacing = shared.PixelMeasuresSequence[0].PixelSpacing
        turn = highdicom.spatial.PixelToReferenceTransformer(position, cosines, spacing)
        pixels = np.atleast_3d(segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns))[index]
        rows, columns = np.nonzero(pixels)
        name = segmentation.get_segment_description(number).segment_label
        found.setdefault(name, []).append(turn(np.stack([columns, rows], 1)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def sure(points: np.ndarray) -> list[tuple[float, ...]]:
    """Points in an order of their own, to a hundredth of a millimetre."""
    return sorted(tuple(point) for point in np.round(points, 2).tolist())


def dciodvfy(path: Path) -> list[str]:
    """What an outside judge calls an error."""
    if shutil.which("dciodvfy") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("dciodvfy is not installed (Debian's dicom3tools)")
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    answer = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)  # noqa: S607
    lines = (answer.stdout + answer.stderr).splitlines()
    assert lines
    return [line for line in lines if line.startswith("Error")]


def unpacked(path: Path) -> bytes:
    """What is in a file, so that nothing hides in it."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.parametrize("shift", [0.0, 1.0], ids=["straight", "tilted"])
def test_both_kinds_of_mask_lie_on_the_slices(run: Run, model: Path, tmp_path: Path, shift: float) -> None:
    source = series(tmp_path / "scan", shift=shift)
    assert run("predict", "-m", model, "-i", source, "-o", tmp_path / "seg", "--device", "cpu")[0] == 0
    arguments = (
        "predict",
        "-m",
        model,
        "-i",
        source,
        "-o",
        tmp_path / "nifti",
        "--device",
        "cpu",
        "--format",
        "nii.gz",
    )
    assert run(*arguments)[0] == 0
    written = tmp_path / "seg" / "scan.dcm"
    assert dciodvfy(written) == []
    seen = millimetres(written)
    table = json.loads((model / "bundle.json").read_text())["labels"]
    assert len(seen) > 1
    mask = formats.read(tmp_path / "nifti" / "scan.nii.gz")
    for name, points in seen.items():
        voxels = np.argwhere(mask.data[0] == table[name])
        assert sure(mask.grid.to_world(voxels) * LPS) == sure(points), name
        slices = np.round((points[:, 2] - 30) / 3)
        inside = (points[:, 0] + 10) / SPACING[1], (points[:, 1] - 20 - shift * slices) / SPACING[0]
        np.testing.assert_allclose(inside, np.rint(inside), atol=1e-3)


def test_another_reader_finds_the_nifti_mask_in_the_same_place(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan")
    run("predict", "-m", model, "-i", source, "-o", tmp_path / "n", "--device", "cpu", "--format", "nii.gz")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in sorted(source.iterdir())])
    image, mask = reader.Execute(), SimpleITK.ReadImage(str(tmp_path / "n" / "scan.nii.gz"))
    assert image.GetSize() == mask.GetSize()
    for index in ((0, 0, 0), (19, 23, 4), (3, 17, 2)):
        np.testing.assert_allclose(
            mask.TransformIndexToPhysicalPoint(index), image.TransformIndexToPhysicalPoint(index), atol=1e-4
        )


def test_masks_of_both_kinds_are_compared(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan")
    for name, ending in (("seg", "dcm"), ("slicer", "seg.nrrd"), ("nifti", "nii.gz")):
        arguments = ("-m", model, "-i", source, "-o", tmp_path / name, "--device", "cpu", "--format", ending)
        assert run("predict", *arguments)[0] == 0
    table = json.loads((model / "bundle.json").read_text())["labels"]
    (tmp_path / "nifti" / "dataset.json").write_text(json.dumps({"labels": table}))
    for name in ("seg", "slicer"):
        code, out, err = run("evaluate", "-i", tmp_path / name, "-r", tmp_path / "nifti", "--json")
        assert (code, err.strip()) == (0, "")
        assert json.loads(out)["foreground_mean"]["Dice"] == 1


def test_a_mask_that_could_not_be_written_is_not_made(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxelsam.infer.predictor import Predictor

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Predictor, "__call__", never)
    source = series(tmp_path / "scan", reference=False)
    code, out, _ = run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 2
    assert "DCM-08" in out
    assert "frame of reference" in out
    assert "--format nii.gz" in out
    assert not (tmp_path / "out").exists()


def test_what_was_refused_as_segmentation_is_written_as_nifti(run: Run, model: Path, tmp_path: Path) -> None:
    gap = series(tmp_path / "gap", places=(0, 1, 2, 4, 5))
    arguments = ("predict", "-m", model, "-i", gap, "--device", "cpu")
    code, out, _ = run(*arguments, "-o", tmp_path / "a")
    assert (code, "DCM-01" in out) == (2, True)
    code, out, _ = run(*arguments, "-o", tmp_path / "b", "--accept", "DCM-01")
    assert (code, "--format nii.gz" in out) == (2, True)
    assert run(*arguments, "-o", tmp_path / "c", "--accept", "DCM-01", "--format", "nii.gz")[0] == 0
    assert formats.read(tmp_path / "c" / "gap.nii.gz").grid.shape == (20, 24, 6)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "names",
    ["1.2.840.113619.2.5.17625.{}".format, "IM{}.DCM".format, "I{}".format, "MR.1.2.{}.IMA".format],
    ids=["uid", "upper case", "none", "siemens"],
)
def test_files_of_any_name_are_one_series(run: Run, model: Path, tmp_path: Path, names: Callable[[int], str]) -> None:
    source = series(tmp_path / "scan", names=names)
    (source / "README.txt").write_text("bring this back")
    (source / "empty.log").touch()
    code, out, _ = run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--dry-run", "--json")
    assert code == 0
    assert [case["id"] for case in json.loads(out)] == ["scan"]
    assert formats.read(source).grid.shape == (20, 24, 5)


def test_a_series_is_named_by_its_folder_from_inside(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(series(tmp_path / "scan"))
    _, out, _ = run("predict", "-m", model, "-i", ".", "-o", tmp_path / "out", "--dry-run", "--json")
    assert [Path(case["output"]).name for case in json.loads(out)] == ["scan.dcm"]


def test_archives_are_cases_and_their_ending_is_no_part_of_the_name(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan")
    (tmp_path / "in").mkdir()
    good = zipped(source, tmp_path / "in" / "good.zip")
    (tmp_path / "in" / "cut.ZIP").write_bytes(good.read_bytes()[:2000])
    with zipfile.ZipFile(tmp_path / "in" / "papers.zip", "w") as archive:
        archive.writestr("a.txt", "nothing")
    code, out, _ = run(
        "predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu", "--json"
    )
    assert {case["id"]: case["status"] for case in json.loads(out)} == {"cut": "failed", "good": "done"}
    assert code == 1
    dicom_seg.read_labels(tmp_path / "out" / "good.dcm")


def test_one_of_several_series(run: Run, model: Path, tmp_path: Path) -> None:
    series(tmp_path / "study" / "a", uid="1.2.840.99.71")
    series(tmp_path / "study" / "b", uid="1.2.840.99.82", places=(0, 1, 2, 3))
    code, out, _ = run("info", tmp_path / "study", "--json")
    facts = json.loads(out)
    assert code == 0
    assert [(one["number"], one["series"], one["slices"]) for one in facts["series"]] == [
        (1, "1.2.840.99.71", 5),
        (2, "1.2.840.99.82", 4),
    ]
    assert "1.2.840.99.82" in run("info", tmp_path / "study")[1]
    arguments = ("predict", "-m", model, "-i", tmp_path / "study", "-o", tmp_path / "out", "--device", "cpu")
    for choice in ("2", "82"):
        assert run(*arguments, "--series", choice)[0] == 0
        written = pydicom.dcmread(tmp_path / "out" / "study.dcm")
        assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.840.99.82"
        code, _, err = run(*arguments, "--series", "1", "--continue")
        assert (code, "another model or setting" in err) == (2, True)
        shutil.rmtree(tmp_path / "out")
    code, out, _ = run(*arguments, "--series", "7")
    assert (code, "1.2.840.99.71, CT" in out) == (2, True)


def test_a_cohort_goes_on_and_names_what_it_left_out(run: Run, model: Path, tmp_path: Path) -> None:
    series(tmp_path / "in" / "p1", places=(0, 1))
    for name in ("p2", "p3"):
        series(tmp_path / "in" / name)
    broken = tmp_path / "in" / "p2" / "002.dcm"
    broken.write_bytes(broken.read_bytes()[:-400])
    (tmp_path / "in" / "p4").mkdir()
    (tmp_path / "in" / "p4" / "000.dcm").write_bytes(b"<html>sorry</html>" * 20)
    arguments = ("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu", "--json")
    code, out, err = run(*arguments)
    assert code == 1
    outcomes = {case["id"]: case for case in json.loads(out)}
    assert {name: case["status"] for name, case in outcomes.items()} == {"p1": "done", "p2": "failed", "p3": "done"}
    assert "002.dcm" in outcomes["p2"]["reason"]
    assert "left out: p4" in err
    assert "GEO-07: p1: " in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "p1.dcm",
        "p3.dcm",
        "quality.csv",
        record.FILE,
    ]
    series(tmp_path / "in" / "p2")
    code, out, _ = run(*arguments, "--continue")
    assert (code, [case["status"] for case in json.loads(out)]) == (0, ["kept", "done", "kept"])


def test_a_slice_that_is_no_dicom_any_more_is_not_lost_silently(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan")
    (source / "004.dcm").write_bytes(b"")
    code, _, err = run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 0
    assert "004.dcm" in err
    assert err.count("SET-03") == 1


def test_nothing_but_the_segmentation_knows_the_patient(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan", shift=1.0)
    (source / "extra.dcm").touch()
    out = tmp_path / "out"
    arguments = ("-m", model, "-i", source, "-o", out, "--device", "cpu", "--preview", "--save-probabilities", "--json")
    code, *written = run("predict", *arguments)
    assert code == 0
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert {path.parent.name for path in files} == {"out", "previews", "probabilities"}
    said = [text.encode() for text in (*written, run("info", out)[1], run("info", source)[1])]
    for content in (*said, *(unpacked(path) for path in files)):
        assert not [secret for secret in SECRETS if secret.encode() in content]
    assert b"Zaphod" in (out / "scan.dcm").read_bytes()


def test_a_failure_takes_back_what_stood_beside_the_mask(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxelsam.infer.prediction import Prediction

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Prediction, "save", full)
    source = series(tmp_path / "scan")
    arguments = ("-m", model, "-i", source, "--device", "cpu", "--preview", "--save-probabilities")
    code, out, _ = run("predict", *arguments, "-o", tmp_path / "new" / "out")
    assert (code, "No space left" in out) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan"]


def test_a_prompt_in_millimetres_of_dicom_is_followed(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan")
    masks = []
    for name, point in (("a", "2,38,36,liver"), ("b", "12.5,62,42,liver")):
        arguments = ("-m", model, "-i", source, "-o", tmp_path / name, "--space", "lps", "--point", point)
        assert run("prompt", *arguments, "--device", "cpu", "--format", "nii.gz")[0] == 0
        masks.append(formats.read(tmp_path / name / "scan.nii.gz").data[0])
    assert (masks[0][:, :, 2] > 0).any()
    assert not np.array_equal(*masks)
    code, out, _ = run(
        "prompt", "-m", model, "-i", source, "-o", tmp_path / "c", "--space", "lps", "--point", "-2,-38,36,liver"
    )
    assert (code, "outside the scan" in out) == (2, True)
    assert not (tmp_path / "c").exists()


def make_rt(folder: Path) -> None:
    image = pydicom.dcmread(series(folder.with_name("other")) / "000.dcm")
    del image.PixelData, image.Rows, image.Columns
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    image.Modality = "RTSTRUCT"
    image.save_as(folder / "rt.dcm")


def make_cut(folder: Path) -> None:
    series(folder)
    path = folder / "002.dcm"
    path.write_bytes(path.read_bytes()[:-500])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda folder: None, "no image of a known format"),
    "structure set": (make_rt, "RT structure set"),
    "cut off": (make_cut, "002.dcm"),
    "text": (lambda folder: (folder / "a.txt").write_text("hello"), "no image of a known format"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_in_one_message(run: Run, model: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make, complaint = BAD[name]
    make(source)
    code, out, err = run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 2
    assert complaint in out + err
    assert (out + err).count(complaint) == 1
    assert not (tmp_path / "out").exists()


def test_a_segmentation_is_no_image_but_is_described(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan")
    run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--device", "cpu")
    code, out, _ = run("predict", "-m", model, "-i", tmp_path / "out" / "scan.dcm", "-o", tmp_path / "again")
    assert (code, "is a DICOM segmentation" in out) == (2, True)
    assert not (tmp_path / "again").exists()
    code, out, _ = run("info", tmp_path / "out" / "scan.dcm", "--json")
    facts = json.loads(out)
    found = dicom_seg.read_segments(tmp_path / "out" / "scan.dcm")
    assert (code, facts["what"]) == (0, "segmentation")
    assert [(one["name"], one["voxels"]) for one in facts["structures"]] == [(s.name, s.mask.sum()) for s in found]
    assert facts["structures"][0]["millilitres"] == pytest.approx(found[0].mask.sum() * 9 / 1000, abs=1e-3)


def test_info_of_whatever_lies_in_a_hospital(run: Run, model: Path, tmp_path: Path) -> None:
    source = series(tmp_path / "scan")
    run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--device", "cpu", "--format", "seg.nrrd")
    (tmp_path / "empty").mkdir()
    archive = zipped(source, tmp_path / "scan.zip")
    for path, kind in ((source, "volume"), (archive, "volume"), (tmp_path / "out", "results")):
        assert json.loads(run("info", path, "--json")[1])["what"] == kind
    facts = json.loads(run("info", tmp_path / "out" / "scan.seg.nrrd", "--json")[1])
    assert (facts["what"], [one["number"] for one in facts["structures"]]) == ("label map", [1, 2, 4, 7])
    code, _, err = run("info", tmp_path / "empty")
    assert (code, "an empty folder" in err) == (2, True)


@pytest.mark.parametrize("verb", ["predict", "prompt"])
def test_an_overlap_of_whole_stacks_is_no_traceback(run: Run, model: Path, tmp_path: Path, verb: str) -> None:
    more = ("--point", "2,38,36,liver", "--space", "lps") if verb == "prompt" else ()
    source = series(tmp_path / "scan")
    code, _, err = run(
        verb, "-m", model, "-i", source, "-o", tmp_path / "out", "--overlap", 3, "--device", "cpu", *more
    )
    assert (code, "overlap should be 0 to 2" in err) == (2, True)


REAL = {
    "dcmqi_ct_with_seg/ct-3slice": 512,
    "dcmqi_ct_with_seg/23x38x3/image": 23,
    "dcmqi_ct_with_seg/23x38x3/multiframe": 23,
}


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_series_get_valid_segmentations(run: Run, model: Path, shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "data" / "bad_input" / "dicom" / name
    code, out, _ = run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--overlap", 0, "--json")
    (case,) = json.loads(out)
    assert (code, case["status"]) == (0, "done")
    written = Path(case["output"])
    grid = formats.read(source).grid
    assert grid.shape[0] == REAL[name]
    assert dicom_seg.read_labels_on(written, grid).data.any()
    assert dciodvfy(written) == []
