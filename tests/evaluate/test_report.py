import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import OutputError
from voxelsam.evaluate import evaluate, figures, statistics
from voxelsam.evaluate.metrics import Counts
from voxelsam.evaluate.report import QualityRow, correlations, page, shown, write_html
from voxelsam.evaluate.scores import CaseScore, Failure, Report
from voxelsam.formats import write_volume
from voxelsam.overlay import Overlay
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Volume

CURVE = [
    {"epoch": 0, "train_loss": 1.0, "val_loss": None, "val_dice": float("nan")},
    {"epoch": 1, "train_loss": 0.6, "val_loss": 0.7, "val_dice": 0.5},
    {"epoch": 2, "train_loss": 0.4},
]


class Page(HTMLParser):
    """Text, tags and links of a page; complains about tags that are not closed."""

    def __init__(self, html):
        super().__init__()
        self.words, self.links, self.open, self.tags = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words += [data.strip()] if data.strip() else []


def case(name, liver, tumour):
    return CaseScore(name, Path("p"), Path("r"), (1.0, 1.0, 1.0), 0.0, {1: liver, 7: tumour})


@pytest.fixture(scope="module")
def report(labels):
    cases = (
        case("good", Counts(10, 0, 0, 90), Counts(0, 0, 0, 100)),
        case("bad", Counts(1, 9, 9, 81), Counts(0, 3, 0, 97)),
        case("middling", Counts(5, 5, 5, 85), Counts(3, 0, 0, 97)),
    )
    return Report(labels, "nan", cases, (Failure("lost", "it lies 3 mm away <here>"),))


@pytest.fixture(name="page", scope="module")
def page_of_a_report(tmp_path_factory, report):
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "PNG")
    path = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    write_html(
        path,
        title="Phantom & <friends>",
        report=report,
        curve=CURVE,
        overlays=[Overlay("case good", file.getvalue(), "all is well")],
        facts={"data set": "Phantom"},
        notes=["The weights are random."],
    )
    return Page(path.read_text(encoding="utf-8"))


def test_page_needs_nothing_from_elsewhere(page):
    assert len(page.links) == 3  # box plots, curve, overlay
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_page_loads_nothing_through_its_styles(tmp_path, report):
    write_html(tmp_path / "r.html", title="t", report=report)
    text = (tmp_path / "r.html").read_text()
    assert not re.search(r"https?:|@import|url\(", text)
    assert "viewport" in text
    assert "prefers-color-scheme: dark" in text


def test_pictures_in_the_page_are_png(page):
    for link in page.links:
        assert Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).format == "PNG"


def test_page_says_what_was_given(page):
    for words in ("Phantom & <friends>", "data set", "The weights are random.", "case good", "all is well", "liver"):
        assert words in page.words
    assert any("it lies 3 mm away <here>" in words for words in page.words)


def test_worst_cases_come_first(page):
    order = [words for words in page.words if words in ("good", "middling", "bad")]
    assert order == ["bad", "middling", "good"]


def test_scores_and_rule_are_shown(page):
    assert "0.533" in page.words  # liver: mean of 1, 0.1 and 0.5
    assert "–" in page.words  # the tumour is in neither mask of the good case
    assert any("a class in neither mask has no score" in words for words in page.words)


def test_parts_that_are_not_given_are_left_out(tmp_path):
    write_html(tmp_path / "r.html", title="Empty")
    page = Page((tmp_path / "r.html").read_text())
    assert "section" not in page.tags
    assert "table" not in page.tags
    assert "Empty" in page.words


def test_page_of_nothing_but_failures(tmp_path, labels):
    write_html(tmp_path / "r.html", title="t", report=Report(labels, "nan", (), (Failure("a", "broken"),)))
    words = Page((tmp_path / "r.html").read_text()).words
    assert "–" in words
    assert "not scored" in words


def test_page_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_html(tmp_path / "file" / "r.html", title="t")


def test_curve_shows_losses_and_scores():
    both, losses = (Image.open(io.BytesIO(figures.curve(rows))) for rows in (CURVE, [{"epoch": 0, "train_loss": 1.0}]))
    assert both.width > 1.5 * losses.width
    assert np.asarray(both)[0, 0, 3] == 0  # clear ground


