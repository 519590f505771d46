"""Writing: the same place, all or nothing, judged by two other readers."""

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from voxelsam.errors import GeometryError, InputError, InputWarning, LabelError, OutputError
from voxelsam.formats import nifti, read, read_labels, write_labels, write_volume
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

TABLE = Labels({"background": 0, "a": 1, "b": 2, "many": 300}, ignore=65535)
LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture
def label_map(scan, oblique) -> LabelMap:
    return LabelMap((scan % 3).astype(np.int64), Grid(scan.shape, oblique), TABLE)


def itk_affine(path: Path) -> np.ndarray:
    """What another library says about the place of the voxels, in RAS."""
    image = SimpleITK.ReadImage(str(path))
    directions = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    return LPS @ nibabel.affines.from_matvec(directions, image.GetOrigin())


class TestLike:
    @pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
    @pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 0), (0, 1), (4, 4)])
    @pytest.mark.parametrize("swapped", [False, True])
    def test_shape_and_affine_are_bit_equal_and_codes_kept(self, make, scan, tmp_path, name, codes, swapped) -> None:
        image = read(make(scan, sform=codes[0], qform=codes[1], swapped=swapped))
        label_map = LabelMap((scan % 3).astype(np.uint8), image.grid, TABLE)
        write_labels(tmp_path / name, label_map, like=image)
        again = read_labels(tmp_path / name, TABLE)
        np.testing.assert_array_equal(again.grid.affine, image.grid.affine)
        np.testing.assert_array_equal(again.data, label_map.data)
        header = nibabel.load(tmp_path / name).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == codes

    @pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 0), (0, 1)])
    def test_another_reader_sees_image_and_label_in_one_place(self, make, scan, tmp_path, codes) -> None:
        path = make(scan, sform=codes[0], qform=codes[1])
        image = read(path)
        write_labels(tmp_path / "out.nii.gz", LabelMap(scan % 3, image.grid, TABLE), like=image)
        np.testing.assert_array_equal(itk_affine(tmp_path / "out.nii.gz"), itk_affine(path))
        np.testing.assert_allclose(itk_affine(path), image.grid.affine, atol=1e-4)
        voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out.nii.gz")))
        np.testing.assert_array_equal(voxels.transpose(2, 1, 0), scan % 3)

    def test_double_precision_of_nifti_2_is_kept(self, make, scan, oblique, tmp_path) -> None:
        image = read(make(scan, oblique, kind=nibabel.Nifti2Image))
        np.testing.assert_array_equal(image.grid.affine, oblique)
        write_labels(tmp_path / "out.nii.gz", LabelMap(scan % 3, image.grid, TABLE), like=image)
        np.testing.assert_array_equal(read_labels(tmp_path / "out.nii.gz").grid.affine, oblique)

    def test_a_label_maps_own_source_serves_as_well(self, make, scan, tmp_path) -> None:
        label_map = read_labels(make(scan % 3, sform=4, qform=2), TABLE)
        write_labels(tmp_path / "out.nii.gz", label_map)
        assert int(nibabel.load(tmp_path / "out.nii.gz").header["sform_code"]) == 4

    def test_a_sheared_grid_is_never_written_through_a_qform(self, make, scan, tmp_path) -> None:
        sheared = np.eye(4)
        sheared[0, 2] = 0.3
        with pytest.warns(InputWarning):
            image = read(make(scan, sheared, qform=1))
        write_labels(tmp_path / "out.nii.gz", LabelMap(scan % 3, image.grid, TABLE), like=image)
        header = nibabel.load(tmp_path / "out.nii.gz").header
        assert int(header["qform_code"]) == 0
        with pytest.warns(InputWarning, match="GEO-03"):
            again = read_labels(tmp_path / "out.nii.gz")
        np.testing.assert_array_equal(again.grid.affine, image.grid.affine)

    def test_no_orientation_stays_no_orientation(self, make, scan, tmp_path) -> None:
        with pytest.warns(InputWarning, match="GEO-05"):
            image = read(make(scan, sform=0, qform=0))
        write_labels(tmp_path / "out.nii.gz", LabelMap(scan % 3, image.grid, TABLE), like=image)
        with pytest.warns(InputWarning, match="GEO-05"):
            np.testing.assert_array_equal(read_labels(tmp_path / "out.nii.gz").grid.affine, image.grid.affine)

    def test_a_frame_of_a_series_gives_a_plain_volume(self, make, scan, tmp_path) -> None:
        image = read(make(np.stack([scan, scan], -1), pixdim=[-1, 0.7, 0.9, 2.5, 2000, 1, 1, 1]), frame=1)
        write_labels(tmp_path / "out.nii.gz", LabelMap(scan % 3, image.grid, TABLE), like=image)
        written = nibabel.load(tmp_path / "out.nii.gz")
        assert written.shape == scan.shape
        assert written.header["pixdim"][4] == 1

    def test_text_of_the_source_does_not_travel_along(self, make, scan, tmp_path) -> None:
        image = read(make(scan, descrip=b"Doe^Jane", aux_file=b"Doe", intent_name=b"Doe", db_name=b"Doe"))
        write_labels(tmp_path / "out.nii", LabelMap(scan % 3, image.grid, TABLE), like=image)
        assert b"Doe" not in (tmp_path / "out.nii").read_bytes()

    def test_a_label_map_of_another_place_is_refused(self, make, scan, label_map, tmp_path) -> None:
        image = read(make(scan, np.eye(4)))
        with pytest.raises(GeometryError, match=r"out\.nii"):
            write_labels(tmp_path / "out.nii", label_map, like=image)
        with pytest.raises(GeometryError, match="voxels"):
            write_labels(tmp_path / "out.nii", label_map, like=read(make(scan[:-1])))
        assert not (tmp_path / "out.nii").exists()


