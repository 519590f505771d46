"""Every kind of bad input has a fixture that the doctor names by its code, and a sound twin that it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from voxelsam.doctor import diagnose

Make = Callable[[Any], None]
ROWS: list[tuple[str, str, Make]] = []


def row(code: str, severity: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        ROWS.append((code, severity, make))
        return make

    return keep


def values(seed: int = 0, shape: tuple[int, ...] = (24, 22, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


def drawn(shape: tuple[int, ...] = (24, 22, 20)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[2:9, 2:9] = 1
    label[14:20, 4:12] = 2
    return label


def moved(millimetres: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = millimetres
    return affine


def patched(path: Path, **fields: Any) -> None:
    """Overwrites header fields behind nibabel's back."""
    with nibabel.openers.Opener(str(path)) as stream:
        content = stream.read()
    header = nibabel.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    with nibabel.openers.Opener(str(path), "wb") as stream:
        stream.write(header.binaryblock + content[348:])


@row("GEO-01", "error")
def shapes_differ(folder: Any) -> None:
    folder.add("dora", label=drawn((24, 22, 19)))


@row("GEO-02", "error")
def label_far_away(folder: Any) -> None:
    folder.add("dora", label_affine=moved(30))


@row("GEO-02", "warning")
def label_a_little_away(folder: Any) -> None:
    folder.add("dora", label_affine=moved(0.2))


@row("GEO-03", "warning")
def sheared(folder: Any) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.3
    folder.add("dora", image_affine=affine, label_affine=affine)
    for path in (folder.image("dora"), folder.label("dora")):
        patched(path, qform_code=0)


@row("GEO-04", "warning")
def two_places_in_one_header(folder: Any) -> None:
    folder.add("dora")
    patched(folder.image("dora"), qoffset_x=50)


@row("GEO-05", "warning")
def no_orientation(folder: Any) -> None:
    folder.add("dora")
    for path in (folder.image("dora"), folder.label("dora")):
        patched(path, sform_code=0, qform_code=0)


@row("GEO-05", "error")
def no_voxel_size(folder: Any) -> None:
    folder.add("dora")
    patched(folder.image("dora"), sform_code=0, qform_code=0, pixdim=np.zeros(8))


@row("GEO-07", "warning")
def thick_slices(folder: Any) -> None:
    thick = np.diag([1, 1, 8, 1.0])
    folder.add("dora", image_affine=thick, label_affine=thick)


@row("GEO-08", "warning")
def metres(folder: Any) -> None:
    small = np.diag([0.001, 0.001, 0.001, 1])
    folder.add("dora", image_affine=small, label_affine=small)


@row("VAL-01", "error")
def not_numbers(folder: Any) -> None:
    image = values().astype(np.float32)
    image[3, 3, 3] = np.nan
    folder.add("dora", image)


@row("VAL-02", "error")
def structures_on_nothing(folder: Any) -> None:
    folder.add("dora", np.full((24, 22, 20), 5, np.int16))


@row("VAL-02", "warning")
def nothing_at_all(folder: Any) -> None:
    (folder.root / "imagesTs").mkdir()
    folder.add("dora", np.full((24, 22, 20), 5, np.int16))
    folder.label("dora").unlink()
    folder.image("dora").rename(folder.root / "imagesTs" / "dora_0000.nii.gz")


@row("VAL-03", "warning")
def ct_as_grey_values(folder: Any) -> None:
    folder.write(channel_names={"0": "CT"})
    folder.add("dora", np.clip(values(4), 0, 255))


@row("VAL-03", "warning")
def one_case_of_another_scale(folder: Any) -> None:
    for name in ("dora", "emil"):
        folder.add(name)
    folder.add("fay", values(9).astype(np.float32) * 100)


@row("VAL-04", "error")
def label_beyond_its_type(folder: Any) -> None:
    folder.add("dora", label=np.where(drawn() == 1, np.float32(1e12), 0).astype(np.float32))


@row("VAL-05", "error")
def four_dimensions(folder: Any) -> None:
    folder.add("dora", values(0, (24, 22, 20, 3)))


@row("VAL-06", "error")
def a_missing_channel(folder: Any) -> None:
    folder.write(channel_names={"0": "T1", "1": "T2"})


@row("VAL-06", "warning")
def one_channel_twice(folder: Any) -> None:
    folder.write(channel_names={"0": "T1", "1": "T2"})
    for path in sorted(folder.root.glob("imagesTr/*")):
        path.with_name(path.name.replace("_0000", "_0001")).write_bytes(path.read_bytes())


