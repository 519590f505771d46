import gzip
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from voxelsam.errors import FormatError, InputError, InputWarning, LabelError
from voxelsam.formats import frames, nifti, read, read_labels
from voxelsam.volumes import Labels

TABLE = Labels({"background": 0, "a": 1, "b": 2})


class TestRead:
    @pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    @pytest.mark.parametrize("swapped", [False, True])
    def test_versions_byte_orders_and_packing_give_the_same(self, make, scan, oblique, name, kind, swapped) -> None:
        volume = read(make(scan, name=name, kind=kind, swapped=swapped))
        np.testing.assert_array_equal(volume.data, scan[None])
        np.testing.assert_allclose(volume.grid.affine, oblique, atol=1e-5)
        assert volume.data.dtype == np.int16
        assert volume.data.dtype.isnative
        assert volume.data.flags.writeable
        assert (volume.kind, volume.source.format) == ("UNKNOWN", "nifti")

    def test_content_counts_not_the_suffix(self, make, scan, tmp_path) -> None:
        plain = make(scan, name="plain.nii").rename(tmp_path / "plain.nii.gz")
        packed = make(scan, name="packed.nii.gz").rename(tmp_path / "packed.nii")
        for path in (plain, packed):
            np.testing.assert_array_equal(read(path).data, scan[None])

    def test_pairs_of_header_and_image(self, make, scan, tmp_path) -> None:
        path = make(scan, name="scan.hdr", kind=nibabel.Nifti1Pair)
        np.testing.assert_array_equal(read(path).data, scan[None])
        (tmp_path / "scan.img").unlink()
        with pytest.raises(FormatError, match=r"348 bytes|352 bytes.*no scan.img") as caught:
            read(path)
        assert caught.value.code == "SET-03"

    def test_scaling_is_applied(self, make, scan) -> None:
        volume = read(make(scan, scl_slope=0.5, scl_inter=-1024))
        np.testing.assert_array_equal(volume.data, scan[None] * 0.5 - 1024)
        assert volume.data.dtype == np.float32

    @pytest.mark.parametrize("slope", [0.0, np.nan])
    def test_a_slope_that_means_none(self, make, scan, slope) -> None:
        np.testing.assert_array_equal(read(make(scan, scl_slope=slope)).data, scan[None])

    def test_broken_scaling_is_refused(self, make, scan) -> None:
        with pytest.raises(FormatError, match="scaling"):
            read(make(scan, scl_slope=2.0, scl_inter=np.inf))

    def test_colours_become_channels(self, make) -> None:
        colours = np.random.default_rng(1).integers(0, 255, (4, 5, 6, 3), np.uint8)
        packed = colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
        volume = read(make(packed))
        np.testing.assert_array_equal(volume.data, np.moveaxis(colours, -1, 0))
        with pytest.raises(LabelError, match="colours"):
            read_labels(make(packed))

    def test_transparency_is_refused(self, make) -> None:
        packed = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
        with pytest.raises(InputError, match="transparency"):
            read(make(packed))

    @pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1)])
    def test_one_slice(self, make, shape) -> None:
        volume = read(make(np.arange(30, dtype=np.uint8).reshape(shape)))
        assert volume.data.shape == (1, 5, 6, 1)

    def test_float_voxels_keep_their_type(self, make, scan) -> None:
        assert read(make(scan.astype(np.float64))).data.dtype == np.float64


class TestFrames:
    def test_one_frame_is_squeezed(self, make, scan) -> None:
        path = make(scan[..., None])
        np.testing.assert_array_equal(read(path).data, scan[None])
        assert frames(path) == 1

    @pytest.mark.parametrize("shape", [(2,), (1, 2)])
    def test_several_need_a_choice(self, make, scan, shape) -> None:
        stacked = np.stack([scan, scan + 1], -1).reshape(*scan.shape, *shape)
        path = make(stacked)
        with pytest.raises(InputError, match=r"holds 2 .*choose one.*or split") as caught:
            read(path)
        assert caught.value.code == "VAL-05"
        np.testing.assert_array_equal(read(path, frame=1).data, scan[None] + 1)
        assert frames(path) == 2

    @pytest.mark.parametrize("frame", [-1, 2])
    def test_frames_that_are_not_there(self, make, scan, frame) -> None:
        with pytest.raises(InputError, match=f"frame {frame} was asked for, but there are 2"):
            read(make(np.stack([scan, scan], -1)), frame=frame)


