"""The catalogue of checks, its page, and who may pass a check over."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

from voxelsam import checks
from voxelsam.checks import CATALOGUE, Finding, accepted, notice, refuse, settle, watching
from voxelsam.errors import ConfigError, GeometryError, InputError, InputWarning, LabelError

ROOT = Path(__file__).resolve().parents[1]
FIELD = {
    **{f"GEO-{number:02}": "GEO" for number in range(1, 9)},
    **{f"VAL-{number:02}": "VAL" for number in range(1, 7)},
    **{f"LAB-{number:02}": "LAB" for number in range(1, 7)},
    **{f"SET-{number:02}": "SET" for number in range(1, 4)},
    **{f"DCM-{number:02}": "DCM" for number in range(1, 10)},
    "PHI-01": "PHI",
    "VID-01": "VID",
}
"""The rows that a reader of medical data meets."""


def sources(folder: Path, *left_out: str) -> str:
    return "".join(path.read_text("utf-8") for path in folder.rglob("*.py") if path.name not in left_out)


def test_every_row_of_bad_input_has_a_check() -> None:
    assert set(FIELD) <= set(CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE)
def test_the_texts_are_complete(code: str) -> None:
    check = CATALOGUE[code]
    texts = (check.title, check.verdict, check.cause, check.fix, check.why, check.example)
    assert check.code == code
    assert all(text and text == text.strip() and not text.endswith(".") and "\n" not in text for text in texts)
    assert ("error" in check.verdict) == (check.severity == "error")
    assert check.severity == "error" or not check.accepted


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_is_given_somewhere_and_tested_somewhere(code: str) -> None:
    assert code in sources(ROOT / "src", "catalogue.py")
    assert code in sources(ROOT / "tests", "test_checks.py")


def test_no_code_is_given_that_the_catalogue_does_not_know() -> None:
    used = set(re.findall(r"\b[A-Z]{3}-\d\d\b", sources(ROOT / "src")))
    assert {code for code in used if code[:3] in {name[:3] for name in CATALOGUE}} <= set(CATALOGUE)


def test_the_page_is_made_from_the_catalogue() -> None:
    script = ROOT / "docs/reference/checks.py"
    spec = importlib.util.spec_from_file_location("checks_page", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert script.with_suffix(".md").read_text("utf-8") == module.page(), f"run python {script.relative_to(ROOT)}"


def test_the_examples_of_the_page_run() -> None:
    page = (ROOT / "docs/reference/checks.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "checks.md", "exec"), {})  # noqa: S102


class TestRefuse:
    def test_an_error_stops(self) -> None:
        with pytest.raises(GeometryError, match="apart") as caught:
            refuse("GEO-02", "1 mm apart", GeometryError)
        assert caught.value.code == "GEO-02"

    def test_an_accepted_error_goes_on_and_is_kept(self) -> None:
        with watching({"GEO-02"}) as watch:
            refuse("GEO-02", "1 mm apart", GeometryError)
        assert watch.findings == [Finding("GEO-02", "warning", "1 mm apart")]

    def test_another_code_is_not_accepted(self) -> None:
        with watching({"SET-02"}) as watch, pytest.raises(InputError):
            refuse("GEO-02", "1 mm apart")
        assert watch.findings == []

    def test_acceptance_ends_with_its_block(self) -> None:
        with watching({"GEO-02"}):
            assert accepted("GEO-02")
        assert not accepted("GEO-02")
        with pytest.raises(InputError):
            refuse("GEO-02", "1 mm apart")

    def test_what_an_outer_block_accepts_stays_accepted_and_it_hears_of_the_inner_one(self) -> None:
        with watching({"GEO-02"}) as outer:
            with watching({"SET-02"}, where="case_7") as inner:
                refuse("GEO-02", "apart")
            assert inner.findings == [Finding("GEO-02", "warning", "apart", "case_7")]
        assert outer.findings == inner.findings

    @pytest.mark.parametrize(("code", "message"), [("GEO-99", "no check GEO-99"), ("SET-03", "cannot be accepted")])
    def test_what_cannot_be_accepted_is_refused(self, code: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message), watching({code}):
            pass


class TestNotice:
    def test_it_warns_with_its_code(self) -> None:
        def read() -> None:
            notice("VAL-02", "every voxel is 7")

        with pytest.warns(InputWarning, match="^VAL-02: every voxel is 7") as caught:
            read()
        assert caught[0].filename == __file__

    def test_a_watch_keeps_what_is_told(self) -> None:
        with watching() as watch, pytest.warns(InputWarning, match="VAL-02"):
            notice("VAL-02", "every voxel is 7")
        assert [finding.code for finding in watch.findings] == ["VAL-02"]

    def test_an_accepted_one_is_not_shown(self) -> None:
        with warnings.catch_warnings(), watching({"VAL-02"}) as watch:
            warnings.simplefilter("error")
            notice("VAL-02", "every voxel is 7")
        assert len(watch.findings) == 1


class TestSettle:
    def test_nothing_found_says_nothing(self) -> None:
        settle([])

    def test_a_warning_is_told(self) -> None:
        def read() -> None:
            settle([Finding("GEO-07", "warning", "long")])

        with pytest.warns(InputWarning, match="GEO-07: long") as caught:
            read()
        assert caught[0].filename == __file__

    def test_one_error_stops_with_its_code(self) -> None:
        with pytest.raises(LabelError, match=r"^strange$") as caught:
            settle([Finding("LAB-02", "error", "strange")], LabelError)
        assert caught.value.code == "LAB-02"

    def test_several_errors_are_told_at_once(self) -> None:
        found = [Finding("LAB-03", "error", "absent"), Finding("SET-02", "error", "leak")]
        with pytest.raises(InputError, match=r"2 errors:\n  LAB-03: absent\n  SET-02: leak") as caught:
            settle(found)
        assert caught.value.code == "LAB-03"

    def test_accepted_errors_are_kept_and_the_others_stop(self) -> None:
        found = [Finding("LAB-03", "error", "absent"), Finding("SET-02", "error", "leak")]
        with watching({"LAB-03"}) as watch, pytest.raises(InputError, match=r"^leak$"):
            settle(found)
        assert [finding.message for finding in watch.findings] == ["absent"]
        with checks.watching({"LAB-03", "SET-02"}):
            settle(found)


def test_many_warnings_of_one_code_are_one_that_names_the_cases() -> None:
    found = [Finding("GEO-07", "warning", "thick slices", f"case{number}") for number in range(5)]
    with checks.watching() as watch, pytest.warns(InputWarning) as told:
        checks.settle(found)
    (said,) = told
    assert str(said.message) == "GEO-07: case0: thick slices (and 4 more: case1, case2, case3 …)"
    assert watch.findings == found
