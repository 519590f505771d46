"""3D Slicer's segmentations: names and colours in, names and colours out, judged by SimpleITK and nibabel."""

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from voxelsam import checks, formats
from voxelsam.errors import GeometryError, InputWarning, LabelError
from voxelsam.formats import frames, itk, read, read_labels, write_labels
from voxelsam.space.grid import Grid, VoxelBox
from voxelsam.volumes import LabelMap, Labels, check_pair
from voxelsam.volumes._terms import Code

TABLE = Labels({"background": 0, "liver": 1, "Milz größer": 3, "many\nlines\\n": 300}, ignore=7)


@pytest.fixture
def label_map(scan, oblique) -> LabelMap:
    data = np.zeros(scan.shape, np.uint16)
    data[1:3, 2:5, 3], data[4, 5, 6], data[0, 0, :2], data[2, 2, 2] = 1, 300, 3, 7
    return LabelMap(data, Grid(scan.shape, oblique), TABLE)


def slicer(path: Path, data: np.ndarray, segments: list[dict[str, object]], **more: str) -> Path:
    """A file as 3D Slicer writes it: layers, if there are several, are the first axis."""
    lead = data.ndim == 4
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {data.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, data.shape))}",
        f"space directions: {'none ' if lead else ''}(2,0,0) (0,2,0) (0,0,5)",
        f"kinds: {'list ' if lead else ''}domain domain domain",
        "encoding: raw",
        "space origin: (-10,20,30)",
    ]
    for number, segment in enumerate(segments):
        lines += [f"Segment{number}_{key}:={value}" for key, value in segment.items()]
    lines += [f"Segmentation_{key}:={value}" for key, value in more.items()]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + data.astype(np.uint8).tobytes("F"))
    return path


def segment(name: str, value: int = 1, layer: int = 0) -> dict[str, object]:
    return {"ID": f"Segment_{value}", "Name": name, "LabelValue": value, "Layer": layer, "Color": "1 0 0"}


def refused(code: str, message: str, path: Path, labels: Labels | None = None) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        read_labels(path, labels)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


