"""The report of a made-up experiment: whole, self-contained, the same bytes again, and quiet in a real browser."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.data.drawn import CLASSES
from pipeline.report.parts import Report
from pipeline.report.scores import Scores
from pipeline.report.search_parts import SearchSection
from pipeline.report.wording import clock, number, verdict
from pipeline.report.writing import figure_files, render

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


@pytest.fixture(scope="module")
def compared_page(compared_report: Report) -> str:
    return render(compared_report)


def _text(page: str) -> str:
    return " ".join(" ".join(_tree(page).itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


def _tree(page: str) -> ElementTree.Element:
    """The page as XML: every element closed, every attribute quoted, every & escaped."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))


def test_the_page_is_well_formed_and_ids_and_anchors_agree(page: str) -> None:
    tree = _tree(page)
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    pointers = {found for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page) for found in pair if found}
    assert pointers
    assert pointers <= set(ids)


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    assert not re.search(r"https?:|<script[^>]|@import|javascript:|\son\w+=", page)
    assert page.count("<script>") == 1  # the one that sorts tables, which the page's own policy names by its hash
    sources = re.findall(r'\bsrc="([^"]{0,30})', page)
    assert len(sources) == 8 + 8 * 4  # grids, and eight samples with three training images each
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert len(page) < 1_700_000


def test_every_figure_and_every_stage_is_there(page: str, report: Report) -> None:
    tree = _tree(page)
    names = [
        "fid-by-count",
        "fid-by-stage",
        "fid-by-step",
        "front-sr16",
        "front-sr32",
        "level-sr16",
        "level-sr32",
        "loss",
    ]
    names += ["spectra"]
    assert sorted(figure_files(report)) == [f"{name}.svg" for name in names]
    labels = [element.attrib["aria-label"] for element in tree.iter("svg")]
    assert len(labels) == len(names)
    assert any("sr32 chained 14.4, oracle 6.10, real 1.10" in label for label in labels)
    assert any("sr16 chained 0.420, oracle 0.700 times the real" in label for label in labels)
    assert all(len(element.attrib["alt"]) > 15 for element in tree.iter("img"))
    text = " ".join("".join(tree.itertext()).split())
    for wanted in ("base8", "sr16", "87.4 %", "step 100", "+3.7", "chosen s = 0.1, truncated", "stages.base8.net.kind"):
        assert wanted in text
    assert "<& more>" in text


def test_tables_have_headers_for_every_row_and_column(page: str) -> None:
    for table in _tree(page).iter("table"):
        assert all("scope" in header.attrib for header in table.iter("th"))
        assert all(row.find("th") is not None for row in table.iter("tr"))


def test_the_same_report_gives_the_same_bytes(page: str, report: Report) -> None:
    again = Report.model_validate_json(report.model_dump_json())
    assert render(again) == page


def test_figures_alone_are_whole_svg_documents(report: Report) -> None:
    for svg in figure_files(report).values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_missing_parts_leave_no_holes(bare_report: Report) -> None:
    page = render(bare_report)
    _tree(page)
    assert "<svg" not in page
    assert "<img" not in page
    assert "No scores were taken." in page
    assert not re.search(r"\bNone\b|\bnan\b", page)
    assert 'href="#search"' not in page
    assert "<script" not in page
    assert "script-src" not in page
    assert "No nodes were recorded." in page


def test_what_was_not_taken_is_told_as_a_dash_and_not_drawn(report: Report) -> None:
    found = report.searches[0]
    lost = found.points[0].model_copy(update={"chained_fid": None, "oracle_fid": None, "recall": None})
    one = found.model_copy(update={"points": [lost], "chosen": None})
    empty = SearchSection(stage="sr16", metric="chained_fid", varied=[], points=[])
    page = render(report.model_copy(update={"searches": [one, empty.model_copy(update={"stage": "sr32"})]}))
    _tree(page)
    assert "No trial gave a score." in page
    assert Scores(samples=1, fid=math.nan, accuracy=math.inf, precision=None, recall=1.0).fid is None