class TestWithoutSource:
    def test_the_affine_is_kept_to_single_precision(self, label_map, oblique, tmp_path) -> None:
        write_labels(tmp_path / "out.nii.gz", label_map)
        again = read_labels(tmp_path / "out.nii.gz", TABLE)
        np.testing.assert_array_equal(again.grid.affine, oblique.astype(np.float32))
        np.testing.assert_allclose(itk_affine(tmp_path / "out.nii.gz"), oblique, atol=1e-4)

    @pytest.mark.parametrize(("largest", "dtype"), [(2, np.uint8), (300, np.uint16), (65535, np.uint16)])
    def test_the_type_follows_the_largest_value_and_nothing_is_scaled(
        self, label_map, tmp_path, largest, dtype
    ) -> None:
        label_map.data[0, 0, 0] = largest
        write_labels(tmp_path / "out.nii.gz", label_map)
        image = nibabel.load(tmp_path / "out.nii.gz")
        assert image.get_data_dtype() == dtype
        raw = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
        header = nibabel.Nifti1Header(raw[:348])
        assert (float(header["scl_slope"]), float(header["scl_inter"])) == (1, 0)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), label_map.data)

    def test_values_outside_the_table_are_not_written(self, label_map, tmp_path) -> None:
        label_map.data[0, 0, 0] = 7
        with pytest.raises(LabelError, match=r"out.nii.gz.*7 \(1 voxels\)"):
            write_labels(tmp_path / "out.nii.gz", label_map)
        assert list(tmp_path.iterdir()) == []

    def test_the_same_input_gives_the_same_bytes(self, label_map, tmp_path) -> None:
        for name in ("a.nii.gz", "b.nii.gz"):
            write_labels(tmp_path / name, label_map)
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()

    def test_very_long_axes_need_nifti_2(self, tmp_path) -> None:
        grid = Grid((1, 40000, 1), np.eye(4))
        write_labels(tmp_path / "out.nii.gz", LabelMap(np.ones(grid.shape, np.uint8), grid, TABLE))
        assert read_labels(tmp_path / "out.nii.gz").grid.shape == grid.shape
        assert isinstance(nibabel.load(tmp_path / "out.nii.gz"), nibabel.Nifti2Image)

    @pytest.mark.parametrize("name", ["out.xyz", "out", "out.nii.zip", "out.jpg"])
    def test_suffixes_nobody_writes(self, label_map, tmp_path, name) -> None:
        with pytest.raises(OutputError, match=r"suffix; can write: .*\.nii\.gz, \.nii, \.png"):
            write_labels(tmp_path / name, label_map)
        assert list(tmp_path.iterdir()) == []


