from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from voxelsam.doctor import diagnose
from voxelsam.errors import ConfigError, InputError, LabelError
from voxelsam.formats import nifti, read, read_labels


class TestTargets:
    def test_a_file(self, tmp_path: Path, store: Any) -> None:
        path = store(tmp_path / "a.nii.gz", np.full((9, 9, 9), 3, np.int16))
        diagnosis = diagnose(path)
        assert (diagnosis.what, diagnosis.cases, diagnosis.files) == ("image", 1, 1)
        assert [(one.code, one.where, one.message) for one in diagnosis.findings] == [
            ("VAL-02", str(path), "every voxel is 3")
        ]

    def test_an_image_with_its_label(self, sound: Any) -> None:
        sound.add("dora", label_affine=np.diag([1, 1, 2, 1.0]))
        assert diagnose(sound.image("ada"), label=sound.label("ada")).findings == ()
        found = diagnose(sound.image("dora"), label=sound.label("dora")).findings
        assert [one.code for one in found] == ["GEO-02"]
        assert "19 mm" in found[0].message

    def test_a_folder_of_files(self, tmp_path: Path, store: Any, structures: Any) -> None:
        store(tmp_path / "one.nii.gz", np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
        (tmp_path / "deeper" / "labels").mkdir(parents=True)
        store(tmp_path / "deeper" / "labels" / "a.nii.gz", np.full((9, 9, 9), 0.5, np.float32))
        (tmp_path / "deeper" / "broken.nii.gz").write_bytes(b"")
        (tmp_path / ".hidden").mkdir()
        (tmp_path / ".hidden" / "broken.nii.gz").write_bytes(b"")
        (tmp_path / "notes.txt").write_text("no image")
        diagnosis = diagnose(tmp_path)
        assert (diagnosis.what, diagnosis.files) == ("files", 3)
        assert {(one.code, Path(one.where).name) for one in diagnosis.findings} == {
            ("LAB-01", "a.nii.gz"),
            ("SET-03", "broken.nii.gz"),
        }

    def test_files_of_a_broken_data_set_are_looked_at(self, sound: Any) -> None:
        sound.label("bob").unlink()
        sound.image("ada").write_bytes(sound.image("ada").read_bytes()[:300])
        diagnosis = diagnose(sound.root)
        assert {one.code for one in diagnosis.findings} == {"SET-01", "SET-03"}
        assert diagnosis.files == 5

    def test_every_problem_of_a_layout_is_a_finding(self, sound: Any) -> None:
        sound.label("bob").unlink()
        sound.image("ada").unlink()
        assert [one.code for one in diagnose(sound.root).findings] == ["SET-01", "SET-01"]

    def test_numbered_pictures_are_a_film_only_if_a_file_says_so(self, tmp_path: Path) -> None:
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (9, 9), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number:05}.png")
        assert (diagnose(tmp_path).what, diagnose(tmp_path).files) == ("files", 3)
        (tmp_path / "frames.json").write_text('{"seconds": 0.04}')
        assert (diagnose(tmp_path).what, diagnose(tmp_path).files) == ("image", 1)

    @pytest.mark.parametrize("name", ["nowhere", "empty"])
    def test_nothing_to_look_at(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=name) as caught:
            diagnose(tmp_path / name)
        assert caught.value.code == "SET-01"

    def test_one_label_belongs_to_one_image(self, sound: Any) -> None:
        with pytest.raises(ConfigError, match="one label map"):
            diagnose([sound.image("ada"), sound.image("bob")], label=sound.label("ada"))


def test_a_reader_and_a_rule_that_say_the_same_are_one_finding(sound: Any, structures: Any) -> None:
    sound.add("dora", np.full((24, 22, 20), 3, np.int16))
    assert [(one.code, one.severity) for one in diagnose(sound.root).findings] == [("VAL-02", "error")]