def test_many_classes_and_long_losses_stay_light(report: Report) -> None:
    many = [f"class {number:03d}" for number in range(100)]
    update = {"per_class": dict.fromkeys(many, 0.5), "loss": [(step, 1 / (1 + step)) for step in range(100_000)]}
    stages = [stage.model_copy(update=update) for stage in report.stages]
    dataset = report.dataset.model_copy(update={"classes": many})
    page = render(report.model_copy(update={"stages": stages, "dataset": dataset}))
    assert "The other 80 of 100 classes" in page
    assert len(page) < 1_700_000


def test_the_verdict_is_made_of_the_figures(report: Report) -> None:
    told = verdict(report).replace("\N{NO-BREAK SPACE}", " ")
    assert "recognises 87.4 % of the cascade's 32 px samples (98.5 % of real images, chance 10.0 %)" in told
    assert f"hardest class is {CLASSES[0]}, 62.4 %" in told
    assert "chained FID is 14.40 ± 0.58; real held-out images score 1.10" in told
    assert "sr32 alone reaches 6.10: the chain costs 8.30, so most of it is lost below" in told
    last = report.last
    better = last.model_copy(update={"oracle": last.chained.model_copy(update={"fid": 20.0}), "per_class": {}})
    told = verdict(report.model_copy(update={"stages": [better]}))
    assert "the chain costs nothing." in told
    assert "hardest" not in told


def test_cascades_stand_side_by_side_against_one_row_of_real_images(
    compared_report: Report, compared_page: str
) -> None:
    tree = _tree(compared_page)
    (table,) = [table for table in tree.iter("table") if "cascade" in "".join(table.find("thead").itertext())]  # type: ignore[union-attr]
    rows = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table.find("tbody") or []]
    assert [row[0] for row in rows] == ["main", "alone", "real"]
    assert rows[0][1:6] == ["base8 → sr16 → sr32", "32 px", "3,400,000", "11 min 40 s", "36"]
    assert rows[1][1:3] == ["single32", "32 px"]
    assert [row[6:8] for row in rows] == [["1", "14.40 ± 0.581"], ["2", "20.10 ± 0.801"], ["–", "1.10"]]  # and the note
    told = verdict(compared_report).replace("\N{NO-BREAK SPACE}", " ")
    assert "recognises 87.4 % of the cascade main's 32 px samples" in told  # the main cascade, not the last stage
    best = "Of 2 cascades that make 32 px, main (base8 → sr16 → sr32) has the lowest FID: 14.40 ± 0.58 for 36 net calls"
    assert best + " per image, against alone with 20.10 ± 0.80 for 64 net calls per image." in told


def test_cascades_of_other_sizes_are_shown_and_not_compared(compared_report: Report) -> None:
    both = compared_report
    small = both.cascades[0].model_copy(update={"name": "small", "stages": ["base8", "sr16"], "size": 16})
    mixed = both.model_copy(update={"cascades": [both.cascades[0], small]})
    assert "Of 2 cascades" not in verdict(mixed)
    assert _text(render(mixed)).count("held out 16 px") == 1


def test_restoration_and_bounds_are_shown_where_they_were_taken(compared_page: str, page: str) -> None:
    text = _text(compared_page)
    for wanted in ("sr16 8 → 16 px 18.3 21.5 – 0.710 3.40 – 95.0 %", "single32 32 px 3.46 0.0120", "1000 learned 256"):
        assert wanted in text
    assert "Super-resolution against" not in page
    assert "Variational bound" not in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.01234, "0.0123"), (14.44, "14.4"), (1234.5, "1,234"), (100.2, "100"), (0.0, "0.00")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (9.97, "10 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def _console(file: Path, folder: Path) -> list[str]:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--screenshot={folder / 'shot.png'}"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert (folder / "shot.png").is_file(), done.stderr[-500:]
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_has_nothing_to_complain_about(page: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "report.html", tmp_path / "bad.html"
    good.write_text(page, encoding="utf-8")
    bad.write_text(page.replace("</main>", '<script>"blocked"</script></main>'), encoding="utf-8")
    assert _console(good, tmp_path) == []
    assert _console(bad, tmp_path)  # the console is really being read, and the page's own policy holds
