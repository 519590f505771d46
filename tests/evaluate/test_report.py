import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import OutputError
from voxelsam.evaluate.metrics import Counts
from voxelsam.evaluate.report import draw_curve, write_html
from voxelsam.evaluate.scores import CaseScore, Failure, Report
from voxelsam.overlay import Overlay
from voxelsam.volumes.labels import Labels

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


@pytest.fixture
def report(labels):
    cases = (
        case("good", Counts(10, 0, 0, 90), Counts(0, 0, 0, 100)),
        case("bad", Counts(1, 9, 9, 81), Counts(0, 3, 0, 97)),
        case("middling", Counts(5, 5, 5, 85), Counts(3, 0, 0, 97)),
    )
    return Report(labels, "nan", cases, (Failure("lost", "it lies 3 mm away <here>"),))


@pytest.fixture
def page(tmp_path, report):
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "PNG")
    path = tmp_path / "deep" / "report.html"
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
    assert len(page.links) == 2
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
    both, losses = (Image.open(io.BytesIO(draw_curve(rows))) for rows in (CURVE, [{"epoch": 0, "train_loss": 1.0}]))
    assert both.width > 1.5 * losses.width
    assert np.asarray(both)[0, 0, 3] == 0  # clear ground


@pytest.mark.parametrize("curve", [[], [{"epoch": 0}], [{"epoch": 0, "val_loss": float("nan"), "train_loss": None}]])
def test_nothing_measured_draws_nothing(curve):
    assert draw_curve(curve) is None


def test_regions_have_a_row_of_their_own(tmp_path, labels):
    both = Labels(labels.values, regions={"all of it": (1, 7)})
    counts = {1: Counts(1, 0, 0, 9), 7: Counts(1, 1, 1, 7), (1, 7): Counts(3, 1, 0, 6)}
    scored = CaseScore("a", Path("p"), Path("r"), (1.0, 1.0, 1.0), 0.0, counts)
    write_html(tmp_path / "report.html", title="t", report=Report(both, "nan", (scored,)))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    words = Page(page).words
    assert words[words.index("all of it") + 1] == "0.857"
    assert page.count('class="swatch"') == 2
