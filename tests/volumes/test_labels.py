import json
import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelsam import volumes
from voxelsam.errors import LabelError
from voxelsam.volumes.labels import Labels, colours_to_labels, count_values

tables = st.builds(
    lambda values, ignore: Labels(
        {"background": 0, **{f"s{value}": value for value in values}}, ignore if ignore not in values else None
    ),
    st.sets(st.integers(1, 65535), min_size=1, max_size=40),
    st.one_of(st.none(), st.integers(1, 65535)),
)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("wide", [False, True])
def test_values_are_counted_in_every_type(kind, wide, monkeypatch) -> None:
    monkeypatch.setattr(volumes.labels, "_PIECE", 7)
    limits = (0, 1) if kind is np.bool_ else (np.iinfo(kind).min, np.iinfo(kind).max)
    low, high = limits if wide else (max(limits[0], -3), min(limits[1], 90))
    array = np.random.default_rng(1).integers(low, high, (3, 4, 5), np.uint8 if kind is np.bool_ else kind, True)
    array = array.astype(kind)
    values, counts = np.unique(array, return_counts=True)
    assert count_values(array) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert count_values(array[:0]) == {}


def test_numbers_near_the_end_of_64_bits_are_counted() -> None:
    array = np.array([2**64 - 1, 2**64 - 2, 2**64 - 1], np.uint64)
    assert count_values(array) == {2**64 - 2: 1, 2**64 - 1: 2}


def test_a_table_of_many_values_is_made_soon() -> None:
    start = time.monotonic()
    assert Labels.of_values(set(range(40_000))).count == 40_000
    assert time.monotonic() - start < 5


@given(tables, st.randoms(use_true_random=False))
def test_classes_are_dense_and_lead_back_to_the_values(labels: Labels, random) -> None:
    known = list(labels.to_json().values())
    array = np.array([random.choice(known) for _ in range(60)]).reshape(3, 4, 5)
    classes = labels.to_classes(array)
    assert set(np.unique(classes)) <= {*range(labels.count), *([] if labels.ignore is None else [labels.ignore_class])}
    np.testing.assert_array_equal(labels.from_classes(classes), array)


@given(tables)
def test_a_table_survives_json_and_pickle(labels: Labels) -> None:
    assert Labels.from_json(labels.to_json()) == labels
    assert pickle.loads(pickle.dumps(labels)) == labels  # noqa: S301 - our own bytes


def test_classes_follow_the_order_of_the_values() -> None:
    labels = Labels({"tumour": 7, "background": 0, "organ": 3})
    assert labels.names == ("organ", "tumour")
    assert labels.count == 3
    np.testing.assert_array_equal(labels.to_classes(np.array([0, 3, 7, 3])), [0, 1, 2, 1])


def test_ignored_voxels_are_class_255_and_no_class_of_their_own() -> None:
    labels = Labels.from_json({"background": 0, "a": 1, "b": 2, "ignore": 3})
    assert (labels.ignore, labels.count, labels.names) == (3, 3, ("a", "b"))
    classes = labels.to_classes(np.array([0, 3, 2]))
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, [0, 255, 2])
    np.testing.assert_array_equal(labels.from_classes(classes), [0, 3, 2])


def test_many_classes_need_sixteen_bits_and_another_ignore_class() -> None:
    labels = Labels({"background": 0, **{f"s{value}": value for value in range(1, 300)}}, ignore=300)
    classes = labels.to_classes(np.array([0, 255, 299, 300]))
    assert classes.dtype == np.uint16
    np.testing.assert_array_equal(classes, [0, 255, 299, 65535])


def test_value_to_name_tables_are_turned_round() -> None:
    labels = Labels.from_json({"0": "background", "2": "posterior", "1": "anterior"})
    assert labels.to_json() == {"background": 0, "anterior": 1, "posterior": 2}


@pytest.mark.parametrize("value", [-1, 300, 4])
def test_unexpected_values_are_named_with_their_voxel_counts(value: int) -> None:
    with pytest.raises(LabelError, match=rf"{value} \(2 voxels\)") as caught:
        Labels({"background": 0, "a": 1}).to_classes(np.array([0, 1, value, value]))
    assert caught.value.code == "LAB-02"


def test_a_0_255_mask_is_recognised() -> None:
    with pytest.raises(LabelError, match="0/255 mask: write 1 in place of 255"):
        Labels({"background": 0, "a": 1}).check(np.array([0, 255]), "mask.nii.gz")


