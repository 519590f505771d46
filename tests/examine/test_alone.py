import numpy as np
import pytest

from voxelsam.checks import Finding
from voxelsam.examine import READING, case, image, image_facts, mapping, measure, pair
from voxelsam.volumes import Labels


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in findings]


def of(volume, **more) -> list[Finding]:
    return image(image_facts(volume, **more), "here")


def test_a_sound_case_has_no_findings(facts, table) -> None:
    assert case(facts(), table) == []


def test_what_reading_has_told_is_not_told_again(scan, drawn) -> None:
    affine = np.diag([25, 25, 25.0, 1])
    far = measure("a", scan(spacing=(25, 25, 26)), drawn(affine=affine))
    assert {one.code for one in case(far)} == {"GEO-02", "GEO-08"}
    assert case(far, told=READING) == []
    flat = measure("a", scan(np.full((1, 24, 22, 20), 7, np.int16)), drawn())
    assert said(case(flat, told=READING)) == [("VAL-02", "error")]


class TestGeometry:
    @pytest.mark.parametrize(("shift", "severity"), [(0.0005, None), (0.3, "warning"), (0.8, "error")])
    def test_two_thresholds_in_millimetres(self, scan, drawn, shift: float, severity: str | None) -> None:
        affine = np.eye(4)
        affine[1, 3] = shift
        one = measure("a", scan(), drawn(affine=affine))
        found = pair(one.image, one.label, "a")
        assert said(found) == ([] if severity is None else [("GEO-02", severity)])
        if found:
            assert f"{shift:g} mm" in found[0].message
            assert "above 0.001 mm, refused above 0.5 mm" in found[0].message

    def test_a_wrong_spacing_shows_at_the_far_corner_only(self, scan, drawn) -> None:
        one = measure("a", scan(), drawn(affine=np.diag([1, 1, 1.1, 1])))
        assert "1.9 mm" in pair(one.image, one.label, "a")[0].message

    def test_other_shapes(self, scan, drawn) -> None:
        one = measure("a", scan(), drawn(np.ones((24, 22, 19), np.uint8)))
        assert said(pair(one.image, one.label, "a")) == [("GEO-01", "error")]

    @pytest.mark.parametrize(("spacing", "count"), [((1, 1, 4), 0), ((1, 1, 4.2), 1), ((9, 2, 2), 1)])
    def test_anisotropy(self, scan, spacing, count: int) -> None:
        assert said(of(scan(spacing=spacing))) == [("GEO-07", "warning")] * count

    @pytest.mark.parametrize(("slices", "count"), [(5, 0), (4, 1)])
    def test_fewer_slices_than_a_stack_has(self, scan, slices: int, count: int) -> None:
        data = np.random.default_rng(1).integers(-9, 9, (1, slices, 30, 30))
        assert said(of(scan(data, spacing=(3, 1, 1)))) == [("GEO-07", "warning")] * count

    def test_the_plans_depth_counts(self, scan) -> None:
        facts = image_facts(scan())
        assert image(facts, "here", depth=20) == []
        assert said(image(facts, "here", depth=23)) == [("GEO-07", "warning")]

    def test_a_picture_needs_no_slices(self, scan) -> None:
        data = np.random.default_rng(1).integers(0, 255, (3, 30, 30, 1)).astype(np.uint8)
        assert of(scan(data, spacing=(1, 1, 99), along="single", kind="PICTURE")) == []

    @pytest.mark.parametrize("spacing", [(0.04, 0.04, 0.04), (21, 21, 21), (19, 19, 19)])
    def test_implausible_sizes(self, scan, spacing) -> None:
        shape = (1, 200, 8, 8) if spacing[0] == 19 else (1, 24, 22, 20)
        data = np.random.default_rng(1).integers(-9, 9, shape)
        assert ("GEO-08", "warning") in said(of(scan(data, spacing=spacing)))