class TestWrite:
    def test_names_colours_and_values_are_there_for_slicer(self, label_map, tmp_path) -> None:
        write_labels(tmp_path / "a.seg.nrrd", label_map)
        image = SimpleITK.ReadImage(str(tmp_path / "a.seg.nrrd"))
        keys = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
        assert [keys[f"Segment{n}_Name"] for n in range(4)] == ["liver", "Milz größer", "many\nlines\\n", "ignore"]
        assert [keys[f"Segment{n}_LabelValue"] for n in range(4)] == ["1", "3", "300", "7"]
        assert len({keys[f"Segment{n}_ID"] for n in range(4)}) == 4
        assert {keys[f"Segment{n}_Layer"] for n in range(4)} == {"0"}
        for n, value in enumerate((1, 3, 300, 7)):
            shown = np.array(keys[f"Segment{n}_Color"].split(), float) * 255
            np.testing.assert_allclose(shown, TABLE.colour(value), atol=0.01)
        assert keys["Segment0_Extent"] == "1 2 2 4 3 3"
        assert keys["Segmentation_MasterRepresentation"] == "Binary labelmap"
        assert keys["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
        assert keys["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
        assert "Segment4_ID" not in keys

    def test_a_structure_that_is_nowhere_keeps_its_name(self, label_map, tmp_path) -> None:
        empty = LabelMap(np.zeros_like(label_map.data), label_map.grid, TABLE)
        write_labels(tmp_path / "a.seg.nrrd", empty)
        assert b"Segment0_Extent:=0 -1 0 -1 0 -1" in (tmp_path / "a.seg.nrrd").read_bytes()
        assert read_labels(tmp_path / "a.seg.nrrd").labels == TABLE

    def test_written_and_read_it_is_the_same(self, label_map, tmp_path) -> None:
        write_labels(tmp_path / "a.seg.nrrd", label_map)
        again = read_labels(tmp_path / "a.seg.nrrd")
        assert again.labels == TABLE
        np.testing.assert_array_equal(again.data, label_map.data)
        np.testing.assert_array_equal(again.grid.affine, label_map.grid.affine)
        write_labels(tmp_path / "b.seg.nrrd", again)
        assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()

    def test_public_codes_become_terms_and_come_back(self, label_map, tmp_path) -> None:
        own = Code("12345", "SCT", "Something, ~ odd", "left", abnormal=True)
        table = Labels({"background": 0, "liver": 1, "Milz": 3, "thing": 7}, codes={"thing": own})
        label_map = LabelMap(np.where(label_map.data == 300, 0, label_map.data), label_map.grid, table)
        write_labels(tmp_path / "a.seg.nrrd", label_map)
        keys = SimpleITK.ReadImage(str(tmp_path / "a.seg.nrrd"))
        assert "~SCT^10200004^Liver~^^~" in keys.GetMetaData("Segment0_Tags")
        assert keys.GetMetaData("Segment1_Tags") == "|"
        assert "~SCT^12345^Something,   odd~SCT^7771000^Left~" in keys.GetMetaData("Segment2_Tags")
        found = read_labels(tmp_path / "a.seg.nrrd").labels
        assert dict(found.codes) == {"thing": Code("12345", "SCT", "Something,   odd", "left", abnormal=True)}

    @pytest.mark.parametrize("tags", ["", "|", "TerminologyEntry:a~b~c|", "TerminologyEntry:a~^^~^^~^^|", "x:~^^~^^"])
    def test_terms_that_say_nothing_are_none(self, tmp_path, tags) -> None:
        data = np.arange(24).reshape(2, 3, 4) % 2
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("thing") | {"Tags": tags}])
        assert dict(read_labels(path).labels.codes) == {}

    def test_other_names_get_no_segments(self, label_map, tmp_path) -> None:
        write_labels(tmp_path / "a.nrrd", label_map)
        assert b"Segment" not in (tmp_path / "a.nrrd").read_bytes()


