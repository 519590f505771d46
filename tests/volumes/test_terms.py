"""Coded terms of structures, and their place in a label table."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr.codedict import codes

from voxelsam.errors import LabelError
from voxelsam.volumes import _terms
from voxelsam.volumes.labels import Code, Labels

KIDNEY = Code("64033007", "SCT", "Kidney", "left")


def test_every_built_in_code_stands_in_the_dictionary_of_dicom() -> None:
    known = {(code.value, code.meaning) for code in (getattr(codes.SCT, word) for word in codes.SCT.dir())}
    assert set(_terms._TERMS.values()) <= known


def test_pairs_and_signs_of_disease_are_in_the_table() -> None:
    assert set(_terms._TERMS) >= _terms._PAIRED | _terms._ABNORMAL


@pytest.mark.parametrize(
    ("name", "value", "side", "abnormal"),
    [
        ("liver", "10200004", "", False),
        ("Left_Kidney", "64033007", "left", False),
        ("adrenal gland right", "23451007", "right", False),
        ("left_atrium", "82471001", "", False),
        ("OESOPHAGUS", "32849002", "", False),
        ("gall-bladder", "28231008", "", False),
        ("oedema", "79654002", "", True),
        ("tumor", "108369006", "", True),
    ],
)
def test_common_names_have_snomed_codes(name: str, value: str, side: str, abnormal: bool) -> None:
    code = _terms.code_of(name)
    assert (code.value, code.scheme, code.side, code.abnormal) == (value, "SCT", side, abnormal)


@pytest.mark.parametrize(
    "name", ["left_liver", "optic_cup", "left right kidney", "liverwort", "enhancing", "class_7", "x" * 90]
)
def test_other_names_have_private_ones(name: str) -> None:
    code = _terms.code_of(name)
    assert code.scheme == "99VOXELSAM"
    assert code == _terms.code_of(name)
    assert code.meaning == name[:64]
    assert code.abnormal == (name == "enhancing")


@given(st.lists(st.text(max_size=80), unique=True, min_size=2, max_size=6))
def test_every_name_has_a_code_and_private_ones_differ(names: list[str]) -> None:
    private = [code.value for name in names if (code := _terms.code_of(name)).scheme == "99VOXELSAM"]
    assert len(set(private)) == len(private)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", "SCT", "a"), "value of a code has 1 to 16"),
        (("1" * 17, "SCT", "a"), "value of a code has 1 to 16"),
        (("1", " ", "a"), "scheme of a code"),
        (("1", "SCT", "a" * 65), "meaning of a code has 1 to 64"),
        (("1", "SCT", "a\\b"), "no backslash"),
        ((1, "SCT", "a"), "value of a code"),
        (("1", "SCT", "a", "up"), "left, right or empty"),
    ],
)
def test_what_dicom_cannot_hold_is_no_code(fields: tuple[str, ...], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        Code(*fields)  # type: ignore[arg-type]


def test_codes_survive_json_beside_a_table_that_nnunet_reads() -> None:
    own = Code("D1", "99MINE", "Something", abnormal=True)
    labels = Labels({"background": 0, "kidney": 1, "stone": 2}, 255, {"both": (1, 2)}, {"kidney": KIDNEY, "both": own})
    table = json.loads(json.dumps(labels.to_json()))
    assert table == {"background": 0, "kidney": 1, "stone": 2, "ignore": 255, "both": [1, 2]}
    terms = json.loads(json.dumps(labels.codes_to_json()))
    assert terms["both"] == {"value": "D1", "scheme": "99MINE", "meaning": "Something", "abnormal": True}
    assert Labels.from_json(table, terms) == labels
    assert Labels.from_json(table).codes == {}
    assert pickle.loads(pickle.dumps(labels)) == labels  # noqa: S301 - our own bytes


def test_a_given_code_goes_before_the_built_in_one() -> None:
    labels = Labels({"background": 0, "liver": 1, "spleen": 2}, regions={"both": (1, 2)}, codes={"liver": KIDNEY})
    assert labels.code("liver") == KIDNEY
    assert labels.code("spleen").value == "78961009"
    assert labels.code("both").scheme == "99VOXELSAM"


@pytest.mark.parametrize("name", ["background", "ignore", "stone"])
def test_codes_belong_to_structures(name: str) -> None:
    with pytest.raises(LabelError, match=f"'{name}'.*no structure or region has such a name"):
        Labels({"background": 0, "kidney": 1}, 255, codes={name: KIDNEY})
    with pytest.raises(LabelError, match=f"no structure or region is named '{name}'"):
        Labels({"background": 0, "kidney": 1}, 255).code(name)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "must map names to coded terms"),
        ({"kidney": "64033007"}, "a code has a value, a scheme and a meaning"),
        ({"kidney": {"value": "1", "scheme": "SCT"}}, "a code has a value, a scheme and a meaning"),
        ({"kidney": {"value": "1", "scheme": "SCT", "meaning": "a", "colour": 1}}, "a code has a value"),
        ({"liver": {"value": "1", "scheme": "SCT", "meaning": "a"}}, "no structure or region has such a name"),
    ],
)
def test_json_that_holds_no_codes_is_refused(terms: object, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        Labels.from_json({"background": 0, "kidney": 1}, terms)  # type: ignore[arg-type]


def test_a_code_is_a_code() -> None:
    with pytest.raises(LabelError, match="the code of 'kidney' must be a Code, but is a str"):
        Labels({"background": 0, "kidney": 1}, codes={"kidney": "64033007"})  # type: ignore[dict-item]
