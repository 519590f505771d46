"""Published tables as data: sums, recipes that can be run, and what may not be claimed."""

import math

import pytest

from voxelsam import config
from voxelsam.errors import ConfigError
from voxelsam.evaluate.studies import Study, studies, study_of
from voxelsam.train.recipe import parse

MISPRINTED = {("med-sa/btcv", "Dice", "MedSAM")}
"""Rows whose printed mean is not the mean of the row; the specification says so."""

ROWS = [
    (study.name, table.measure, name)
    for study in studies().values()
    for table in study.tables
    for name, row in table.figures.items()
    if row.values
]
ARMS = [(study.name, arm) for study in studies().values() for arm in study.arms]


@pytest.mark.parametrize(("name", "measure", "row"), ROWS)
def test_the_mean_of_a_row_is_the_printed_one(name: str, measure: str, row: str) -> None:
    figures = next(table for table in study_of(name).tables if table.measure == measure).figures[row]
    mean = sum(figures.values) / len(figures.values)
    assert math.isclose(mean, figures.mean, abs_tol=0.13) != ((name, measure, row) in MISPRINTED)


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_every_arm_is_a_valid_recipe_of_its_study(name: str, arm: str) -> None:
    study = study_of(name)
    recipe = parse(config.merge(study.settings(arm), {"data": {"root": "."}}))
    assert recipe.data.layout == study.data.layout
    assert recipe.train.keep == "last", "an epoch chosen on the test cases is no fair figure"
    if study.columns and not study.sets:
        assert tuple(recipe.data.structures or ()) == study.columns


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_an_arm_stands_for_a_printed_row(name: str, arm: str) -> None:
    tables = study_of(name).tables
    assert not tables or any(arm in table.figures for table in tables)


def test_arms_differ_only_in_what_they_name() -> None:
    study = study_of("ma-sam/btcv-adapters")
    none, both = study.settings("none"), study.settings("both")
    assert none["adapt"]["parts"] == ["fact"]
    assert "parts" not in both["adapt"]
    assert {key: none[key] for key in none if key != "adapt"} == {key: both[key] for key in both if key != "adapt"}


def test_what_an_arm_takes_away_is_gone() -> None:
    adapt = study_of("ma-sam/btcv").settings("SwinUNETR")["adapt"]
    assert adapt == {"name": "swin_unetr"}


def test_both_papers_are_there_with_their_sources() -> None:
    for paper in ("2309.08842", "2304.12620"):
        assert any(paper in study.paper for study in studies().values())
    assert all(study.unsure or study.tables for study in studies().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ["a", "b"]}, "values for 2 columns"),
        ({"preset": "best"}, "best"),
        ({"sets": {"x": "x_"}}, "sets and columns differ"),
        ({"status": {"state": "reproduced", "why": ""}}, "state"),
        ({"figures": {}}, "figures"),
    ],
)
def test_a_damaged_study_is_refused(change: dict, message: str) -> None:
    plain = config.plain(study_of("ma-sam/btcv"))
    with pytest.raises(ConfigError, match=message):
        config.parse(Study, plain | change, where="a study")


def test_unknown_studies_and_arms_are_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="there is no study 'btcv'; there are: ma-sam/btcv"):
        study_of("btcv")
    with pytest.raises(ConfigError, match=r"no arm 'U-Net'.*'MA-SAM'"):
        study_of("ma-sam/btcv").settings("U-Net")
    with pytest.raises(ConfigError, match="what it takes is not known"):
        study_of("med-sa/brats2021").settings("")


def test_the_reference_page_is_made_from_the_data() -> None:
    import runpy
    from pathlib import Path

    script = Path(__file__).parents[2] / "docs" / "reference" / "studies.py"
    assert script.with_suffix(".md").read_text("utf-8") == runpy.run_path(str(script))["page"]()