class TestRead:
    def test_names_of_the_file_are_the_table(self, tmp_path) -> None:
        data = np.zeros((4, 5, 6))
        data[1, 2, 3], data[0, 0, 0] = 2, 5
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 2), segment("spleen", 5)])
        found = read_labels(path)
        assert dict(found.labels.values) == {"background": 0, "liver": 2, "spleen": 5}
        np.testing.assert_array_equal(found.data, data)
        assert found.data.dtype == np.uint8
        np.testing.assert_array_equal(found.grid.affine[:3, 3], (10, -20, 30))

    def test_structures_are_found_in_a_table_by_their_names(self, tmp_path) -> None:
        data = np.arange(24).reshape(2, 3, 4) % 3
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 2), segment("spleen", 1)])
        labels = Labels({"background": 0, "liver": 1, "spleen": 2, "kidney": 3})
        found = read_labels(path, labels)
        np.testing.assert_array_equal(found.data, np.array([0, 2, 1])[data])
        assert found.labels == labels

    def test_names_that_the_table_does_not_know_are_refused(self, tmp_path) -> None:
        data = np.arange(24).reshape(2, 3, 4) % 3
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 1), segment("Milz", 2)])
        labels = Labels({"background": 0, "liver": 1, "spleen": 2})
        refused("LAB-04", "'Milz' are not in the label table, which has 'liver', 'spleen'", path, labels)
        with warnings.catch_warnings(), checks.watching(accept={"LAB-04"}) as watch:
            warnings.simplefilter("ignore", InputWarning)
            np.testing.assert_array_equal(read_labels(path, labels).data, data)
        assert [finding.code for finding in watch.findings] == ["LAB-04"]

    def test_names_that_a_program_made_up_mean_nothing(self, tmp_path) -> None:
        data = np.arange(24).reshape(2, 3, 4) % 3
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("Segment_1", 1), segment("Segment_2", 2)])
        labels = Labels({"background": 0, "liver": 1, "spleen": 2})
        np.testing.assert_array_equal(read_labels(path, labels).data, data)
        refused("LAB-02", "2 .8 voxels", path, Labels({"background": 0, "liver": 1}))

    def test_voxels_of_no_segment_are_refused(self, tmp_path) -> None:
        data = np.arange(24).reshape(2, 3, 4) % 3
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 1)])
        refused("LAB-02", "2 .8 voxels", path)
        refused("LAB-02", "8 voxels belong to no segment", path, Labels({"background": 0, "a": 1, "liver": 2}))

    def test_layers_that_do_not_overlap_are_one_map(self, tmp_path) -> None:
        data = np.zeros((2, 4, 5, 6))
        data[0, 1, 2, 3], data[1, 0, 0, 0] = 1, 1
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 1, 0), segment("tumour", 1, 1)])
        found = read_labels(path)
        assert dict(found.labels.values) == {"background": 0, "liver": 1, "tumour": 2}
        np.testing.assert_array_equal(found.data, data[0] + 2 * data[1])
        assert (frames(path), read(path, frame=1).data.sum()) == (2, 1)

    def test_three_layers_are_no_colours(self, tmp_path) -> None:
        """SimpleITK calls layers a vector, as it does colours."""
        data = np.zeros((3, 4, 5, 6))
        data[0, 1, 2, 3], data[1, 0, 0, 0], data[2, 3, 3, 3] = 1, 1, 1
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment(name, 1, layer) for layer, name in enumerate("abc")])
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / "b.seg.nrrd"))
        assert b"kinds: vector" in (tmp_path / "b.seg.nrrd").read_bytes()
        for name in ("a", "b"):
            found = read_labels(tmp_path / f"{name}.seg.nrrd")
            np.testing.assert_array_equal(found.data, data[0] + 2 * data[1] + 3 * data[2])
            assert dict(found.labels.values) == {"background": 0, "a": 1, "b": 2, "c": 3}

    def test_values_of_layers_stay_if_they_differ(self, tmp_path) -> None:
        data = np.zeros((2, 4, 5, 6))
        data[0, 1, 2, 3], data[1, 0, 0, 0] = 4, 9
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 4, 0), segment("tumour", 9, 1)])
        assert dict(read_labels(path).labels.values) == {"background": 0, "liver": 4, "tumour": 9}
        np.testing.assert_array_equal(read_labels(path).data, data.sum(axis=0))

    def test_layers_that_overlap_are_refused_by_name(self, tmp_path) -> None:
        data = np.zeros((2, 4, 5, 6))
        data[:, 1, 2, 3] = 1
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 1, 0), segment("tumour", 1, 1)])
        refused("LAB-05", "'tumour' and 'liver' overlap", path)
        with warnings.catch_warnings(), checks.watching(accept={"LAB-05"}):
            warnings.simplefilter("ignore", InputWarning)
            np.testing.assert_array_equal(read_labels(path).data, 2 * data[1])

    def test_files_of_older_versions_have_a_layer_for_each_segment(self, tmp_path) -> None:
        data = np.zeros((2, 4, 5, 6))
        data[0, 1, 2, 3], data[1, 0, 0, 0] = 1, 1
        old = [{"ID": "a", "Name": "liver"}, {"ID": "b", "Name": "tumour"}]
        found = read_labels(slicer(tmp_path / "a.seg.nrrd", data, old))
        np.testing.assert_array_equal(found.data, data[0] + 2 * data[1])
        single = read_labels(slicer(tmp_path / "b.seg.nrrd", data[0], old[:1]))
        assert dict(single.labels.values) == {"background": 0, "liver": 1}

    def test_two_segments_of_one_name_are_told(self, tmp_path) -> None:
        data = np.arange(24).reshape(2, 3, 4) % 3
        path = slicer(tmp_path / "a.seg.nrrd", data, [segment("liver", 1), segment("liver", 2)])
        with pytest.warns(InputWarning, match="LAB-04: .*two segments are called 'liver'"):
            assert dict(read_labels(path).labels.values) == {"background": 0, "liver": 1, "liver_2": 2}

    @pytest.mark.parametrize(
        ("segments", "message"),
        [
            ([segment("a", 1), segment("b", 1)], "share a place"),
            ([segment("a", 1, 3)], "layer that is not there"),
            ([segment("a", 0)], "from 1 to 65535, but has 0"),
            ([segment("a", 70000)], "from 1 to 65535"),
            ([segment("a") | {"LabelValue": "one"}], "should be a number, but is 'one'"),
            ([segment("a") | {"Layer": "-1"}], "should be a number, but is '-1'"),
        ],
    )
    def test_segments_that_cannot_be_are_refused(self, tmp_path, segments, message) -> None:
        path = slicer(tmp_path / "a.seg.nrrd", np.arange(24).reshape(2, 3, 4) % 2, segments)
        refused("LAB-02", message, path)

    def test_fractions_are_refused(self, tmp_path) -> None:
        path = slicer(
            tmp_path / "a.seg.nrrd", np.arange(24).reshape(2, 3, 4), [segment("a")],
            MasterRepresentation="Fractional labelmap",
        )  # fmt: skip
        refused("LAB-01", "fractions", path)

    def test_a_cropped_segmentation_keeps_its_own_grid(self, label_map, tmp_path) -> None:
        """Slicer writes what is drawn, at another origin; on the image it is only after ``place_on``."""
        box = VoxelBox((1, 2, 3), (5, 6, 7))
        crop = LabelMap(label_map.data[box.slices()], label_map.grid.crop(box), TABLE)
        write_labels(tmp_path / "a.seg.nrrd", crop)
        image = read(written(tmp_path / "scan.nii.gz", label_map))
        found = read_labels(tmp_path / "a.seg.nrrd")
        with pytest.raises(GeometryError) as caught:
            check_pair(image, found)
        assert caught.value.code == "GEO-01"
        placed = itk.place_on(found, image.grid)
        check_pair(image, placed)
        expected = np.zeros_like(label_map.data)
        expected[box.slices()] = label_map.data[box.slices()]
        np.testing.assert_array_equal(placed.data, expected)


