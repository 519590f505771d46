"""NRRD and MetaImage: the place that the file says, judged by SimpleITK; whole files or none."""

import bz2
import gzip
import itertools
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from voxelsam import checks
from voxelsam.errors import FormatError, GeometryError, InputError, InputWarning, LabelError, OutputError, VoxelSamError
from voxelsam.formats import frames, itk, mask_ending, read, read_channels, read_labels, write_labels, write_volume
from voxelsam.space.grid import Grid, VoxelBox
from voxelsam.volumes import LabelMap, Labels, Volume, check_pair

LPS = np.diag([-1.0, -1, 1, 1])
TABLE = Labels({"background": 0, "a": 1, "b": 2, "many": 300}, ignore=65535)
IN_LPS = "space: left-posterior-superior\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (1,2,3)\n"


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(4).integers(-900, 900, (5, 6, 7)).astype(np.int16)


def nrrd(path: Path, data: np.ndarray, extra: str = IN_LPS, kind: str = "short", packed: bytes | None = None) -> Path:
    """An NRRD written by hand, with little-endian numbers."""
    lines = f"type: {kind}\ndimension: {data.ndim}\nsizes: {' '.join(map(str, data.shape))}\n{extra}"
    lines += "" if "encoding" in extra else "encoding: raw\n"
    lines += "" if "endian" in extra else "endian: little\n"
    path.write_bytes(f"NRRD0004\n# by hand\n{lines}\n".encode() + (packed or data.tobytes("F")))
    return path


def mha(path: Path, data: np.ndarray, extra: str = "", kind: str = "MET_SHORT", content: bytes | None = None) -> Path:
    """A MetaImage written by hand."""
    lines = f"ObjectType = Image\nNDims = {data.ndim}\n{extra}"
    lines += "" if "DimSize" in extra else f"DimSize = {' '.join(map(str, data.shape))}\n"
    lines += f"ElementType = {kind}\nElementDataFile = LOCAL\n"
    path.write_bytes(lines.encode() + (data.tobytes("F") if content is None else content))
    return path


