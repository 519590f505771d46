"""The page about layouts says what the code does."""

import re
from pathlib import Path

import pytest

from voxelsam import plugins
from voxelsam.layouts import amos, brats, btcv, kits, msd_pancreas, prostate
from voxelsam.volumes import Labels

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/layouts.md"
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


def test_every_layout_has_a_section_in_the_order_of_names() -> None:
    assert tuple(SECTIONS) == plugins.names("layouts")


@pytest.mark.parametrize("name", plugins.names("layouts"))
def test_a_section_says_what_the_introduction_promises(name: str) -> None:
    for topic in ("labels", "window", "folds", "patients"):
        assert f"**{topic}**" in SECTIONS[name], topic


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("amos", amos.LABELS),
        ("brats", brats.LABELS_TREATED),
        ("btcv", btcv.LABELS),
        ("kits", kits.LABELS),
        ("kits", kits.LABELS_2019),
        ("msd_pancreas", msd_pancreas.LABELS),
        ("prostate", prostate.LABELS),
    ],
)
def test_labels_and_regions(name: str, labels: Labels) -> None:
    text = " ".join(SECTIONS[name].split())
    for label in labels.names:
        assert f"{labels.values[label]} {label}" in text
    for region, values in labels.regions.items():
        assert f"{region} ({', '.join(map(str, values))})" in text


@pytest.mark.parametrize(("name", "window"), [("btcv", btcv.WINDOW), ("msd_pancreas", msd_pancreas.WINDOW)])
def test_windows(name: str, window: tuple[float, float]) -> None:
    assert f"**window**: {window[0]:g} to {window[1]:g} HU" in SECTIONS[name]


def test_cases_held_out() -> None:
    for letter, site in zip("ABCDEF", prostate.SITES, strict=True):
        cases = ", ".join(f"{number:02}" for number in prostate.MA_SAM_TEST[site])
        assert f"| {letter} {site} | {cases} |" in SECTIONS["prostate"]
    text = " ".join(SECTIONS["btcv"].split())
    assert f"validates on {btcv.MA_SAM_TEST[0][3:]} to {btcv.MA_SAM_TEST[-1][3:]}" in text
    assert f"validates on {', '.join(name[3:] for name in btcv.TRANSUNET_TEST)} and" in text