def written(path: Path, label_map: LabelMap) -> Path:
    nibabel.save(nibabel.Nifti2Image(label_map.data.astype(np.int16), label_map.grid.affine), path)
    return path


class TestOnAnImage:
    """Segmentations that hold only the part of an image where something is."""

    def image(self) -> Grid:
        return Grid((9, 8, 7), np.diag([-0.5, -0.75, 2.0, 1.0]))

    def cropped(self, path: Path) -> Path:
        grid = self.image()
        affine = grid.affine.copy()
        affine[:3, 3] = grid.to_world(np.array([[2.0, 1.0, 3.0]]))[0]
        data = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2
        write_labels(path, LabelMap(data, Grid(data.shape, affine), Labels({"background": 0, "thing": 1})))
        return path

    def test_a_cropped_one_is_placed(self, tmp_path) -> None:
        found = formats.read_labels_on(self.cropped(tmp_path / "a.seg.nrrd"), self.image())
        expected = np.zeros((9, 8, 7), np.uint8)
        expected[2:4, 1:4, 3:7] = np.arange(24).reshape(2, 3, 4) % 2
        np.testing.assert_array_equal(found.data, expected)
        np.testing.assert_array_equal(found.grid.affine, self.image().affine)
        assert found.labels.names == ("thing",)

    def test_one_of_another_place_is_refused(self, tmp_path) -> None:
        elsewhere = Grid((9, 8, 7), self.image().affine + np.diag([0, 0, 0.1, 0]))
        with pytest.raises(GeometryError, match="do not coincide") as caught:
            formats.read_labels_on(self.cropped(tmp_path / "a.seg.nrrd"), elsewhere)
        assert caught.value.code == "GEO-02"

    def test_a_plain_label_map_comes_as_it_is(self, tmp_path) -> None:
        self.cropped(tmp_path / "a.nrrd")
        assert formats.read_labels_on(tmp_path / "a.nrrd", self.image()).grid.shape == (2, 3, 4)
