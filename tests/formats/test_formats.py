"""Choosing a format by content; several files, one image."""

import numpy as np
import pytest

from voxelsam import plugins
from voxelsam.errors import FormatError, GeometryError, InputError, InputWarning
from voxelsam.formats import Format, read, read_channels, read_labels


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