@pytest.mark.parametrize("curve", [[], [{"epoch": 0}], [{"epoch": 0, "val_loss": float("nan"), "train_loss": None}]])
def test_nothing_measured_draws_nothing(curve):
    assert figures.curve(curve) is None


def test_regions_have_a_row_of_their_own(tmp_path, labels):
    both = Labels(labels.values, regions={"all of it": (1, 7)})
    counts = {1: Counts(1, 0, 0, 9), 7: Counts(1, 1, 1, 7), (1, 7): Counts(3, 1, 0, 6)}
    scored = CaseScore("a", Path("p"), Path("r"), (1.0, 1.0, 1.0), 0.0, counts)
    write_html(tmp_path / "report.html", title="t", report=Report(both, "nan", (scored,)))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    words = Page(page).words
    assert words[words.index("all of it") + 1] == "0.857"
    assert page.count('class="swatch"') == 2


def test_intervals_are_those_of_the_statistics(tmp_path, report):
    write_html(tmp_path / "r.html", title="t", report=report)
    words = Page((tmp_path / "r.html").read_text()).words
    (expected,) = statistics.means(np.array([[1.0], [0.1], [0.5]]))
    assert words[words.index("liver") + 2] == f"[{expected.low:.3f}, {expected.high:.3f}]"
    assert any("with fewer than 10 cases it is too narrow" in text for text in words)