class TestOptions:
    def test_an_unknown_code_is_refused(self, sound: Any) -> None:
        with pytest.raises(ConfigError, match="no check GEO-77"):
            diagnose(sound.root, ignore=["GEO-77"])

    def test_an_accepted_error_lets_the_rest_of_the_case_be_judged(self, sound: Any) -> None:
        image = np.random.default_rng(0).uniform(0, 255, (24, 22, 20)).astype(np.float32)
        image[0, 0, 0] = np.inf
        sound.write(channel_names={"0": "CT"})
        sound.add("dora", image)
        assert [one.code for one in diagnose(sound.root).findings] == ["VAL-01"]
        assert [one.code for one in diagnose(sound.root, ignore=["VAL-01"]).findings] == ["VAL-03"]

    def test_folds(self, sound: Any, structures: Any) -> None:
        liver = structures()
        liver[liver == 2] = 0
        sound.add("dora", label=liver)
        names = ["ada", "bob", "cleo"]
        sound.split({"train": names, "val": ["dora"]}, {"train": ["dora"], "val": names})
        every = diagnose(sound.root).findings
        assert [(one.code, one.severity, one.where[-6:]) for one in every] == [
            ("LAB-03", "error", "fold 1"),
            ("LAB-03", "warning", "fold 0"),
        ]
        assert diagnose(sound.root, fold=0).errors == 0
        with pytest.raises(InputError, match="fold 7"):
            diagnose(sound.root, fold=7)

    def test_copies_are_told_once_for_all_folds(self, sound: Any) -> None:
        sound.image("dora").write_bytes(sound.image("ada").read_bytes())
        sound.label("dora").write_bytes(sound.label("ada").read_bytes())
        fold = {"train": ["ada", "dora", "bob"], "val": ["cleo"]}
        sound.split(fold, fold)
        assert [(one.code, one.where) for one in diagnose(sound.root).findings] == [("SET-01", str(sound.root))]

    def test_quick_reads_headers_only(self, sound: Any) -> None:
        sound.add("dora", np.full((24, 22, 20), 3, np.int16), label_affine=np.diag([1, 1, 9, 1.0]))
        content = sound.image("ada").read_bytes()
        sound.image("ada").write_bytes(content[: len(content) // 2])
        assert {one.code for one in diagnose(sound.root, quick=True).findings} == {"GEO-02"}
        assert {one.code for one in diagnose(sound.root).findings} == {"GEO-02", "VAL-02", "SET-03"}

    def test_several_processes_find_the_same(self, sound: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        sound.add("dora", label_affine=np.diag([1, 1, 9, 1.0]))
        sound.label("ada").write_bytes(b"")
        alone = diagnose(sound.root)
        monkeypatch.setattr("voxelsam.doctor.diagnosis.WORTH_CASES", 2)
        seen: list[tuple[int, int]] = []
        together = diagnose(sound.root, jobs=2, progress=lambda done, total: seen.append((done, total)))
        assert together == alone
        assert seen == [(number, 4) for number in range(1, 5)]


def test_the_report(sound: Any, structures: Any) -> None:
    for name in ("dora", "emil"):
        sound.add(name, label=np.zeros((24, 22, 20), np.uint8))
    sound.label("ada").write_bytes(b"")
    diagnosis = diagnose(sound.root)
    assert [(one[0].code, len(one)) for one in diagnosis.rows()] == [("SET-03", 1), ("LAB-03", 2)]
    assert diagnosis.summary() == "data set, 5 cases, 10 files: 1 error, 2 warnings (SET-03 × 1, LAB-03 × 2)"
    written = diagnosis.to_json()
    assert (written["errors"], written["warnings"], len(written["findings"])) == (1, 2, 3)
    assert all(one["cause"] and one["fix"] for one in written["findings"])


class TestReaders:
    def test_an_accepted_nan_becomes_the_smallest_value(self, tmp_path: Path, store: Any) -> None:
        from voxelsam import checks

        data = np.arange(-5, 22, dtype=np.float32).reshape(3, 3, 3)
        data[1, 1, 1], data[2, 2, 2] = np.nan, -np.inf
        path = store(tmp_path / "a.nii.gz", data)
        with checks.watching({"VAL-01"}) as watch:
            volume = read(path)
        expected = np.where(np.isfinite(data), data, -5)
        np.testing.assert_array_equal(volume.data[0], expected)
        assert [(one.code, one.severity) for one in watch.findings] == [("VAL-01", "warning")]
        assert "1 voxels are not a number and 1 are infinite" in watch.findings[0].message

    def test_nothing_but_nan_cannot_be_accepted(self, tmp_path: Path, store: Any) -> None:
        from voxelsam import checks

        path = store(tmp_path / "a.nii.gz", np.full((3, 3, 3), np.nan, np.float32))
        with checks.watching({"VAL-01"}), pytest.raises(InputError, match="27 voxels") as caught:
            read(path)
        assert caught.value.code == "VAL-01"

    def test_several_volumes_are_no_label_map(self, tmp_path: Path, store: Any) -> None:
        path = store(tmp_path / "a.nii.gz", np.ones((3, 3, 3, 2), np.uint8))
        with pytest.raises(LabelError, match="the file holds 2") as caught:
            read_labels(path)
        assert caught.value.code == "LAB-05"

    def test_a_huge_number_is_no_label(self, tmp_path: Path, store: Any) -> None:
        path = store(tmp_path / "a.nii.gz", np.full((3, 3, 3), -3e12, np.float32))
        with pytest.raises(LabelError, match=r"3e\+12 came") as caught:
            read_labels(path)
        assert caught.value.code == "VAL-04"

    def test_the_grid_comes_from_the_header_alone(self, sound: Any) -> None:
        path = sound.image("ada")
        whole = read(path).grid
        path.write_bytes(path.read_bytes()[:900])
        assert nifti.grid(path).shape == whole.shape
        np.testing.assert_array_equal(nifti.grid(path).affine, whole.affine)