class TestAllOrNothing:
    """Whatever happens: no half file, no leftovers, an existing target as it was."""

    @pytest.fixture(params=[None, b"an earlier result"])
    def target(self, request, tmp_path):
        path = tmp_path / "out.nii.gz"
        if request.param is not None:
            path.write_bytes(request.param)
        yield path
        if request.param is None:
            assert list(tmp_path.iterdir()) == []
        else:
            assert list(tmp_path.iterdir()) == [path]
            assert path.read_bytes() == request.param

    @pytest.mark.parametrize(
        ("raised", "seen"),
        [(OSError(28, "No space left on device"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt)],
    )
    def test_a_full_disk_or_a_kill_in_the_middle(self, target, label_map, monkeypatch, raised, seen) -> None:
        def fail(self, data):
            self.fileobj.write(b"half of it")
            raise raised

        monkeypatch.setattr(gzip.GzipFile, "write", fail)
        with pytest.raises(seen, match="No space left" if seen is OutputError else None):
            write_labels(target, label_map)

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failure_at_the_end(self, target, label_map, monkeypatch, step) -> None:
        def fail(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, step, fail)
        monkeypatch.setattr(Path, "replace", fail if step == "replace" else Path.replace)
        with pytest.raises(OutputError, match="Input/output error"):
            write_labels(target, label_map)

    @pytest.mark.parametrize("part", ["voxels", "place", "type"])
    def test_a_file_that_reads_back_differently(self, target, label_map, monkeypatch, part) -> None:
        load = nifti._load

        def other(path, frame):
            header, data, grid = load(path, frame)
            if part == "voxels":
                data[1, 2, 3] ^= 1
            elif part == "type":
                data = data.astype(np.int32)
            else:
                grid = Grid(grid.shape, grid.affine + 1e-6 * (np.arange(16).reshape(4, 4) < 12))
            return header, data, grid

        monkeypatch.setattr(nifti, "_load", other)
        with pytest.raises(OutputError, match="does not read back"):
            write_labels(target, label_map)

    def test_bytes_that_the_disk_lost(self, target, label_map, monkeypatch) -> None:
        def lose(descriptor):
            os.ftruncate(descriptor, 60)

        monkeypatch.setattr(os, "fsync", lose)
        with pytest.raises(OutputError, match="cannot be read back"):
            write_labels(target, label_map)


def test_an_existing_file_is_replaced(label_map, tmp_path) -> None:
    (tmp_path / "out.nii").write_bytes(b"old")
    write_labels(tmp_path / "out.nii", label_map)
    np.testing.assert_array_equal(read_labels(tmp_path / "out.nii", TABLE).data, label_map.data)


def test_folders_that_are_missing_or_in_the_way(label_map, tmp_path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        write_labels(tmp_path / "nowhere" / "out.nii", label_map)
    (tmp_path / "out.nii").mkdir()
    with pytest.raises(OutputError, match="a folder of this name"):
        write_labels(tmp_path / "out.nii", label_map)


class TestVolume:
    @pytest.mark.parametrize(
        ("dtype", "stored"),
        [
            (np.uint8, np.int16),
            (np.int16, np.int16),
            (np.int32, np.int16),
            (np.float32, np.float32),
            (np.float64, "f4"),
        ],
    )
    def test_images_come_back(self, scan, oblique, tmp_path, dtype, stored) -> None:
        volume = Volume(scan[None].astype(dtype), Grid(scan.shape, oblique))
        write_volume(tmp_path / "out.nii.gz", volume)
        assert nibabel.load(tmp_path / "out.nii.gz").get_data_dtype() == stored
        np.testing.assert_array_equal(read(tmp_path / "out.nii.gz").data, volume.data)

    def test_integers_beyond_16_bits_become_floats(self, scan, oblique, tmp_path) -> None:
        volume = Volume(scan[None].astype(np.int32) * 1000, Grid(scan.shape, oblique))
        write_volume(tmp_path / "out.nii.gz", volume)
        np.testing.assert_array_equal(read(tmp_path / "out.nii.gz").data, volume.data)

    def test_several_channels_are_refused(self, scan, oblique, tmp_path) -> None:
        with pytest.raises(OutputError, match="2; write one by one"):
            write_volume(tmp_path / "out.nii", Volume(np.stack([scan, scan]), Grid(scan.shape, oblique)))

    def test_nan_is_refused(self, scan, oblique, tmp_path) -> None:
        data = scan[None].astype(np.float32)
        data[0, 0, 0, 0] = np.nan
        with pytest.raises(InputError, match="1 voxels are not a number"):
            write_volume(tmp_path / "out.nii", Volume(data, Grid(scan.shape, oblique)))
        assert list(tmp_path.iterdir()) == []
