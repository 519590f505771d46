from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from voxelsam.doctor import diagnose
from voxelsam.doctor.privacy import findings, masked, suspicions

SECRET = "Mueller^Anna 1954-03-12"  # noqa: S105


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("MUELLER^ANNA.nii.gz", ["a name"]),
        ("scan_19540312.nii.gz", ["a date"]),
        ("scan_1954-03-12.nii.gz", ["a date"]),
        ("12.03.1954.nii.gz", ["a date"]),
        ("MRN12345.nii.gz", ["a patient's number"]),
        ("patient-id_4711.dcm", ["a patient's number"]),
        ("7654321_0000.nii.gz", ["a patient's number"]),
        ("1.2.840.113619.2.55.3.604688119.dcm", ["a DICOM UID"]),
        ("MUELLER^ANNA_19540312.nii.gz", ["a name", "a date"]),
    ],
)
def test_names_that_tell(name: str, kinds: list[str]) -> None:
    assert suspicions(name) == kinds
    hidden = masked(name)
    assert len(hidden) == len(name)
    assert suspicions(hidden) == []


@pytest.mark.parametrize(
    "name",
    [
        "hippocampus_001_0000.nii.gz", "la_06SR5RBREL16DQ6M8LWS_0000.nii.gz", "patient002_frame01_0000.nii.gz",
        "dsb_00071198d059_0000.png", "BraTS_2013_pat0006_1.nii.gz", "seq03_f051.png", "scan_512x512.nii", "99999.nii",
    ],
)  # fmt: skip
def test_names_that_do_not_tell(name: str) -> None:
    assert suspicions(name) == []
    assert masked(name) == name


def test_headers_are_searched_only_when_asked(sound: Any) -> None:
    path = sound.image("ada")
    image = nibabel.load(path)
    image.header["descrip"] = SECRET.encode()
    image.header["aux_file"] = b"anna.hdr"
    nibabel.save(image, path)
    assert diagnose(sound.root).findings == ()
    found = diagnose(sound.root, phi=True).findings
    assert [(one.code, one.severity, one.where) for one in found] == [("PHI-01", "warning", str(path))]
    assert "aux_file, descrip" in found[0].message
    assert not any(word in str(found) for word in (*SECRET.split(), "Mueller", "anna"))
    assert {one.code for one in diagnose(sound.root, phi=True, quick=True).findings} == {"PHI-01"}


def test_a_nifti_extension(sound: Any) -> None:
    path = sound.image("ada")
    image = nibabel.load(path)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET.encode()))
    nibabel.save(image, path)
    assert "extensions" in findings([path])[0].message
    assert findings([sound.image("bob")]) == []


def test_pictures(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((9, 9), np.uint8))
    words = PngInfo()
    words.add_text("Comment", SECRET)
    exif = Image.Exif()
    exif[0x013B] = SECRET
    picture.save(tmp_path / "text.png", pnginfo=words)
    picture.save(tmp_path / "exif.jpg", exif=exif)
    picture.save(tmp_path / "tags.tif", description=SECRET)
    picture.save(tmp_path / "plain.png", dpi=(72, 72))
    picture.save(tmp_path / "plain.jpg")
    picture.save(tmp_path / "plain.tif")
    fields = {"text.png": "Comment", "exif.jpg": "Artist", "tags.tif": "ImageDescription"}
    for path in sorted(tmp_path.iterdir()):
        found = findings([path])
        assert [f"patient is: {fields[path.name]} (values" in one.message for one in found] == (
            [True] if path.name in fields else []
        )
        assert "Mueller" not in str(found)


def test_nrrd_and_metaimage_keys(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1 1 1\nencoding: raw\n"
    (tmp_path / "a.nrrd").write_bytes(f"{head}PatientName:={SECRET}\n\n".encode() + b"\0")
    (tmp_path / "b.nrrd").write_bytes(f"{head}\n".encode() + b"\0")
    mha = "ObjectType = Image\nNDims = 3\nDimSize = 1 1 1\nElementType = MET_UCHAR\n"
    (tmp_path / "c.mha").write_bytes(f"{mha}Comment = {SECRET}\nElementDataFile = LOCAL\n".encode() + b"\0")
    (tmp_path / "d.mha").write_bytes(f"{mha}ElementDataFile = LOCAL\n".encode() + b"\0")
    assert [("PatientName" in one.message, "Mueller" in one.message) for one in findings([tmp_path / "a.nrrd"])] == [
        (True, False)
    ]
    assert ["Comment" in one.message for one in findings([tmp_path / "c.mha"])] == [True]
    assert findings([tmp_path / "b.nrrd", tmp_path / "d.mha"]) == []


def test_dicom_tags(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    for name, value, burnt in (("named", SECRET, "YES"), ("clean", "", "NO")):
        (tmp_path / name).mkdir()
        dataset = pydicom.Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
        dataset.PatientName, dataset.BurnedInAnnotation = value.split(" ")[0], burnt
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.save_as(tmp_path / name / "0.dcm", enforce_file_format=True)
    found = findings([tmp_path / "named"])
    assert ["BurnedInAnnotation" in one.message and "PatientName" in one.message for one in found] == [True]
    assert "Mueller" not in str(found)
    assert findings([tmp_path / "clean"]) == []