@pytest.mark.parametrize("strange", [3, 255, -1])
def test_classes_outside_the_table_are_refused(strange: int) -> None:
    with pytest.raises(LabelError, match=f"{strange} \\(1 voxels\\)"):
        Labels({"background": 0, "a": 5, "b": 9}).from_classes(np.array([0, 1, 2, strange]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": 1}, "background"),
        ({}, "background"),
        ({"background": 0, "a": 1, "b": 1}, "1: a, b"),
        ({"background": 0, "a": 1, "ignore": 1}, "1: a, ignore"),
        ({"background": 0, "a": 70000}, "70000"),
        ({"background": 0, "a": -1}, "-1"),
        ({"background": 0, "a": 1.5}, "1.5"),
        ({"background": 0, "a": True}, "True"),
        ({"background": 0, "a": "1"}, "'1'"),
        ({"background": 0, "whole": [], "core": 2}, "'whole' stands for several values, but has \\[\\]"),
        ({"background": 0, "whole": [0, 2], "core": 2}, "'whole' holds \\[0\\], but no structure"),
        ({"background": 0, "whole": [1, "2"], "core": 2}, "'whole' must list integer values"),
        ({"background": 0, "whole": [1, True], "core": 2}, "'whole' must list integer values"),
        ({"background": 0, "whole": [1, 2], "all": [2, 1]}, "'all' and 'whole' have the same values"),
        ({"background": 0, "whole": [1, 2], "whole_only": 2}, "'whole_only' is taken"),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 1}, "1: whole_only, ignore"),
        ({"background": 0, "core": [2], "centre": 2}, "2: .*core"),
        ({"0": "background", "1": "a", "2": "a"}, "'a' stands for 1 and for 2"),
        ({"nought": "background"}, "neither"),
        (["background"], "list"),
    ],
)
def test_tables_that_cannot_be(table, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        Labels.from_json(table)


class TestRegions:
    nested = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}  # noqa: RUF012 - a constant

    def test_networks_see_every_value_once(self) -> None:
        labels = Labels.from_json(self.nested)
        assert labels.values == {"background": 0, "whole_only": 1, "core_only": 2, "enhancing": 3}
        assert labels.regions == {"whole": (1, 2, 3), "core": (2, 3)}
        np.testing.assert_array_equal(labels.to_classes(np.array([3, 1, 0, 2])), [3, 1, 0, 2])

    def test_what_is_left_of_a_region_is_told_apart_by_its_values(self) -> None:
        labels = Labels.from_json({"background": 0, "whole": [1, 2, 5], "part": 5})
        assert labels.names == ("whole_only_1", "whole_only_2", "part")

    def test_a_value_with_a_name_keeps_it(self) -> None:
        labels = Labels.from_json({"background": 0, "rim": 1, "cup": 2, "disc": [2, 1, 2]})
        assert (labels.names, labels.regions) == (("rim", "cup"), {"disc": (1, 2)})

    def test_a_region_of_one_value_is_that_value(self) -> None:
        labels = Labels.from_json({"background": [0], "disc": [1, 2], "cup": [2]})
        assert (labels.names, labels.regions) == (("disc_only", "cup"), {"disc": (1, 2)})

    @pytest.mark.parametrize("table", [nested, {"background": 0, "whole": [1, 2, 5], "part": 5, "ignore": 7}])
    def test_they_survive_json(self, table) -> None:
        labels = Labels.from_json(table)
        assert Labels.from_json(json.loads(json.dumps(labels.to_json()))) == labels
        assert {name: labels.to_json()[name] for name in table} == table

    def test_messages_name_values_only(self) -> None:
        with pytest.raises(LabelError, match="0 background, 1 whole_only, 2 core_only, 3 enhancing, but also holds 4"):
            Labels.from_json(self.nested).check(np.array([4]))

    def test_a_region_needs_a_name_and_values_of_its_own(self) -> None:
        values = {"background": 0, "a": 1, "b": 2}
        for regions, message in (
            ({"a": (1, 2)}, "'a' stands for a region and for a value"),
            ({"ignore": (1, 2)}, "'ignore' stands for a region"),
            ({"both": (1, 3)}, r"\[3\], but no structure"),
        ):
            with pytest.raises(LabelError, match=message):
                Labels(values, regions=regions)


def test_colours_are_fixed_and_told_apart() -> None:
    labels = Labels({"background": 0, **{f"s{value}": value for value in range(1, 60)}}, ignore=99)
    assert labels.colour(0) == (0, 0, 0)
    assert len({labels.colour(value) for value in [*range(60), 99]}) == 61
    assert Labels({"background": 0, "other": 7}).colour(7) == labels.colour(7)
    with pytest.raises(LabelError, match="77"):
        labels.colour(77)


def test_values_alone_make_a_table() -> None:
    assert Labels.of_values({3, 0, 1}).to_json() == {"background": 0, "label_1": 1, "label_3": 3}
    with pytest.raises(LabelError, match="-2"):
        Labels.of_values({0, -2})


class TestColours:
    colours = {(255, 0, 0): 1, (0, 0, 255): 2, (0, 0, 0): 0}  # noqa: RUF012 - a constant

    def test_each_colour_becomes_its_value(self) -> None:
        picture = np.array([[[255, 0, 0], [0, 0, 255]], [[0, 0, 0], [255, 0, 0]]], np.uint8)
        np.testing.assert_array_equal(colours_to_labels(picture, self.colours), [[1, 2], [0, 1]])

    def test_unknown_colours_are_refused_by_name(self) -> None:
        picture = np.array([[[255, 0, 0], [254, 1, 0], [254, 1, 0]]], np.uint8)
        with pytest.raises(LabelError, match=r"\(254, 1, 0\): 2 pixels"):
            colours_to_labels(picture, self.colours)

    def test_unknown_colours_are_background_when_told_so(self) -> None:
        picture = np.array([[255, 0, 0], [254, 1, 0]], np.uint8)
        np.testing.assert_array_equal(colours_to_labels(picture, self.colours, unknown="background"), [1, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64])
def test_values_are_counted_in_any_type_and_memory_order(dtype: type) -> None:
    array = np.asfortranarray(np.array([[0, 3, 3], [200, 0, 0]]), dtype)
    assert count_values(array) == {0: 3, 3: 2, 200: 1}
    assert count_values(array[:, ::2]) == {0: 2, 3: 1, 200: 1}