@row("LAB-01", "error")
def fractions(folder: Any) -> None:
    folder.add("dora", label=drawn().astype(np.float32) * np.float32(1.176))


@row("LAB-02", "error")
def values_outside_the_table(folder: Any) -> None:
    folder.add("dora", label=np.where(drawn() == 2, 255, drawn()).astype(np.uint8))


@row("LAB-03", "error")
def structure_absent(folder: Any) -> None:
    folder.write(labels={"background": 0, "liver": 1, "spleen": 2, "gallbladder": 3})


@row("LAB-03", "warning")
def empty_label(folder: Any) -> None:
    folder.add("dora", label=np.zeros((24, 22, 20), np.uint8))


@row("LAB-05", "error")
def one_volume_per_structure(folder: Any) -> None:
    folder.add("dora", label=np.stack([drawn() == 1, drawn() == 2], -1).astype(np.uint8))


@row("LAB-06", "warning")
def specks(folder: Any) -> None:
    label = drawn()
    label[23, 21, 0] = 1
    label[:, :, 19] = label[:, :, 0]
    folder.add("dora", label=label)


@row("SET-01", "error")
def no_partner(folder: Any) -> None:
    folder.add("dora")
    folder.label("dora").unlink()


@row("SET-01", "warning")
def a_copy(folder: Any) -> None:
    folder.image("dora").write_bytes(folder.image("ada").read_bytes())
    folder.label("dora").write_bytes(folder.label("ada").read_bytes())


@row("SET-01", "warning")
def fewer_cases_than_declared(folder: Any) -> None:
    folder.write(numTraining=99)


@row("SET-02", "error")
def one_patient_on_both_sides(folder: Any) -> None:
    folder.write(groups={"ada": "p1", "bob": "p1", "cleo": "p2"})
    folder.split({"train": ["ada", "cleo"], "val": ["bob"]})


@row("SET-02", "error")
def one_content_on_both_sides(folder: Any) -> None:
    a_copy(folder)
    folder.split({"train": ["ada", "cleo"], "val": ["bob", "dora"]})


@row("SET-03", "error")
def cut_off(folder: Any) -> None:
    content = folder.image("ada").read_bytes()
    folder.image("ada").write_bytes(content[: len(content) // 2])


@row("SET-03", "error")
def web_page(folder: Any) -> None:
    folder.image("ada").write_text("<!DOCTYPE html><html>404</html>")


@row("SET-03", "error")
def git_lfs_pointer(folder: Any) -> None:
    folder.label("ada").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(("code", "severity", "make"), ROWS, ids=[f"{c}-{m.__name__}" for c, _, m in ROWS])
def test_a_bad_input_is_named(sound: Any, code: str, severity: str, make: Make) -> None:
    make(sound)
    diagnosis = diagnose(sound.root)
    found = [(finding.code, finding.severity) for finding in diagnosis.findings]
    assert (code, severity) in found
    assert {other for other, _ in found} <= {code, "GEO-07", "GEO-08"}
    assert diagnosis.verdict == (2 if severity == "error" else 1)
    ignoring = diagnose(sound.root, ignore={code, "GEO-07", "GEO-08"})
    assert ignoring.verdict == 0
    assert ignoring.ignored[code] >= 1


def test_the_sound_twin_is_clean(sound: Any) -> None:
    diagnosis = diagnose(sound.root)
    assert (diagnosis.findings, diagnosis.verdict) == ((), 0)
    assert diagnosis.summary() == "data set, 3 cases, 6 files: 0 errors, 0 warnings"


def test_a_picture_that_asks_to_be_turned(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (30, 20), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels[:, ::-1]).save(tmp_path / "straight.png")
    assert [finding.code for finding in diagnose(tmp_path / "turned.png").findings] == ["GEO-06"]
    assert diagnose(tmp_path / "straight.png").findings == ()


def test_tables_of_two_data_sets(sound: Any, tmp_path: Path) -> None:
    other = type(sound)(tmp_path / "other")
    other.write(labels={"background": 0, "spleen": 1, "liver": 2})
    for name in ("xena", "yves"):
        other.add(name)
    found = diagnose([sound.root, other.root]).findings
    assert [(finding.code, finding.severity) for finding in found] == [("LAB-04", "error")]
    other.write(labels={"background": 0, "liver": 1, "spleen": 2})
    assert diagnose([sound.root, other.root]).findings == ()