class TestValues:
    def test_a_constant_image_warns_and_is_an_error_with_structures(self, scan, drawn) -> None:
        flat = scan(np.full((1, 24, 22, 20), 7, np.int16))
        assert said(of(flat)) == [("VAL-02", "warning")]
        assert ("VAL-02", "error") in said(case(measure("a", flat, drawn())))
        assert ("VAL-02", "error") not in said(case(measure("a", flat, drawn(np.zeros((24, 22, 20), np.uint8)))))

    def test_a_constant_channel(self, scan) -> None:
        data = np.random.default_rng(1).integers(-9, 9, (2, 24, 22, 20))
        data[1] = 4
        found = of(scan(data))
        assert said(found) == [("VAL-02", "warning")]
        assert "channel 1" in found[0].message

    @pytest.mark.parametrize(
        ("low", "high", "text"),
        [(0, 255, "grey values"), (0, 4095, "intercept"), (-1, 1, "normalised"), (5, 9, "norm")],
    )
    def test_ct_that_is_not_in_hounsfield_units(self, scan, low: int, high: int, text: str) -> None:
        data = np.random.default_rng(1).uniform(low, high, (1, 24, 22, 20)).astype(np.float32)
        found = of(scan(data), kind="CT")
        assert said(found) == [("VAL-03", "warning")]
        assert text in found[0].message
        assert of(scan(data), kind="MR") == []

    def test_hounsfield_units_are_right(self, scan) -> None:
        assert of(scan(), kind="CT") == []

    def test_what_the_file_says_goes_before_what_the_data_set_says(self, scan) -> None:
        data = np.random.default_rng(1).integers(0, 255, (1, 24, 22, 20))
        assert of(scan(data, kind="MR"), kind="CT") == []

    def test_two_channels_with_the_same_voxels(self, scan) -> None:
        data = np.random.default_rng(1).integers(-9, 9, (3, 24, 22, 20))
        data[2] = data[0]
        found = of(scan(data))
        assert said(found) == [("VAL-06", "warning")]
        assert "channels 0 and 2" in found[0].message
        data[2, 0, 0, 0] += 1
        assert of(scan(data)) == []

    def test_grey_stored_as_colours_is_no_mistake(self, scan) -> None:
        data = np.repeat(np.random.default_rng(1).integers(0, 99, (1, 24, 22, 20)), 3, axis=0).astype(np.uint8)
        assert of(scan(data)) == []


class TestLabels:
    @pytest.mark.parametrize(
        ("came", "names", "expected"),
        [
            ({0: 9, 255: 3}, ("lesion",), {255: 1}),
            ({0: 9, 1: 3}, ("lesion",), {}),
            ({0: 9, 85: 1, 170: 1, 255: 1}, ("a", "b", "c"), {85: 1, 170: 2, 255: 3}),
            ({0: 9, 1: 1, 3: 1}, ("a", "b"), {3: 2}),
            ({0: 9, 1: 1, 2: 1, 3: 1}, ("a", "b"), None),
            ({-1: 2, 0: 9}, ("a",), None),
            ({0: 9}, ("a",), None),
        ],
    )
    def test_a_map_is_proposed_where_the_counts_fit(self, came, names, expected) -> None:
        labels = Labels({"background": 0, **{name: value for value, name in enumerate(names, 1)}})
        assert mapping(came, labels) == expected

    def test_values_outside_the_table(self, scan, drawn, table) -> None:
        data = drawn().data.copy()
        data[data == 2] = 7
        found = case(measure("a", scan(), drawn(data)), table)
        assert said(found) == [("LAB-02", "error")]
        assert "7 (576 voxels); proposed map: 7 → 2 (spleen)" in found[0].message

    def test_the_ignore_value_is_in_the_table(self, scan, drawn) -> None:
        data = drawn().data.copy()
        data[data == 2] = 255
        ignoring = Labels({"background": 0, "liver": 1}, ignore=255)
        assert case(measure("a", scan(), drawn(data, table=ignoring)), ignoring) == []

    def test_an_empty_label(self, facts, table) -> None:
        empty = facts(label=np.zeros((24, 22, 20), np.uint8))
        assert said(case(empty, table)) == [("LAB-03", "warning")]

    def test_an_empty_label_that_nobody_drew(self, facts, table) -> None:
        empty = facts(label=np.zeros((24, 22, 20), np.uint8), unlabelled=("liver", "spleen"))
        assert case(empty, table) == []

    def test_specks_far_away(self, facts, drawn, table) -> None:
        data = drawn().data.copy()
        data[22, 20, 18] = 1
        found = case(facts(label=data), table)
        assert said(found) == [("LAB-06", "warning")]
        assert "1 (liver) has 1 tiny part far from its main part, such as 1 voxel 16 mm away at (22, 20, 18)" in (
            found[0].message
        )

    def test_specks_nearby_and_many_objects_are_left_alone(self, facts, drawn, table) -> None:
        near = drawn().data.copy()
        near[13, 13, 13] = 1
        assert case(facts(label=near), table) == []
        nuclei = np.zeros((24, 22, 20), np.uint8)
        nuclei[::4, ::4, ::4] = 1
        assert case(facts(label=nuclei), table) == []

    @pytest.mark.parametrize("kind", ["CT", "MR"])
    def test_a_label_in_the_air_around_the_patient(self, scan, drawn, table, kind: str) -> None:
        data = np.full((1, 24, 22, 20), -1000, np.int16)
        data[:, 1:13, 1:13] = np.random.default_rng(1).integers(-100, 200, (1, 12, 12, 20))
        found = case(measure("a", scan(data), drawn(), kind=kind), table)
        assert said(found) == [("LAB-06", "warning")]
        assert "100% of 2 (spleen)" in found[0].message

    def test_air_inside_the_patient_is_no_air_around_him(self, scan, drawn, table) -> None:
        data = np.random.default_rng(1).integers(-100, 200, (1, 24, 22, 20)).astype(np.int16)
        data[:, 1:22, 1:20, :] = -1000
        assert case(measure("a", scan(data), drawn(), kind="CT"), table) == []