def test_patients_make_intervals_wider(tmp_path, labels):
    cases = tuple(case(f"c{n}", Counts(10 + n // 4 * 30, 10, 0, 50), Counts(0, 0, 0, 100)) for n in range(8))
    found = []
    for groups in (None, {f"c{n}": f"p{n // 4}" for n in range(8)}):
        write_html(tmp_path / "r.html", title="t", report=Report(labels, "nan", cases), groups=groups)
        words = Page((tmp_path / "r.html").read_text()).words
        low, high = words[words.index("liver") + 2].strip("[]").split(", ")
        found.append(float(high) - float(low))
        assert any(("patients" if groups else "cases") + " drawn again" in text for text in words)
    assert found[1] > 1.3 * found[0]


def test_every_measure_has_a_column_with_what_is_undefined(tmp_path, labels):
    measures = [{1: {"HD95": 2.0, "NSD": 0.5}}, {1: {"HD95": math.nan, "NSD": 0.7}}, {1: {"HD95": 4.0, "NSD": 0.9}}]
    cases = tuple(
        replace(case(f"c{n}", Counts(5, 5, 5, 85), Counts(0, 0, 0, 100)), measures=each)
        for n, each in enumerate(measures)
    )
    write_html(tmp_path / "r.html", title="t", report=Report(labels, "nan", cases))
    html = (tmp_path / "r.html").read_text()
    words = Page(html).words
    assert "HD95 (mm)" in words
    assert "3.00" in words  # mean of 2 and 4
    assert "0.700" in words
    assert words.count("2 cases, 1 undefined") == 2  # the class and the mean of the classes
    assert html.count("data:image/png;base64,") == 3  # Dice, NSD, HD95


def test_a_class_without_any_value_says_so_and_no_more(tmp_path, labels):
    alone = replace(case("c", Counts(0, 5, 5, 90), Counts(0, 0, 0, 100)), measures={1: {"HD95": math.nan}})
    write_html(tmp_path / "r.html", title="t", report=Report(labels, "nan", (alone,)))
    words = Page((tmp_path / "r.html").read_text()).words
    assert "1 undefined" in words
    assert not any(text.startswith(",") for text in words)


def test_names_from_outside_are_only_text(tmp_path):
    wild = "<script>alert(1)</script>"
    table = Labels({"background": 0, "<b>liver": 1})
    scored = CaseScore(wild, Path("p"), Path("r"), (1.0, 1.0, 1.0), 0.0, {1: Counts(1, 1, 1, 7)})
    report = Report(table, "nan", (scored,), (Failure(wild, wild),))
    quality = [QualityRow(wild, "<b>liver", "<i>flag$_{", 0.1 * n, 0.1 * n) for n in range(4)]
    path = tmp_path / "r.html"
    page(path, report, title=wild, facts={wild: wild}, notes=[wild], quality=quality, images={wild: []})
    html = path.read_text()
    assert "<script" not in html
    assert "<b>liver" not in html
    assert "<i>flag" not in html
    assert "&lt;script&gt;" in html
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,)", html)


@pytest.fixture
def scanned(tmp_path, pairs, grid, labels):
    """A report on files, and an image of each case."""
    images = {}
    for name in ("a", "b"):
        images[name] = [tmp_path / "images" / f"{name}.nii.gz"]
        images[name][0].parent.mkdir(exist_ok=True)
        write_volume(images[name][0], Volume(np.random.default_rng(0).normal(size=(1, *grid.shape)), grid, "MR"))
    return evaluate(*pairs, labels=labels, preset="nnunet"), images


def test_the_worst_and_best_cases_are_shown_on_their_images(tmp_path, scanned):
    report, images = scanned
    page(tmp_path / "r.html", report, images=images, title="t", facts={})
    html = (tmp_path / "r.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "mean Dice 0.667" in html
    assert html.index("Slices of b with") < html.index("Slices of a with")


def test_pictures_that_cannot_be_drawn_are_named(tmp_path, scanned):
    report, images = scanned
    images["a"][0].write_bytes(b"damaged")
    page(tmp_path / "r.html", report, images={"a": images["a"]}, title="t")
    html = (tmp_path / "r.html").read_text()
    assert "No picture of b: its image is not known." in html
    assert re.search(r"No picture of a: .*a\.nii\.gz", html)
    assert html.count("data:image/png;base64,") == 1


def test_the_page_opens_without_images(tmp_path, scanned):
    page(tmp_path / "r.html", scanned[0], title="t")
    html = (tmp_path / "r.html").read_text()
    assert "Pictures" not in html
    assert "No picture" not in html


def test_few_cases_are_shown_once(labels):
    cases = [case(f"c{n}", Counts(n, 5, 5, 90 - n), Counts(0, 0, 0, 100)) for n in range(1, 9)]
    assert [each.case for each in shown(Report(labels, "nan", tuple(cases[:2])))] == ["c1", "c2"]
    assert [each.case for each in shown(Report(labels, "nan", tuple(cases[:4])))] == ["c1", "c2", "c3", "c4"]
    assert [each.case for each in shown(Report(labels, "nan", tuple(cases)))] == ["c1", "c2", "c3", "c7", "c8"]
    nothing = case("x", Counts(0, 0, 0, 100), Counts(0, 0, 0, 100))
    assert shown(Report(labels, "nan", (nothing,))) == []


def test_quality_flags_are_shown_with_their_correlation(tmp_path):
    rows = [QualityRow(f"c{n}", "liver", "agreement", n / 10, (n / 10) ** 2) for n in range(5)]
    rows += [QualityRow(f"c{n}", "liver", "volume", -n, n / 10) for n in range(5)]
    rows += [QualityRow("c9", "liver", "agreement", math.nan, 0.5), QualityRow("c9", "liver", "constant", 1, 0.5)]
    agreement, volume, constant = correlations(rows)
    assert (agreement.name, agreement.correlation, agreement.count) == ("agreement", pytest.approx(1), 5)
    assert volume.correlation == pytest.approx(-1)
    assert math.isnan(constant.correlation)
    page(tmp_path / "r.html", None, title="t", quality=rows)
    words = Page((tmp_path / "r.html").read_text()).words
    assert words[words.index("agreement") + 1 : words.index("agreement") + 3] == ["1.00", "5"]
    assert "-1.00" in words
    assert "–" in words


def test_no_flags_no_section(tmp_path):
    page(tmp_path / "r.html", None, title="t", quality=[])
    assert "section" not in Page((tmp_path / "r.html").read_text()).tags
    assert correlations([]) == []


def test_box_plots_show_what_is_defined():
    boxes = [figures.Box("liver", "", [0.5, math.nan, 0.9]), figures.Box("$x_{", "", [math.nan])]
    png = figures.boxes(boxes, "Dice")
    assert np.asarray(Image.open(io.BytesIO(png)))[0, 0, 3] == 0
    assert figures.boxes(boxes[1:], "Dice") is None
    assert figures.boxes([], "Dice") is None
    assert figures.differences([], "t") is None
    assert figures.scatter({"a": [(math.nan, 1.0)]}, "t", "x", "y") is None
