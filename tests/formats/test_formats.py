"""Choosing a format by content; several files, one image."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam import formats, plugins
from voxelsam.errors import FormatError, GeometryError, InputError, InputWarning, LabelError
from voxelsam.formats import Format, read, read_channels, read_frames, read_labels, read_numbers
from voxelsam.space.orientation import plane_of
from voxelsam.stacks.plan import StackPlan


@pytest.mark.parametrize("name", plugins.names("formats"))
def test_every_module_offers_what_a_format_must(name: str) -> None:
    assert isinstance(plugins.load("formats", name), Format)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, but it holds no data"),
        (b"\x1f\x8b\x08\x00broken", "compression is broken"),
        (b"<html><body>404 Not Found</body></html>\n", "40 bytes, but it is a web page"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"%PDF-1.7 and so on, much longer", r"begins with b'%PDF-1.7 and so '\); can read: .*nifti"),
    ],
)
@pytest.mark.parametrize("reader", [read, read_labels])
def test_files_that_are_no_scan(tmp_path, content, message, reader) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(content)
    with pytest.raises(FormatError, match=rf"scan.nii.gz.*{message}") as caught:
        reader(tmp_path / "scan.nii.gz")
    assert caught.value.code == "SET-03"


def test_names_that_no_file_can_have_and_things_that_are_no_file(tmp_path) -> None:
    with pytest.raises(FormatError, match="cannot be read") as caught:
        read(tmp_path / ("a" * 5000))
    assert caught.value.code == "SET-03"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="expected a file, but this is a pipe") as caught:
        read(tmp_path / "pipe")
    assert caught.value.code == "SET-03"


def test_one_channel_is_read_without_counting_first(tmp_path, monkeypatch) -> None:
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr(formats.picture, "frames", lambda path: pytest.fail("was opened twice"), raising=True)
    assert read_channels([tmp_path / "a.png"], 1).channels == 1


def test_paths_that_lead_nowhere(tmp_path) -> None:
    with pytest.raises(FormatError, match="no such file") as caught:
        read(tmp_path / "scan.nii.gz")
    assert caught.value.code == "SET-01"
    with pytest.raises(FormatError, match="folder"):
        read(tmp_path)


class TestChannels:
    def test_files_become_channels_in_their_order(self, make, scan) -> None:
        paths = [make(scan + c, name=f"{c}.nii.gz") for c in (2, 0, 1)]
        volume = read_channels(paths)
        np.testing.assert_array_equal(volume.data, np.stack([scan + 2, scan, scan + 1]))
        assert volume.source.paths == tuple(paths)

    def test_a_single_file_is_what_it_is(self, make, scan) -> None:
        assert read_channels([make(scan)], count=1).channels == 1

    def test_volumes_of_one_file_become_channels_when_as_many_are_expected(self, make, scan) -> None:
        path = make(np.stack([scan, scan + 1], -1))
        np.testing.assert_array_equal(read_channels([path], count=2).data, np.stack([scan, scan + 1]))
        for count in (None, 1, 3):
            with pytest.raises(InputError, match="holds 2"):
                read_channels([path], count=count)

    def test_another_number_than_expected_is_refused(self, make, scan) -> None:
        paths = [make(scan, name="a.nii"), make(scan, name="b.nii")]
        with pytest.raises(InputError, match="expected 3 channels, but there are 2") as caught:
            read_channels(paths, count=3)
        assert caught.value.code == "VAL-06"

    def test_files_of_another_place_are_refused(self, make, scan, oblique) -> None:
        moved = oblique.copy()
        moved[0, 3] += 2
        with pytest.raises(GeometryError, match=r"b.nii lies up to 2 mm away from .*a.nii") as caught:
            read_channels([make(scan, name="a.nii"), make(scan, moved, name="b.nii")])
        assert caught.value.code == "GEO-02"
        with pytest.raises(GeometryError, match="voxels"):
            read_channels([make(scan, name="a.nii"), make(scan[1:], name="b.nii")])

    def test_a_small_shift_is_told(self, make, scan, oblique) -> None:
        moved = oblique.copy()
        moved[0, 3] += 0.1
        with pytest.warns(InputWarning, match="GEO-02"):
            read_channels([make(scan, name="a.nii"), make(scan, moved, name="b.nii")])

    def test_several_files_hold_one_channel_each(self, make, scan) -> None:
        colours = np.zeros(scan.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        colours["R"] = scan
        with pytest.raises(InputError, match="one channel in each of 2 files"):
            read_channels([make(scan, name="a.nii"), make(colours, name="b.nii")])

    def test_no_file_is_no_image(self) -> None:
        with pytest.raises(InputError, match="at least one file"):
            read_channels([])


class TestNames:
    @pytest.mark.parametrize(
        ("name", "ending", "mask"),
        [
            ("a.nii.gz", ".nii.gz", ".nii.gz"),
            ("a.b.nii", ".nii", ".nii.gz"),
            ("A.NII.GZ", ".NII.GZ", ".nii.gz"),
            ("a.png", ".png", ".png"),
            ("a.JPG", ".JPG", ".png"),
            ("a.tiff", ".tiff", ".png"),
            ("a.gz", "", ".nii.gz"),
            ("a", "", ".nii.gz"),
        ],
    )
    def test_endings_tell_the_family(self, name, ending, mask) -> None:
        assert (formats.ending_of(Path(name)), formats.mask_ending(Path(name))) == (ending, mask)

    def test_what_can_be_written(self) -> None:
        assert [name for name in ("a.nii", "a.PNG", "a.jpg", "a.txt", "png") if formats.can_write(Path(name))] == [
            "a.nii",
            "a.PNG",
        ]

    def test_every_file_that_is_written_can_be_found_again(self) -> None:
        for name in plugins.names("formats"):
            module = plugins.load("formats", name)
            assert set(module.SUFFIXES) <= set(formats.endings())


class TestNumbers:
    def test_numbers_of_objects_need_no_table_and_no_limit(self, make, scan, recwarn) -> None:
        numbers = scan.astype(np.int32) * 1000
        numbers[0, 0, 0] = 255
        np.testing.assert_array_equal(read_numbers(make(numbers)).data[0], numbers)
        assert not recwarn.list

    def test_they_are_whole(self, make, scan) -> None:
        with pytest.raises(LabelError, match="labels must be integers"):
            read_numbers(make(scan / 2.0))


class TestFrames:
    @pytest.fixture
    def pictures(self, tmp_path) -> list[Path]:
        """Four frames, 6 pixels wide and 3 high."""
        noise = np.random.default_rng(5).integers(0, 256, (4, 3, 6, 3), np.uint8)
        for number, frame in enumerate(noise):
            Image.fromarray(frame).save(tmp_path / f"{number}.png")
        return sorted(tmp_path.glob("*.png"))

    def test_frames_lie_along_time_in_the_order_of_the_files(self, pictures) -> None:
        film = read_frames(pictures[::-1], seconds=0.04)
        assert (film.kind, film.grid.along_k, film.grid.shape) == ("VIDEO", "time", (6, 3, 4))
        assert film.grid.spacing == pytest.approx((1, 1, 0.04))
        assert film.source.paths == tuple(pictures[::-1])
        for number, path in enumerate(pictures):
            np.testing.assert_array_equal(film.data[..., 3 - number], read(path).data[..., 0])

    @pytest.mark.parametrize("seconds", [0.01, 1, 100])
    def test_they_are_the_slices_that_a_plan_cuts_upright(self, pictures, seconds) -> None:
        grid = read_frames(pictures, seconds).grid
        reordering = StackPlan(plane="auto").placement(grid).reordering
        assert (reordering.order, reordering.flips, plane_of(grid)) == ((0, 1, 2), (False,) * 3, "axial")

    def test_a_single_frame_is_a_film_too(self, pictures) -> None:
        assert read_frames(pictures[:1]).grid.along_k == "time"

    def test_frames_that_differ_are_refused(self, pictures, tmp_path, make, scan) -> None:
        Image.effect_noise((6, 4), 9).save(tmp_path / "high.png")
        Image.effect_noise((6, 3), 9).save(tmp_path / "grey.png")
        for name, error, message in (
            ("high.png", GeometryError, r"high.png has \(6, 4, 1\) voxels"),
            ("grey.png", InputError, r"grey.png: 1 channels of uint8, but .*0.png has 3"),
        ):
            with pytest.raises(error, match=message):
                read_frames([*pictures, tmp_path / name])
        with pytest.raises(InputError, match="expected one picture, but it has 7 slices"):
            read_frames([make(scan)])
        with pytest.raises(InputError, match="at least one frame"):
            read_frames([])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_an_archive_that_is_cut_off_or_holds_no_image(tmp_path, share) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("notes.txt", "no image " * 50)
    content = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FormatError, match="zip archive") as stop:
        formats.read(tmp_path / "a.zip")
    assert stop.value.code == "SET-03"
