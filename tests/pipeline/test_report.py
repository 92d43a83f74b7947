"""The report of a made-up experiment: whole, self-contained, the same bytes again, and quiet in a real browser."""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.data.drawn import CLASSES, draw
from pipeline.grids import class_grid
from pipeline.report import (
    BoundScores,
    CascadeRow,
    Choice,
    Dataset,
    NodeRow,
    Report,
    Restoration,
    Scores,
    SearchPoint,
    SearchSection,
    StageSection,
    clock,
    figure_files,
    number,
    render,
    verdict,
)

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]


@functools.cache
def _drawn(seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    drawn = [draw(seed, index, 32) for index in range(8 * len(CLASSES))]
    return np.stack([image for image, _ in drawn]).astype(float), np.array([label for _, label in drawn])


def _grid(size: int, seed: int, noise: float) -> bytes:
    images, labels = _drawn(seed)
    images = images.reshape(len(images), size, 32 // size, size, 32 // size, 3).mean((2, 4))
    images += np.random.default_rng(seed).normal(0, 255 * noise, images.shape)
    return class_grid(images.clip(0, 255).astype(np.uint8), labels, len(CLASSES), columns=8)


def _stage(
    name: str, size: int, low: int | None, fids: tuple[float, float | None, float], accuracy: float
) -> StageSection:
    dice = np.random.default_rng(size)
    steps = np.arange(0, 1000, 20)
    loss = 0.06 + 0.9 * np.exp(-steps / 90) * dice.uniform(0.85, 1.15, len(steps)) + dice.normal(0, 0.004, len(steps))
    chained, oracle, real = fids
    return StageSection(
        name=name,
        size=size,
        low_res_size=low,
        parameters=1_250_000 // (1 + size // 16),
        steps=1000,
        training_seconds=143.0 + size,
        images_per_second=4096.0 / size,
        loss=[(int(step), float(value)) for step, value in zip(steps, loss, strict=True)],
        chained=Scores(samples=1024, fid=chained, accuracy=accuracy, precision=0.71, recall=0.52),
        oracle=None if oracle is None else Scores(samples=1024, fid=oracle, accuracy=0.95, precision=0.8, recall=0.6),
        real=Scores(samples=1024, fid=real, accuracy=0.985, precision=0.86, recall=0.85),
        level=0.1 if low else 0.0,
        kind="truncated",
        grid_png=_grid(size, 1, 0.04),
        oracle_png=_grid(size, 2, 0.02) if low else None,
        real_png=_grid(size, 3, 0.0),
        per_class={label: min(1.0, accuracy - 0.25 + 0.05 * rank) for rank, label in enumerate(CLASSES)},
    )


def _search(stage: str) -> SearchSection:
    points = []
    for kind, cost in (("truncated", 0.0), ("non_truncated", 3.0)):
        for level, logsnr, step in (
            (0.0, 15.0, 0),
            (0.05, 5.08, 50),
            (0.1, 3.69, 100),
            (0.2, 2.25, 200),
            (0.3, 1.35, 300),
        ):
            if kind == "non_truncated" and level == 0.0:
                continue
            fid = 14.0 + 900 * (level - 0.12) ** 2 + cost * level * 5
            oracle, accuracy = 6.0 + 40 * level, 0.88 - 2 * (level - 0.1) ** 2 - cost * level / 40
            figures: dict[str, Any] = {"logsnr": logsnr, "ddpm_step": step, "chained_fid": fid, "oracle_fid": oracle}
            figures |= {"accuracy": accuracy, "recall": 0.55 - (0.4 + cost / 20) * level, "seconds": 21.0 + level}
            points.append(SearchPoint(kind=kind, level=level, **figures))
    return SearchSection(stage=stage, metric="chained_fid", points=points, chosen=Choice(kind="truncated", level=0.1))


@pytest.fixture(scope="module")
def report() -> Report:
    names = ("data", "real/16", "classifier/judge", "train/base8", "train/sr16", "train/sr32", "samples/sr32", "search")
    return Report(
        title="demo: 8 -> 16 -> 32 px on drawn shapes <& more>",
        created="2026-11-21T10:53:56+00:00",
        revision="368107b2f6b1c0ffee5e5b8f9d8c7a6b5a493827",
        command="rayfall run jobs/experiments/demo.yaml --set seed=1",
        notes=["The source images are lossy (JPEG): no score here is comparable with published scores."],
        dataset=Dataset(
            name="drawn",
            image_size=32,
            classes=list(CLASSES),
            train=12000,
            val=3000,
            resize="box averages",
            lossy=False,
        ),
        scorer="Accuracy comes from a separately seeded classifier (0.985 on held-out real images at 32 px).",
        stages=[
            _stage("base8", 8, None, (4.1, None, 0.9), 0.93),
            _stage("sr16", 16, 8, (9.7, 3.2, 1.0), 0.9),
            _stage("sr32", 32, 16, (14.4, 6.1, 1.1), 0.874),
        ],
        searches=[_search("sr16"), _search("sr32")],
        nodes=[
            NodeRow(name=name, digest=f"{7**number:012x}"[:12], seconds=3.0**number / 9, reused=number % 3 == 0,
                    where=f"results/{name}")
            for number, name in enumerate(names)
        ],
        settings={
            "name": "demo",
            "seed": 0,
            "stages": {"base8": {"size": 8, "net": {"kind": "unet", "multipliers": [1, 2]}, "flip": False}},
            "search": None,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def bare(report: Report) -> Report:
    """The least there can be: one stage, no scores, no grids, nothing searched."""
    nothing = Scores(samples=None, fid=None, accuracy=None, precision=None, recall=None)
    changes: dict[str, Any] = {"chained": nothing, "real": nothing, "loss": [], "per_class": {}}
    stage = report.stages[0].model_copy(update={**changes, "grid_png": None, "real_png": None})
    return report.model_copy(update={"stages": [stage], "searches": [], "nodes": [], "settings": {}, "notes": []})


def compared(report: Report) -> Report:
    """A stage of 32 px beside the cascade, super-resolution scored against real images, and two bounds."""
    restored = Restoration(
        samples=1024,
        psnr=18.3,
        bicubic_psnr=21.5,
        ssim=None,
        bicubic_ssim=0.71,
        consistency=3.4e-5,
        chained_consistency=None,
    )
    bound = BoundScores(
        images=256, steps=1000, variance="learned", bits_per_dim=3.456, error=0.012, prior=1e-5, decoder=0.21
    )
    base, sr16, sr32 = report.stages
    alone = _stage("single32", 32, None, (20.1, None, 1.1), 0.7).model_copy(update={"bound": bound})
    stages = [base, sr16.model_copy(update={"restoration": restored}), sr32, alone]
    cost: dict[str, Any] = {"size": 32, "parameters": 3_400_000, "training_seconds": 700.0}
    rows = [
        CascadeRow(name="main", stages=["base8", "sr16", "sr32"], net_calls=36, chained=sr32.chained, **cost),
        CascadeRow(name="alone", stages=["single32"], net_calls=64, chained=alone.chained, **cost),
    ]
    return report.model_copy(update={"stages": stages, "cascades": rows})


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
    assert not re.search(r"https?:|<script|@import|javascript:|\son\w+=", page)
    sources = re.findall(r'\bsrc="([^"]{0,30})', page)
    assert len(sources) == 8
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert len(page) < 1_500_000


def test_every_figure_and_every_stage_is_there(page: str, report: Report) -> None:
    tree = _tree(page)
    assert sorted(figure_files(report)) == ["fid-by-stage.svg", "level-sr16.svg", "level-sr32.svg", "loss.svg"]
    labels = [element.attrib["aria-label"] for element in tree.iter("svg")]
    assert len(labels) == 4
    assert "sr32 chained 14.4, oracle 6.10, real 1.10" in labels[0]
    assert all(len(element.attrib["alt"]) > 20 for element in tree.iter("img"))
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


def test_missing_parts_leave_no_holes(report: Report) -> None:
    page = render(bare(report))
    _tree(page)
    assert "<svg" not in page
    assert "<img" not in page
    assert "No scores were taken." in page
    assert not re.search(r"\bNone\b|\bnan\b", page)
    assert 'href="#level"' not in page
    assert "No nodes were recorded." in page


def test_what_was_not_taken_is_told_as_a_dash_and_not_drawn(report: Report) -> None:
    lost = report.searches[0].points[0].model_copy(update={"chained_fid": None, "oracle_fid": None, "recall": None})
    one = SearchSection(stage="sr16", metric="chained_fid", points=[lost], chosen=report.searches[0].chosen)
    empty = one.model_copy(update={"points": []})
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
    assert len(page) < 1_500_000


def test_the_verdict_is_made_of_the_figures(report: Report) -> None:
    told = verdict(report).replace("\N{NO-BREAK SPACE}", " ")
    assert "recognises 87.4 % of the cascade's 32 px samples (98.5 % of real images, chance 10.0 %)" in told
    assert f"hardest class is {CLASSES[0]}, 62.4 %" in told
    assert "chained FID is 14.4; real held-out images score 1.10" in told
    assert "sr32 alone reaches 6.10: the chain costs 8.30, so most of it is lost below" in told
    last = report.last
    better = last.model_copy(update={"oracle": last.chained.model_copy(update={"fid": 20.0}), "per_class": {}})
    told = verdict(report.model_copy(update={"stages": [better]}))
    assert "the chain costs nothing." in told
    assert "hardest" not in told


def test_cascades_stand_side_by_side_against_one_row_of_real_images(report: Report) -> None:
    page = render(compared(report))
    tree = _tree(page)
    (table,) = [table for table in tree.iter("table") if "cascade" in "".join(table.find("thead").itertext())]  # type: ignore[union-attr]
    rows = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table.find("tbody") or []]
    assert [row[0] for row in rows] == ["main", "alone", "real"]
    assert rows[0][1:6] == ["base8 → sr16 → sr32", "32 px", "3,400,000", "11 min 40 s", "36"]
    assert rows[1][1:3] == ["single32", "32 px"]
    assert [row[6] for row in rows] == ["14.4", "20.1", "1.10"]
    told = verdict(compared(report)).replace("\N{NO-BREAK SPACE}", " ")
    assert "recognises 87.4 % of the cascade main's 32 px samples" in told  # the main cascade, not the last stage
    best = (
        "Of 2 cascades that make 32 px, main (base8 → sr16 → sr32) has the lowest FID: 14.4 for 36 net calls per image"
    )
    assert best + ", against alone with 20.1 for 64 net calls per image." in told


def test_cascades_of_other_sizes_are_shown_and_not_compared(report: Report) -> None:
    both = compared(report)
    small = both.cascades[0].model_copy(update={"name": "small", "stages": ["base8", "sr16"], "size": 16})
    mixed = both.model_copy(update={"cascades": [both.cascades[0], small]})
    assert "Of 2 cascades" not in verdict(mixed)
    assert _text(render(mixed)).count("held out 16 px") == 1


def test_restoration_and_bounds_are_shown_where_they_were_taken(report: Report, page: str) -> None:
    text = _text(render(compared(report)))
    for wanted in ("sr16 8 → 16 px 18.3 21.5 – 0.710 3.40 – 95.0 %", "single32 32 px 3.46 0.0120", "1000 learned 256"):
        assert wanted in text
    assert "PSNR" not in page
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
