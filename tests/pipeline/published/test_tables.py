"""The table of published results: reasons once, doubts marked, sources as notes; in a report and in a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.data.forms import RESIZE
from pipeline.published.rows import rows_for
from pipeline.published.tables import Ours, published_table
from pipeline.published.terms import INCEPTION_SHA256
from pipeline.report.parts import Report
from pipeline.report.writing import render
from pipeline.scoring.passport import ExtractorMark, Passport, ReferenceMark, SourceMark

WORDNET = [f"n{number:08d}" for number in range(1000)]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def _passport(**changes: Any) -> Passport:
    """Of a score that stands beside CDM's at 64 px as far as is told."""
    fields: dict[str, Any] = {
        "samples": 50_000, "indices": (0, 50_000), "source": SourceMark(kind="chained"),
        "reference": ReferenceMark(name="ILSVRC2012", split="train", images=1_281_167, digest="ab" * 32, lossy=True),
        "validation": ReferenceMark(name="ILSVRC2012", split="val", images=50_000, digest="ab" * 32, lossy=True),
        "extractor": ExtractorMark(name="inception", layer="2048", sha256=INCEPTION_SHA256), "size": 64,
        "resize": f"{RESIZE}; stored as 64-png", "labels": "histogram", "seed": 0, "precision": "f32", "block": 64,
        "device": "cpu", "revision": "r",
    }  # fmt: skip
    return Passport(**{**fields, **changes})


def _table(passport: Passport | None, size: int = 64, classes: list[str] = WORDNET) -> Any:
    ours = [Ours("mine", "chained", fid=3.4, fid_error=0.1, passport=passport), Ours("alone", "oracle", fid=2.0)]
    return published_table(rows_for("imagenet", size), ours, name="imagenet", classes=classes, size=size)


def test_reasons_of_all_rows_stand_once_and_others_are_notes() -> None:
    few = _table(_passport(samples=1000))
    assert few.common == ["your FID is of 1,000 samples, theirs of 50,000, and fewer samples have a higher FID"]
    assert few.verdict.startswith("Not comparable")
    assert not few.mixed
    (adm,) = [line for line in few.rows if line.name == "ADM"]
    assert [sentence for sentence, number in few.notes.items() if number in adm.beside_marks] == [
        "Your reference images were resized in another way than theirs (box halvings, then bicubic (Pillow), centre "
        "crop, as the authors' code prepares images)."
    ]


def test_rows_that_compare_say_so_and_what_is_not_told() -> None:
    table = _table(_passport())
    assert (table.common, table.mixed) == ([], True)
    told = {line.name: line.beside for line in table.rows}
    assert (told["CDM"], told["ADM"]) == ("as far as is told", "no")
    (cdm,) = [line for line in table.rows if line.name == "CDM"]
    sentences = {number: sentence for sentence, number in table.notes.items()}
    assert sentences[cdm.beside_marks[0]] == "Not told: how the reference images were resized."
    assert "arXiv 2106.15282" in sentences[cdm.sure_marks[0]]
    assert "CDM authors' tables" in sentences[cdm.sure_marks[0]]


def test_figures_keep_their_digits_and_their_doubts() -> None:
    table = _table(_passport(size=128), size=128)
    cells = {(line.name, line.small): line.cells for line in table.rows}
    cdm = cells["CDM", "2021"]
    assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in cdm] == [
        "3.52", "3.76", "128.8 ± 2.51", "59.84 / 81.79 %"
    ]  # fmt: skip
    assert cells["simple diffusion", "U-Net, 2023"][:2] == ["2.26†", "2.88†"]
    assert cells["ADM-G", "2021"][0] == "2.97*"
    assert [line.name for line in table.ours] == ["mine"]  # no published super-resolution at this size
    assert len(_table(_passport(size=256), size=256).ours) == 2


def test_without_rows_the_table_says_why() -> None:
    assert _table(_passport(), size=48).absence.endswith("at 32, 64, 128, 256 and 512 px; none is at 48 px.")
    drawn = published_table([], [], name="drawn", classes=["ring"], size=64)
    assert "on ImageNet; a score on other images cannot stand beside them" in drawn.absence


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    """A report of 32 px on what calls itself ImageNet."""
    dataset = report.dataset.model_copy(update={"name": "ILSVRC2012_img_train.tar"})
    return render(report.model_copy(update={"dataset": dataset, "searches": []}))


def test_the_report_shows_them_for_its_own_size_alone(page: str) -> None:
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))
    (table,) = [one for one in tree.iter("table") if one.attrib.get("class") == "published"]
    text = " ".join(" ".join(table.itertext()).split())
    assert "published, not comparable with yours" in text
    assert "1.11" in text  # CDM at 32 px
    assert "1.48" not in text  # at 64 px
    assert all("scope" in header.attrib for header in table.iter("th"))
    assert all(row.find("th") is not None for row in table.iter("tr"))
    columns = len(list(table.findall("thead/tr/th")))
    assert {len(list(row)) for row in table.iter("tr")} == {columns, 1}  # one: the names of groups
    ids = [one.attrib["id"] for one in tree.iter() if "id" in one.attrib]
    assert len(ids) == len(set(ids))
    links = {one.attrib["href"][1:] for one in tree.iter("a") if one.attrib["href"].startswith("#published")}
    assert "published" in links
    assert links <= set(ids)
    assert "https:" not in page


def test_other_data_has_a_folded_sentence_instead(report: Report) -> None:
    page = render(report.model_copy(update={"searches": []}))
    assert "Published results: none to show" in page
    assert 'href="#published"' not in page
    assert "EDM2" not in page


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_without_complaint(page: str, tmp_path: Path) -> None:
    file, shot = tmp_path / "report.html", tmp_path / "shot.png"
    file.write_text(page, encoding="utf-8")
    command = [str(BROWSER), *FLAGS, "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--screenshot={shot}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert shot.is_file(), done.stderr[-500:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