class TestVoxels:
    def test_nan_and_infinity_are_counted_and_refused(self, make, scan) -> None:
        broken = scan.astype(np.float32)
        broken[0, 0, :3] = np.nan
        broken[1, 1, :2] = -np.inf
        with pytest.raises(InputError, match="3 voxels are not a number and 2 are infinite, of 210") as caught:
            read(make(broken))
        assert caught.value.code == "VAL-01"

    def test_scaling_into_infinity_is_refused(self, make, scan) -> None:
        with pytest.raises(InputError, match="infinite"):
            read(make(scan + 1, scl_slope=3e38))

    def test_constant_images_load_with_a_warning(self, make) -> None:
        with pytest.warns(InputWarning, match=r"VAL-02: .*scan.nii.gz: every voxel is 7"):
            volume = read(make(np.full((3, 4, 5), 7, np.uint8)))
        assert volume.data.max() == 7

    def test_complex_voxels_are_refused(self, make, scan) -> None:
        with pytest.raises(InputError, match=r"complex64.*magnitude") as caught:
            read(make(scan.astype(np.complex64)))
        assert caught.value.code == "VAL-05"

    @pytest.mark.parametrize("code", [0, 1, 999])
    def test_unknown_types_are_refused(self, make, scan, code) -> None:
        with pytest.raises(FormatError, match="type"):
            read(make(scan, datatype=code))


class TestDamage:
    @pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
    @pytest.mark.parametrize("keep", [0.5, 0.98])
    def test_a_cut_off_file_says_so(self, make, scan, name, keep) -> None:
        path = make(np.random.default_rng(0).random((20, 20, 20)), name=name)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(FormatError, match=rf"{name}: cut off or damaged \({path.stat().st_size} bytes") as caught:
            read(path)
        assert caught.value.code == "SET-03"

    def test_a_cut_behind_the_chosen_frame_is_seen(self, make, scan) -> None:
        path = make(np.stack([scan, scan], -1), name="scan.nii")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FormatError, match="cut off"):
            read(path, frame=0)

    def test_a_flipped_bit_in_gzip_is_seen(self, make) -> None:
        path = make(np.random.default_rng(0).integers(0, 255, (20, 20, 20), np.uint8))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
        with pytest.raises(FormatError, match="damaged"):
            read(path)

    @pytest.mark.parametrize("length", [4, 347])
    def test_a_cut_off_header(self, make, scan, length) -> None:
        path = make(scan, name="scan.nii")
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(FormatError, match=f"after {length} of 348 bytes"):
            read(path)

    @pytest.mark.parametrize("offset", [0, 100, np.nan, np.inf, -5])
    def test_voxels_cannot_start_anywhere(self, make, scan, offset) -> None:
        with pytest.raises(FormatError, match="cannot start"):
            read(make(scan, vox_offset=offset))

    @pytest.mark.parametrize("dim", [[0] * 8, [3, 5, 0, 7, 1, 1, 1, 1], [3, 5, -6, 7, 1, 1, 1, 1], [9] + [1] * 7])
    def test_sizes_without_sense(self, make, scan, dim) -> None:
        with pytest.raises(FormatError, match="no image"):
            read(make(scan, dim=dim))

    def test_sizes_beyond_the_file_allocate_nothing(self, make, scan) -> None:
        with pytest.raises(FormatError, match="bytes are needed"):
            read(make(scan, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]))

    def test_analyze_headers_are_named(self, make, scan) -> None:
        with pytest.raises(FormatError, match=r"Analyze 7.5"):
            read(make(scan, magic=b""))

    def test_cifti_is_named(self, make, scan) -> None:
        with pytest.raises(FormatError, match="CIFTI"):
            read(make(scan, kind=nibabel.Nifti2Image, intent_code=3001))

    def test_gzip_of_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(gzip.compress(b"not a scan at all"))
        with pytest.raises(FormatError, match=r"b'not a scan at al' inside gzip"):
            read(path)


