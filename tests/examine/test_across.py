import numpy as np
import pytest

from voxelsam.checks import Finding
from voxelsam.examine import dataset, measure, tables
from voxelsam.volumes import Labels


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in findings]


def test_different_cases_have_no_findings(facts, table) -> None:
    every = [facts(f"case{n}", seed=n, label=with_voxel(n)) for n in range(4)]
    assert dataset(every, table, ("case0", "case1"), ("case2", "case3")) == []


def with_voxel(number: int) -> np.ndarray:
    """A label map that differs from the others of its kind."""
    data = np.zeros((24, 22, 20), np.uint8)
    data[2:12, 2:12, 2:12] = 1
    data[14:20, 4:12, 4:16] = 2
    data[2, 2, 2 + number] = 0
    return data


class TestCopies:
    def test_two_cases_with_one_content(self, facts, table) -> None:
        every = [facts("a"), facts("b"), facts("c", seed=5, label=with_voxel(0))]
        found = dataset(every, table)
        assert said(found) == [("SET-01", "warning")]
        assert "images of a, b" in found[0].message

    def test_on_both_sides_they_are_a_leak(self, facts, table) -> None:
        found = dataset([facts("a"), facts("b")], table, ("a",), ("b",))
        assert said(found) == [("SET-02", "error")]
        assert "training and validation" in found[0].message

    def test_in_the_test_they_are_a_leak(self, scan, facts, table) -> None:
        found = dataset([facts("a"), measure("b", scan())], table, ("a",), (), ("b",))
        assert said(found) == [("SET-02", "error")]
        assert "training and test" in found[0].message

    def test_one_label_for_two_images(self, facts, table) -> None:
        found = dataset([facts("a", seed=1), facts("b", seed=2)], table)
        assert said(found) == [("SET-01", "warning")]
        assert "labels of a, b" in found[0].message

    def test_empty_labels_are_alike_by_nature(self, facts, drawn) -> None:
        nothing = np.zeros((24, 22, 20), np.uint8)
        assert dataset([facts("a", seed=1, label=nothing), facts("b", seed=2, label=nothing)]) == []


class TestPatients:
    def test_a_group_on_both_sides(self, facts, table) -> None:
        every = [facts(name, seed=n, label=with_voxel(n), group="p") for n, name in enumerate("ab")]
        found = dataset(every, table, ("a",), ("b",))
        assert said(found) == [("SET-02", "error")]
        assert "p is on both sides of the split (a, b)" in found[0].message

    @pytest.mark.parametrize(
        ("names", "warned"),
        [
            (("patient01_f1", "patient01_f2", "patient02_f1", "patient02_f2"), True),
            (("patient01_f1", "patient02_f1", "patient03_f1", "patient04_f2"), False),
            (("brain_001", "brain_002", "brain_003", "brain_004"), False),
            (("site1_001", "site1_002", "site1_003", "site2_004"), False),
        ],
    )
    def test_names_that_suggest_a_patient(self, facts, table, names, warned: bool) -> None:
        every = [facts(name, seed=n, label=with_voxel(n)) for n, name in enumerate(names)]
        found = dataset(every, table, names[::2], names[1::2])
        assert said(found) == ([("SET-02", "warning")] if warned else [])


class TestStructures:
    def test_absent_from_training_and_from_validation(self, facts, table) -> None:
        liver = with_voxel(0)
        liver[liver == 2] = 0
        every = [facts("a", seed=1, label=liver), facts("b", seed=2, label=with_voxel(1))]
        assert said(dataset(every, table, ("a",), ("b",))) == [("LAB-03", "error")]
        assert said(dataset(every, table, ("b",), ("a",))) == [("LAB-03", "warning")]
        assert "no case of training shows spleen" in dataset(every, table, ("a",), ("b",))[0].message

    def test_without_a_split_all_labelled_cases_count(self, facts, table) -> None:
        liver = with_voxel(0)
        liver[liver == 2] = 0
        assert said(dataset([facts("a", label=liver)], table)) == [("LAB-03", "error")]
        assert dataset([facts("a", label=liver), facts("b", seed=2)], table) == []


class TestIntensities:
    @pytest.mark.parametrize(("factor", "count"), [(1 / 30, 1), (1 / 10, 0), (1, 0), (10, 0), (30, 1)])
    def test_a_case_of_another_scale(self, scan, factor: float, count: int) -> None:
        every = []
        for number in range(5):
            data = scan(seed=number).data * (np.float32(factor) if number == 3 else np.float32(1))
            every.append(measure(f"c{number}", scan(data)))
        found = dataset(every)
        assert said(found) == [("VAL-03", "warning")] * count
        assert all(finding.where == "c3" for finding in found)


class TestTables:
    def test_agreeing_tables(self) -> None:
        one, two = Labels({"background": 0, "a": 1, "b": 2}), Labels({"background": 0, "a": 1, "c": 3})
        assert tables({"one": one, "two": two}) == []

    @pytest.mark.parametrize("other", [{"b": 1}, {"a": 2}])
    def test_one_value_two_names_or_one_name_two_values(self, other) -> None:
        found = tables({"one": Labels({"background": 0, "a": 1}), "two": Labels({"background": 0, **other})})
        assert said(found) == [("LAB-04", "error")]
        assert found[0].where == "two"