def judged(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels i j k and affine in RAS, by SimpleITK."""
    image = SimpleITK.ReadImage(str(path))
    turn = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), LPS @ nibabel.affines.from_matvec(
        turn, image.GetOrigin()
    )


def refused(reader: Callable[[Path], object], path: Path, error: type[InputError], code: str, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        reader(path)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """All 48 orientations, turned, up to 10:1 in spacing, sheared or not, anywhere."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    steps = draw(st.tuples(*[st.floats(0.5, 5)] * 3))
    angles = draw(st.tuples(*[st.floats(-0.6, 0.6)] * 3))
    shear = np.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = draw(st.tuples(*[st.sampled_from([0.0, 0.3, -0.2])] * 3))
    matrix = nibabel.eulerangles.euler2mat(*angles) @ np.eye(3)[:, order] @ np.diag(signs) @ shear @ np.diag(steps)
    offset = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Grid(draw(st.tuples(*[st.integers(1, 5)] * 3)), nibabel.affines.from_matvec(matrix, offset))


@contextmanager
def silence() -> Iterator[None]:
    """Lets our own warnings pass, no others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        yield


def quietly(reader: Callable[[Path], Volume], path: Path) -> Volume:
    with checks.watching() as watch, silence():
        volume = reader(path)
    assert {finding.code for finding in watch.findings} <= {"GEO-03", "VAL-02"}
    return volume


class TestPlace:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(grid=grids(), ending=st.sampled_from([".nrrd", ".mha"]), data=st.data())
    def test_a_landmark_is_in_the_same_place_for_every_reader(self, grid, ending, data, tmp_path) -> None:
        values = data.draw(arrays.arrays(np.int16, grid.shape))
        path = tmp_path / f"scan{ending}"
        write_volume(path, Volume(values[None], grid))
        found, affine = judged(path)
        np.testing.assert_array_equal(found, values)
        np.testing.assert_allclose(affine, grid.affine, atol=1e-9)
        again = quietly(itk.read, path)
        np.testing.assert_array_equal(again.data[0], values)
        assert again.data.dtype == np.int16
        if ending == ".nrrd":
            np.testing.assert_array_equal(again.grid.affine, grid.affine)
        np.testing.assert_allclose(again.grid.affine, grid.affine, atol=1e-11)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(grid=grids(), ending=st.sampled_from([".nrrd", ".mha", ".mhd", ".nhdr"]), packed=st.booleans())
    def test_files_of_itk_are_read_in_the_same_place(self, grid, ending, packed, tmp_path) -> None:
        values = np.arange(np.prod(grid.shape), dtype=np.float32).reshape(grid.shape)
        image = SimpleITK.GetImageFromArray(values.transpose(2, 1, 0))
        turned = LPS @ grid.affine
        image.SetDirection((turned[:3, :3] / np.array(grid.spacing)).ravel())
        image.SetSpacing(grid.spacing)
        image.SetOrigin(turned[:3, 3])
        path = tmp_path / f"scan{ending}"
        SimpleITK.WriteImage(image, str(path), packed)
        found = quietly(itk.read, path)
        np.testing.assert_array_equal(found.data[0], values)
        np.testing.assert_allclose(found.grid.affine, grid.affine, atol=1e-4)
        write_volume(tmp_path / "again.nrrd", found)
        again = quietly(itk.read, tmp_path / "again.nrrd")
        np.testing.assert_array_equal(again.grid.affine, found.grid.affine)

    @pytest.mark.parametrize(
        ("order", "signs"),
        list(itertools.product(itertools.permutations(range(3)), itertools.product((-1, 1), repeat=3))),
    )
    def test_every_orientation_keeps_its_axes(self, order, signs, tmp_path) -> None:
        matrix = np.eye(3)[:, order] @ np.diag(signs) @ np.diag([0.5, 1, 5])
        grid = Grid((2, 3, 4), nibabel.affines.from_matvec(matrix, [10, -20, 30]))
        values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        for ending in (".nrrd", ".mha"):
            write_volume(tmp_path / f"a{ending}", Volume(values[None], grid))
            found = itk.read(tmp_path / f"a{ending}")
            np.testing.assert_array_equal(found.data[0], values)
            np.testing.assert_array_equal(found.grid.affine, grid.affine)
            assert found.grid.axes == grid.axes

    @pytest.mark.parametrize(
        ("space", "signs"),
        [
            ("left-posterior-superior", (-1, -1, 1)),
            ("LPS", (-1, -1, 1)),
            ("right-anterior-superior", (1, 1, 1)),
            ("RAS", (1, 1, 1)),
            ("left-anterior-superior", (-1, 1, 1)),
        ],
    )
    def test_the_space_of_an_nrrd_counts(self, voxels, tmp_path, space, signs) -> None:
        path = nrrd(tmp_path / "a.nrrd", voxels, IN_LPS.replace("left-posterior-superior", space))
        volume = read(path)
        np.testing.assert_array_equal(volume.grid.affine[:3, 3], np.multiply(signs, (1, 2, 3)))
        np.testing.assert_array_equal(volume.grid.affine, judged(path)[1])

    @pytest.mark.parametrize("space", ["space: scanner-xyz", "space: 3D-right-handed", "space dimension: 3"])
    def test_a_space_that_is_no_patient_is_taken_as_lps_and_told(self, voxels, tmp_path, space) -> None:
        path = nrrd(tmp_path / "a.nrrd", voxels, IN_LPS.replace("space: left-posterior-superior", space))
        with pytest.warns(InputWarning, match=r"GEO-05: .*a.nrrd.*taken as LPS"):
            np.testing.assert_array_equal(read(path).grid.affine, judged(path)[1])

    def test_no_directions_are_told(self, voxels, tmp_path) -> None:
        path = nrrd(tmp_path / "a.nrrd", voxels, "spacings: 2 3 4\n")
        with pytest.warns(InputWarning, match=r"GEO-05: .*no orientation"):
            assert read(path).grid.spacing == (2, 3, 4)
        with pytest.warns(InputWarning, match="GEO-05"):
            assert read(mha(tmp_path / "a.mha", voxels, "ElementSpacing = 2 3 4\n")).grid.spacing == (2, 3, 4)

    def test_no_position_is_told(self, voxels, tmp_path) -> None:
        path = nrrd(tmp_path / "a.nrrd", voxels, IN_LPS.replace("space origin: (1,2,3)\n", ""))
        with pytest.warns(InputWarning, match="GEO-05: .*position"):
            np.testing.assert_array_equal(read(path).grid.affine[:3, 3], 0)

    def test_shear_is_kept_and_told(self, voxels, tmp_path) -> None:
        sheared = nrrd(tmp_path / "a.nrrd", voxels, IN_LPS.replace("(0,3,0)", "(1,3,0)"))
        matrix = mha(tmp_path / "a.mha", voxels, "TransformMatrix = 1 0 0 .5 1 0 0 0 1\nOffset = 1 2 3\n")
        for path in (sheared, matrix):
            with pytest.warns(InputWarning, match="GEO-03: .*right angles.*kept"):
                volume = read(path)
            np.testing.assert_allclose(volume.grid.affine, judged(path)[1], atol=1e-12)
        np.testing.assert_array_equal(read_quiet(sheared).grid.affine[:3, 1], (-1, -3, 0))

    def test_rows_of_a_metaimage_are_directions_of_axes(self, voxels, tmp_path) -> None:
        path = mha(tmp_path / "a.mha", voxels, "TransformMatrix = 0 1 0 0 0 1 1 0 0\nElementSpacing = 2 3 4\n")
        volume = read(path)
        np.testing.assert_array_equal(volume.grid.affine[:3, 0], (0, -2, 0))
        np.testing.assert_array_equal(volume.grid.affine, judged(path)[1])

    @pytest.mark.parametrize(
        "extra",
        [
            IN_LPS.replace("(0,3,0)", "(2,0,0)"),
            IN_LPS.replace("(0,3,0)", "(0,0,0)"),
            IN_LPS.replace("(0,3,0)", "(0,nan,0)"),
            IN_LPS.replace("(1,2,3)", "(1,inf,3)"),
            IN_LPS.replace("left-posterior-superior", "up-and-away"),
            "spacings: 1 0 1\n",
            "spacings: 1 nan 1\n",
        ],
    )
    def test_a_place_that_is_none_is_refused(self, voxels, tmp_path, extra) -> None:
        refused(read, nrrd(tmp_path / "a.nrrd", voxels, extra), GeometryError, "GEO-05", "a.nrrd")

    @pytest.mark.parametrize("extra", ["ElementSpacing = 1 0 1\n", "TransformMatrix = 1 0 0 1 0 0 0 0 1\n"])
    def test_a_metaimage_without_a_place_is_refused(self, voxels, tmp_path, extra) -> None:
        refused(read, mha(tmp_path / "a.mha", voxels, extra), GeometryError, "GEO-05", "a.mha")

    def test_units_and_sizes_are_told(self, voxels, tmp_path) -> None:
        extra = IN_LPS + 'space units: "um" "um" "um"\n'
        with pytest.warns(InputWarning, match="GEO-08: .*counts in um"):
            read(nrrd(tmp_path / "a.nrrd", voxels, extra))
        with pytest.warns(InputWarning, match="GEO-08: .*unusual"):
            read(nrrd(tmp_path / "a.nrrd", voxels, IN_LPS.replace("(0,0,4)", "(0,0,40)")))


def read_quiet(path: Path) -> Volume:
    with silence():
        return read(path)


class TestAxes:
    def test_a_flat_image_is_one_slice(self, voxels, tmp_path) -> None:
        flat = voxels[..., 0]
        written = SimpleITK.GetImageFromArray(flat.T)
        written.SetSpacing((2, 3))
        for ending in (".nrrd", ".mha"):
            SimpleITK.WriteImage(written, str(tmp_path / f"a{ending}"))
            with pytest.warns(InputWarning, match="GEO-05: .*flat"):
                volume = read(tmp_path / f"a{ending}")
            np.testing.assert_array_equal(volume.data, flat[None, :, :, None])
            assert (volume.grid.spacing, volume.grid.axes, volume.grid.along_k) == ((2, 3, 1), "LPS", "space")

    def test_the_mask_of_a_flat_image_is_flat(self, voxels, tmp_path) -> None:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels[..., 0].T), str(tmp_path / "a.mha"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels[..., 0].T), str(tmp_path / "a.nrrd"))
        for ending in (".mha", ".nrrd"):
            image = read_quiet(tmp_path / f"a{ending}")
            label_map = LabelMap((image.data[0] > 0).astype(np.uint8), image.grid, TABLE)
            write_labels(tmp_path / f"mask{ending}", label_map, like=image)
            mask, original = (SimpleITK.ReadImage(str(tmp_path / f"{name}{ending}")) for name in ("mask", "a"))
            assert mask.GetDimension() == 2
            assert (mask.GetSize(), mask.GetSpacing(), mask.GetOrigin()) == (
                original.GetSize(), original.GetSpacing(), original.GetOrigin(),
            )  # fmt: skip
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask).T, label_map.data[..., 0])

    def test_one_slice_within_space_stands_across_it(self, voxels, tmp_path) -> None:
        extra = "space: RAS\nspace directions: (0,2,0) (0,0,3)\nspace origin: (1,2,3)\n"
        volume = read(nrrd(tmp_path / "a.nrrd", voxels[..., 0], extra))
        np.testing.assert_array_equal(volume.grid.affine[:3, 2], (1, 0, 0))
        assert volume.grid.shape == (5, 6, 1)

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    def test_bytes_in_threes_are_colours(self, tmp_path, ending) -> None:
        colours = np.random.default_rng(1).integers(0, 255, (4, 3, 2, 3), np.uint8)
        image = SimpleITK.GetImageFromArray(colours, isVector=True)
        SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
        volume = read(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(volume.data, colours.transpose(3, 2, 1, 0))
        assert frames(tmp_path / f"a{ending}") == 1
        refused(read_labels, tmp_path / f"a{ending}", LabelError, "LAB-01", "colours")
        write_volume(tmp_path / f"b{ending}", volume)
        np.testing.assert_array_equal(
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"b{ending}"))), colours
        )

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    def test_other_vectors_are_frames_to_choose_from(self, tmp_path, ending) -> None:
        vectors = np.random.default_rng(1).normal(size=(4, 3, 2, 5)).astype(np.float32)
        path = tmp_path / f"a{ending}"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(vectors, isVector=True), str(path))
        assert frames(path) == 5
        refused(read, path, InputError, "VAL-05", "holds 5 .*choose one")
        with pytest.raises(InputError, match="frame 5 was asked for"):
            read(path, frame=5)
        np.testing.assert_array_equal(read(path, frame=3).data[0], vectors[..., 3].T)
        np.testing.assert_array_equal(read_channels([path], count=5).data, vectors.transpose(3, 2, 1, 0))

    @pytest.mark.parametrize(
        "extra",
        [
            "space: LPS\nspace directions: (2,0,0) (0,3,0) (0,0,4) none\nspace origin: (1,2,3)\n",
            "space: LPS\nspace directions: (2,0,0) (0,3,0) (0,0,4) none\nspace origin: (1,2,3)\n"
            "kinds: space space space list\n",
            "space: left-posterior-superior-time\nspace directions: (2,0,0,0) (0,3,0,0) (0,0,4,0) (0,0,0,1)\n"
            "space origin: (1,2,3,0)\n",
        ],
    )
    def test_a_fourth_axis_counts_frames(self, tmp_path, extra) -> None:
        data = np.arange(120, dtype=np.int16).reshape(2, 3, 4, 5)
        path = nrrd(tmp_path / "a.nrrd", data, extra)
        np.testing.assert_array_equal(read(path, frame=2).data[0], data[..., 2])
        np.testing.assert_array_equal(read(path, frame=2).grid.affine[:3, 3], (-1, -2, 3))

    def test_a_first_axis_counts_frames_too(self, tmp_path) -> None:
        data = np.arange(120, dtype=np.int16).reshape(5, 2, 3, 4)
        extra = "space: LPS\nspace directions: none (2,0,0) (0,3,0) (0,0,4)\nkinds: list domain domain domain\n"
        path = nrrd(tmp_path / "a.nrrd", data, extra + "space origin: (0,0,0)\n")
        np.testing.assert_array_equal(read(path, frame=2).data[0], data[2])

    def test_four_axes_without_directions(self, tmp_path) -> None:
        data = np.arange(120, dtype=np.int16).reshape(2, 3, 4, 5)
        for path in (nrrd(tmp_path / "a.nrrd", data, ""), mha(tmp_path / "a.mha", data)):
            with pytest.warns(InputWarning, match="GEO-05"):
                np.testing.assert_array_equal(read(path, frame=4).data[0], data[..., 4])

    @pytest.mark.parametrize(
        ("kinds", "shape", "kind", "message"),
        [
            ("complex", 2, "float", "complex"),
            ("RGBA-color", 4, "unsigned char", "transparency"),
            ("HSV-color", 3, "unsigned char", "not red"),
            ("RGB-color", 3, "unsigned short", "8 bits"),
        ],
    )
    def test_other_colours_are_refused(self, tmp_path, kinds, shape, kind, message) -> None:
        sizes = {"float": np.float32, "unsigned char": np.uint8, "unsigned short": np.uint16}
        extra = f"space: LPS\nspace directions: none (2,0,0) (0,3,0) (0,0,4)\nkinds: {kinds} domain domain domain\n"
        path = nrrd(tmp_path / "a.nrrd", np.zeros((shape, 2, 3, 4), sizes[kind]), extra, kind)
        refused(read, path, InputError, "VAL-05", message)

    @pytest.mark.parametrize(
        "extra", ["space: LPS\nspace directions: (2,0,0) none none\n", "kinds: list list domain\nspacings: 1 1 1\n"]
    )
    def test_one_axis_is_no_image(self, voxels, tmp_path, extra) -> None:
        refused(read, nrrd(tmp_path / "a.nrrd", voxels, extra), FormatError, "SET-03", "no image")


class TestNumbers:
    @pytest.mark.parametrize(
        "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, "f4", "f8"]
    )
    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    def test_types_are_kept(self, voxels, tmp_path, dtype, ending, oblique) -> None:
        volume = Volume(np.abs(voxels[None] % 100).astype(dtype), Grid(voxels.shape, oblique))
        write_volume(tmp_path / f"a{ending}", volume)
        again = read(tmp_path / f"a{ending}")
        assert again.data.dtype == np.dtype(dtype)
        assert again.data.flags.writeable
        np.testing.assert_array_equal(again.data, volume.data)
        found, _ = judged(tmp_path / f"a{ending}")
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, volume.data[0])

    def test_packings_and_byte_orders_give_the_same(self, voxels, tmp_path) -> None:
        content, swapped = voxels.tobytes("F"), voxels.astype(">i2").tobytes("F")
        text = " ".join(map(str, voxels.ravel(order="F"))).encode()
        for number, (encoding, endian, packed) in enumerate(
            [
                ("raw", "little", content),
                ("raw", "big", swapped),
                ("gzip", "little", gzip.compress(content)),
                ("gz", "big", gzip.compress(swapped)),
                ("bzip2", "little", bz2.compress(content)),
                ("ascii", "little", text),
                ("raw\nline skip: 2", "little", b"one\ntwo\n" + content),
                ("raw\nbyte skip: 5", "little", b"12345" + content),
                ("raw\nbyte skip: -1", "little", b"whatever" + content),
                ("gzip\nbyte skip: 5", "little", gzip.compress(b"12345" + content)),
                ("gzip\nbyte skip: -1", "little", gzip.compress(b"whatever" + content)),
                ("gzip\nline skip: 1", "little", b"one\n" + gzip.compress(content)),
            ]
        ):
            extra = f"{IN_LPS}encoding: {encoding}\nendian: {endian}\n"
            path = nrrd(tmp_path / f"{number}.nrrd", voxels, extra, packed=packed)
            np.testing.assert_array_equal(read(path).data[0], voxels, err_msg=encoding)
        place = "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
        for number, (extra, packed) in enumerate(
            [
                ("", content),
                ("BinaryDataByteOrderMSB = True\n", swapped),
                ("CompressedData = True\n", zlib.compress(content)),
                ("CompressedData = True\n", gzip.compress(content)),
                ("BinaryData = False\n", text),
            ]
        ):
            path = mha(tmp_path / f"{number}.mha", voxels, place + extra, content=packed)
            np.testing.assert_array_equal(read(path).data[0], voxels, err_msg=extra)

    def test_voxels_in_a_file_of_their_own(self, voxels, tmp_path) -> None:
        (tmp_path / "a.raw").write_bytes(b"head" + voxels.tobytes("F"))
        header = nrrd(tmp_path / "a.nhdr", voxels, f"{IN_LPS}byte skip: 4\ndata file: a.raw\n", packed=b"\n")
        np.testing.assert_array_equal(read(header).data[0], voxels)
        for skip in (4, -1):
            lines = f"HeaderSize = {skip}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
            meta = mha(tmp_path / "a.mhd", voxels, lines, content=b"")
            meta.write_bytes(meta.read_bytes().replace(b"LOCAL", b"a.raw"))
            np.testing.assert_array_equal(read(meta).data[0], voxels)
        (tmp_path / "a.raw").unlink()
        for path in (header, meta):
            refused(read, path, FormatError, "SET-03", r"no a.raw beside it")

    @pytest.mark.parametrize("name", ["../a.raw", "/etc/hostname", "LIST", "a%03d.raw 1 5 1", "a\0b"])
    def test_voxels_elsewhere_are_refused(self, voxels, tmp_path, name) -> None:
        folder = tmp_path / "inner"
        folder.mkdir()
        (tmp_path / "a.raw").write_bytes(voxels.tobytes("F"))
        path = nrrd(folder / "a.nhdr", voxels, f"{IN_LPS}data file: {name}\n")
        refused(read, path, FormatError, "SET-03", "beside|several|no file name")

    @pytest.mark.parametrize("change", [-1, -300, 1, 600])
    @pytest.mark.parametrize("packing", ["raw", "gzip", "bzip2", "zlib"])
    def test_too_few_and_too_many_bytes_are_refused(self, voxels, tmp_path, change, packing) -> None:
        content = voxels.tobytes("F")
        content = content[:change] if change < 0 else content + b"x" * change
        pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "zlib": zlib.compress}[packing]
        if packing == "zlib":
            path = mha(tmp_path / "a.mha", voxels, "CompressedData = True\n", content=pack(content))
        else:
            path = nrrd(tmp_path / "a.nrrd", voxels, f"{IN_LPS}encoding: {packing}\n", packed=pack(content))
        refused(read, path, FormatError, "SET-03", r"bytes on disk; .*(needed|there)")

    @pytest.mark.parametrize("packing", ["gzip", "bzip2", "zlib"])
    def test_broken_packing_is_refused(self, voxels, tmp_path, packing) -> None:
        pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "zlib": zlib.compress}[packing]
        for content in (pack(voxels.tobytes("F"))[:-20], b"no packing at all" * 9, pack(voxels.tobytes("F"))[:2]):
            if packing == "zlib":
                path = mha(tmp_path / "a.mha", voxels, "CompressedData = True\n", content=content)
            else:
                path = nrrd(tmp_path / "a.nrrd", voxels, f"{IN_LPS}encoding: {packing}\n", packed=content)
            refused(read, path, FormatError, "SET-03", "cut off or damaged")

    def test_claims_of_gigantic_images_cost_nothing(self, tmp_path) -> None:
        for size in ("99999 99999 99999", "9999999999 9999999999 9999999999999", "-5 5 5", "0 1 1"):
            extra = f"DimSize = {size}\nCompressedData = True\n"
            refused(read, mha(tmp_path / "a.mha", np.zeros((2, 2, 2), "i2"), extra), FormatError, "SET-03", "a.mha")

    def test_text_that_does_not_fit_is_refused(self, tmp_path) -> None:
        data = np.zeros((2, 1, 1), np.uint8)
        for packed in (b"1 300", b"1", b"1 2 3", b"1 x", b"1 " + b"9" * 40):
            path = nrrd(tmp_path / "a.nrrd", data, f"{IN_LPS}encoding: ascii\n", "uchar", packed=packed)
            refused(read, path, FormatError, "SET-03", "damaged")

    def test_what_is_no_number_is_refused(self, tmp_path) -> None:
        data = np.full((2, 3, 4), np.nan, np.float32)
        path = nrrd(tmp_path / "a.nrrd", data, kind="float")
        refused(read, path, InputError, "VAL-01", "24 voxels are not a number")
        with pytest.raises(InputError, match="not a number"):
            write_volume(tmp_path / "b.nrrd", Volume(data[None], Grid((2, 3, 4), np.eye(4))))

    def test_a_constant_image_is_told(self, tmp_path) -> None:
        with pytest.warns(InputWarning, match="VAL-02"):
            read(nrrd(tmp_path / "a.nrrd", np.zeros((2, 3, 4), np.int16)))

    def test_scaling_that_programs_do_not_agree_on(self, voxels, tmp_path) -> None:
        extra = "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementToIntensityFunctionSlope = 2\n"
        path = mha(tmp_path / "a.mha", voxels, extra)
        refused(read, path, InputError, "VAL-03", "times 2 plus 0")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("type: quaternion", "type"),
            ("type: block", "type"),
            ("sizes: 5 6", "sizes"),
            ("sizes: 5 6 x", "whole numbers"),
            ("sizes: 5 6 -7", "no image"),
            (f"sizes: 5 6 1{'0' * 400}", "no image"),
            ("dimension: 99", "axes"),
            ("endian: middle", "byte order"),
            ("encoding: hex", "packed as"),
            ("kinds: domain domain", "kinds"),
            ("space directions: (1,0,0) (0,1,0)", "3 axes, but 2"),
            ("space directions: (1,0,0) (0,1) (0,0,1)", "space directions"),
            ("space origin: (1,2)", "space origin"),
            ("space origin: nowhere", "space origin"),
            ("byte skip: -5", "byte skip"),
            ("line skip: -1", "line skip"),
            ("just words", "is no field"),
        ],
    )
    def test_nonsense_in_a_header_is_refused(self, voxels, tmp_path, line, message) -> None:
        name = line.split(":")[0]
        path = nrrd(tmp_path / "a.nrrd", voxels)
        head, _, content = path.read_bytes().partition(b"\n\n")
        kept = [old for old in head.decode().split("\n") if not old.startswith(f"{name}:")]
        path.write_bytes("\n".join([*kept, line]).encode() + b"\n\n" + content)
        refused(read, path, FormatError, "SET-03", message)

    @pytest.mark.parametrize("name", ["type", "dimension", "sizes", "encoding", "endian"])
    def test_missing_and_double_fields_are_refused(self, voxels, tmp_path, name) -> None:
        path = nrrd(tmp_path / "a.nrrd", voxels)
        head, _, content = path.read_bytes().partition(b"\n\n")
        lines = head.decode().split("\n")
        (line,) = [line for line in lines if line.startswith(f"{name}:")]
        path.write_bytes("\n".join([*lines, line]).encode() + b"\n\n" + content)
        refused(read, path, FormatError, "SET-03", "twice")
        path.write_bytes("\n".join(other for other in lines if other != line).encode() + b"\n\n" + content)
        refused(read, path, FormatError, "SET-03", name if name != "endian" else "byte order")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("NDims = 3", "NDims = 1", "no image"),
            ("NDims = 3\n", "", "no known format"),
            ("ElementType = MET_SHORT", "ElementType = MET_STRING", "not known"),
            ("ObjectType = Image", "ObjectType = Tube", "Tube"),
            ("DimSize = 5 6 7\n", "", "DimSize is missing"),
            ("ElementDataFile = LOCAL\n", "", "cut off|no field"),
            ("ObjectType = Image", "ObjectType = Image\nCompressedData = perhaps", "True or False"),
        ],
    )
    def test_nonsense_in_a_metaimage_is_refused(self, voxels, tmp_path, old, new, message) -> None:
        path = mha(tmp_path / "a.mha", voxels)
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
        refused(read, path, FormatError, "SET-03", message)


class TestFuzz:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        kind=st.sampled_from(["nrrd", "mha"]),
        edits=st.lists(
            st.tuples(st.integers(8, 330), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=4
        ),
    )
    def test_a_damaged_header_gives_an_image_or_an_error_of_ours(self, tmp_path, kind, edits) -> None:
        data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        if kind == "nrrd":
            path = nrrd(tmp_path / "a.nrrd", data, IN_LPS + "kinds: domain domain domain\nSegment0_ID:=a\n")
        else:
            lines = "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 1 2 3\nHeaderSize = 0\n"
            path = mha(tmp_path / "a.mha", data, lines)
        content = bytearray(path.read_bytes())
        for place, new, removed in edits:
            content[place : place + removed] = new
        path.write_bytes(content)
        for reader in (read, read_labels, frames):
            codes = []
            with silence():
                try:
                    reader(path)
                except VoxelSamError as error:
                    codes.append(error.code)
            assert all(codes)


class TestMasks:
    @pytest.fixture
    def label_map(self, voxels, oblique) -> LabelMap:
        data = (np.abs(voxels) % 3).astype(np.int64)
        data[0, 0, 0], data[-1, -1, -1] = 300, 65535
        return LabelMap(data, Grid(voxels.shape, oblique), TABLE)

    @pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "A.SEG.NRRD", "a.seg.nrrd"])
    def test_values_and_place_come_back(self, label_map, tmp_path, name) -> None:
        write_labels(tmp_path / name, label_map)
        again = read_labels(tmp_path / name, TABLE)
        np.testing.assert_array_equal(again.data, label_map.data)
        np.testing.assert_allclose(again.grid.affine, label_map.grid.affine, atol=1e-12)
        found, affine = judged(tmp_path / name)
        np.testing.assert_array_equal(found, label_map.data)
        np.testing.assert_allclose(affine, label_map.grid.affine, atol=1e-6)
        assert found.dtype == np.uint16
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    def test_the_mask_of_an_image_says_its_place_in_the_same_words(self, voxels, tmp_path, ending) -> None:
        if ending == ".nrrd":
            path = nrrd(tmp_path / "a.nrrd", voxels, IN_LPS.replace("left-posterior-superior", "RAS"))
        else:
            path = mha(
                tmp_path / "a.mha", voxels,
                "TransformMatrix = 0.6 0.8 0 -0.8 0.6 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 0.7 0.9 1.1\n",
            )  # fmt: skip
        image = read(path)
        write_labels(tmp_path / f"m{ending}", LabelMap((voxels > 0).astype(np.uint8), image.grid, TABLE), like=image)
        np.testing.assert_array_equal(read_labels(tmp_path / f"m{ending}").grid.affine, image.grid.affine)
        wanted = [line for line in path.read_bytes().split(b"\n") if line.startswith((b"space", b"Trans", b"Offs"))]
        assert wanted
        assert set(wanted) <= set((tmp_path / f"m{ending}").read_bytes().split(b"\n"))

    def test_nothing_else_of_the_image_travels_along(self, voxels, tmp_path) -> None:
        path = nrrd(tmp_path / "a.nrrd", voxels, IN_LPS + "content: Jane Doe\nPatientName:=Jane Doe\n")
        image = read(path)
        write_labels(tmp_path / "m.nrrd", LabelMap((voxels > 0).astype(np.uint8), image.grid, TABLE), like=image)
        assert b"Jane" not in (tmp_path / "m.nrrd").read_bytes()

    def test_a_mask_of_a_nifti_image_lies_on_it(self, make, scan, tmp_path) -> None:
        image = read(make(scan))
        for name in ("m.nrrd", "m.mha", "m.seg.nrrd"):
            write_labels(tmp_path / name, LabelMap(scan % 3, image.grid, TABLE), like=image)
            check_pair(image, read_labels(tmp_path / name, TABLE))

    def test_the_same_map_gives_the_same_bytes(self, label_map, tmp_path) -> None:
        for ending in (".nrrd", ".seg.nrrd", ".mha"):
            write_labels(tmp_path / f"a{ending}", label_map)
            write_labels(tmp_path / f"b{ending}", label_map)
            assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()

    def test_masks_are_named_after_their_images(self) -> None:
        assert mask_ending(Path("a.nhdr")) == mask_ending(Path("a.nrrd")) == ".nrrd"

    def test_values_outside_the_table_are_not_written(self, label_map, tmp_path) -> None:
        odd = LabelMap(np.full(label_map.grid.shape, 9), label_map.grid, TABLE)
        with pytest.raises(LabelError, match="9"):
            write_labels(tmp_path / "a.nrrd", odd)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_cannot_be_written_leaves_the_old_one(self, label_map, tmp_path, monkeypatch) -> None:
        write_labels(tmp_path / "a.nrrd", label_map)
        before = (tmp_path / "a.nrrd").read_bytes()
        monkeypatch.setattr(itk, "_same", lambda found, data: False)
        with pytest.raises(OutputError, match="does not read back"):
            write_labels(tmp_path / "a.nrrd", label_map)
        assert (tmp_path / "a.nrrd").read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1
        with pytest.raises(OutputError, match="cannot be written"):
            write_labels(tmp_path / "none" / "a.nrrd", label_map)

    def test_soft_labels_are_refused(self, tmp_path) -> None:
        data = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)
        refused(read_labels, nrrd(tmp_path / "a.nrrd", data, kind="float"), LabelError, "LAB-01", "integers")
        whole = nrrd(tmp_path / "b.nrrd", (data * 0 + 2.0001).astype(np.float32), kind="float")
        assert read_labels(whole).data.max() == 2

    def test_negative_labels_are_refused(self, tmp_path) -> None:
        path = nrrd(tmp_path / "a.nrrd", np.full((2, 3, 4), -1, np.int16))
        refused(lambda file: read_labels(file, TABLE), path, LabelError, "LAB-02", "-1")

    def test_several_channels_of_other_types_are_not_written(self, tmp_path) -> None:
        with pytest.raises(OutputError, match="one channel"):
            write_volume(tmp_path / "a.nrrd", Volume(np.zeros((2, 2, 3, 4)), Grid((2, 3, 4), np.eye(4))))


class TestPlaceOn:
    def test_a_crop_goes_back_where_it_was(self, voxels, oblique) -> None:
        grid = Grid(voxels.shape, oblique)
        box = VoxelBox((1, 2, 3), (4, 5, 5))
        whole = np.zeros(voxels.shape, np.uint8)
        whole[box.slices()] = 1
        whole[2, 3, 4] = 2
        crop = LabelMap(whole[box.slices()], grid.crop(box), TABLE)
        placed = itk.place_on(crop, grid)
        np.testing.assert_array_equal(placed.data, whole)
        assert placed.grid is grid
        np.testing.assert_array_equal(itk.place_on(LabelMap(whole, grid, TABLE), crop.grid).data, crop.data)

    def test_labels_outside_and_other_lattices_are_refused(self, voxels, oblique) -> None:
        grid = Grid(voxels.shape, oblique)
        full = LabelMap(np.ones(voxels.shape, np.uint8), grid, TABLE)
        with pytest.raises(GeometryError, match="outside"):
            itk.place_on(full, grid.crop(VoxelBox((1, 0, 0), grid.shape)))
        moved = oblique.copy()
        moved[0, 3] += 0.3
        turned = oblique.copy()
        turned[:, 0] *= -1
        for other in (moved, turned):
            with pytest.raises(GeometryError, match="do not coincide") as caught:
                itk.place_on(full, Grid(voxels.shape, other))
            assert caught.value.code == "GEO-02"