class TestLabels:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
    def test_every_type_gives_small_integers(self, make, scan, dtype) -> None:
        labels = (scan % 3).astype(dtype)
        label_map = read_labels(make(labels), TABLE)
        assert label_map.data.dtype == np.uint8
        np.testing.assert_array_equal(label_map.data, scan % 3)
        assert label_map.labels == TABLE

    def test_large_values_need_sixteen_bits(self, make, scan) -> None:
        label_map = read_labels(make(scan.astype(np.int32) * 300))
        assert label_map.data.dtype == np.uint16
        np.testing.assert_array_equal(label_map.data, scan.astype(np.int32) * 300)

    def test_without_a_table_the_values_name_themselves(self, make, scan) -> None:
        assert read_labels(make((scan % 2) * 3)).labels.to_json() == {"background": 0, "label_3": 3}

    def test_an_empty_label_map_loads(self, make, scan) -> None:
        assert read_labels(make(scan * 0), TABLE).data.max() == 0

    def test_values_just_off_an_integer_are_rounded_not_cut(self, make, scan) -> None:
        label_map = read_labels(make((scan % 3 - 0.0005).astype(np.float32)), TABLE)
        np.testing.assert_array_equal(label_map.data, scan % 3)

    def test_values_between_integers_are_refused(self, make, scan) -> None:
        labels = (scan % 3).astype(np.float32)
        labels[0, 0, 0] = 1.002
        with pytest.raises(LabelError, match=r"1 voxels are not, such as 1.002") as caught:
            read_labels(make(labels), TABLE)
        assert caught.value.code == "LAB-01"

    def test_labels_that_a_scale_has_spoilt_are_refused(self, make, scan) -> None:
        with pytest.raises(LabelError, match=r"such as 1.176, 2.353"):
            read_labels(make((scan % 3).astype(np.uint8), scl_slope=300 / 255, scl_inter=0))

    @pytest.mark.parametrize("table", [TABLE, None])
    @pytest.mark.parametrize("value", [-1, 70000])
    def test_values_no_table_can_hold(self, make, scan, table, value) -> None:
        labels = (scan % 3).astype(np.int32)
        labels[0, 0, 0] = value
        with pytest.raises(LabelError, match=rf"scan.nii.gz.*{value}") as caught:
            read_labels(make(labels), table)
        assert caught.value.code == "LAB-02"

    def test_values_outside_the_table(self, make, scan) -> None:
        with pytest.raises(LabelError, match=r"scan.nii.gz should hold .*also holds 3 \(\d+ voxels\)"):
            read_labels(make(scan % 4), TABLE)

    def test_the_ignore_value_only_when_told_so(self, make, scan) -> None:
        path = make(np.where(scan % 5 == 4, 255, scan % 3).astype(np.uint8))
        with pytest.raises(LabelError, match="255"):
            read_labels(path, TABLE)
        with pytest.warns(InputWarning, match=r"LAB-02: .*255 beside other labels"):
            read_labels(path)
        assert read_labels(path, Labels(TABLE.values, ignore=255)).data.max() == 255

    def test_nan_in_labels_is_refused(self, make, scan) -> None:
        labels = (scan % 3).astype(np.float32)
        labels[0, 0, 0] = np.nan
        with pytest.raises(InputError, match="1 voxels are not a number"):
            read_labels(make(labels), TABLE)


def test_recognising_looks_at_the_first_bytes_only(make, scan) -> None:
    path = make(scan)
    assert nifti.recognises(Path("whatever"), path.read_bytes()[:4096])
    assert not nifti.recognises(path, b"\x89PNG\r\n\x1a\n")
    assert not nifti.recognises(path, b"\x1f\x8b not gzip")
    assert not nifti.recognises(path, b"")


def test_scaling_makes_no_copy_of_the_whole_scan_in_double_precision(make) -> None:
    stored = np.arange(1_000_000, dtype=np.int16).reshape(100, 100, 100)
    path = make(stored, name="scan.nii", scl_slope=0.5, scl_inter=3)
    tracemalloc.start()
    try:
        volume = read(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * volume.data.nbytes
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(volume.data[0], (stored * 0.5 + 3).astype(np.float32))
