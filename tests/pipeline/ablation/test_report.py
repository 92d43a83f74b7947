"""The report of a made-up ablation: whole, self-contained, the same bytes again. In a browser: see its neighbour."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from pipeline.ablation.parts import AblationReport, Replicate
from pipeline.ablation.report import figure_files, render


@pytest.fixture(scope="module")
def page(ablation: AblationReport) -> str:
    return render(ablation)


def _tree(page: str) -> ElementTree.Element:
    """The page as XML: every element closed, every attribute quoted, every & escaped."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>").lstrip())


def _text(page: str) -> str:
    return " ".join(" ".join(_tree(page).itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_page_is_well_formed_and_ids_and_anchors_agree(page: str) -> None:
    tree = _tree(page)
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    pointers = {found for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page) for found in pair if found}
    assert pointers
    assert pointers <= set(ids)


def test_the_page_needs_nothing_from_outside_and_stays_light(page: str, large_ablation: AblationReport) -> None:
    assert not re.search(r"https?:|@import|javascript:|\son\w+=", page)
    sources = re.findall(r'<img src="([^"]{0,30})', page)
    assert len(sources) == 6 + 6 + 1
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert len(page) < 4_000_000
    large = render(large_ablation)
    assert len(large) < 6_000_000
    assert "The last columns are left out" in large
    assert "The last columns are left out" not in page


def test_everything_that_was_compared_is_told(page: str, ablation: AblationReport) -> None:
    text = _text(page)
    for cell in ablation.cells:
        assert text.count(cell.name) > 5
    for wanted in (
        ablation.question, ablation.verdict[0], ablation.verdict[-1], ablation.why, ablation.equalities[0].sentence,
        "1 of 18 replicates failed: noise-large (seed 2)", "the loss is not finite at step 412 <nan & inf>", "2 of 3",
        "21 trainings served the 54", "Computing once what several need saved 1 h 33 min, 50 % of it", "✓ shown",
        "stages.sr32.augmentation.max_level", "[0.4, 0.6]",
        "rayfall ablate jobs/experiments/ablations/augmentation.yaml",
    ):  # fmt: skip
        assert wanted in text
    for cell in ablation.cells:
        assert all(" ".join(command.split()) in text for command in cell.commands)


def test_the_table_has_means_spreads_and_differences_from_the_baseline(page: str) -> None:
    table = next(table for table in _tree(page).iter("table") if "cells" in table.attrib.get("class", ""))
    rows = {
        " ".join("".join(row[0].itertext()).split()): [
            " ".join(" ".join(cell.itertext()).replace("\N{NO-BREAK SPACE}", " ").split()) for cell in row[1:]
        ]
        for row in table.find("tbody") or []
    }
    assert next(iter(rows)).startswith("none baseline")
    assert rows["none baselines = 0"] == ["3", "18.02 ± 0.60", "4.11 ± 0.11", "13.91 ± 0.67", "84.97 ± 0.30 %"]
    small = rows["noise-small chosens = 0.1, non-truncated"]
    assert small[1] == "13.72 ± 0.59 ▲ better: −4.31 [−4.43, −4.19] p < 0.001, found from 0.181"
    assert small[2].startswith("5.11 ± 0.27 +1.0 [−0.3, +2.3] p = ")  # nothing was found, so nothing is claimed
    assert "▼ worse: −7.1" in rows["no-classs = 0.1, non-truncated"][4]  # percentage points


def test_pictures_have_words_and_tables_have_headers(page: str, ablation: AblationReport) -> None:
    tree = _tree(page)
    labels = [element.attrib["aria-label"] for element in tree.iter("svg")]
    names = [
        "accuracy-by-level",
        "compute",
        "differences",
        "equalities",
        "fid-by-level",
        "fid-by-stage",
        "front",
        "loss",
    ]
    assert sorted(figure_files(ablation)) == [f"{name}.svg" for name in names]
    assert len(labels) == len(names)
    assert any("noise-small -4.31 [-4.43, -4.19]" in label for label in labels)
    pictures = [image for image in tree.iter("img") if "src" in image.attrib]
    assert all(len(image.attrib["alt"]) > 15 for image in pictures)
    for table in tree.iter("table"):
        assert all("scope" in header.attrib for header in table.iter("th"))
        assert all(row.find("th") is not None for row in table.iter("tr"))


def test_the_same_report_gives_the_same_bytes(page: str, ablation: AblationReport) -> None:
    again = AblationReport.model_validate_json(ablation.model_dump_json())
    assert render(again) == page


def test_what_is_claimed_of_the_statistics_is_hedged_beside_the_table(page: str) -> None:
    text = _text(page)
    for wanted in (
        "as many seeds would have found 80 % of the time, were the true spread the one seen here, which is itself a "
        "guess", "for all cells at once within one metric, not across the 4 metrics",
        "seeds added after a look at the results make false finds likelier than 5 %",
        "before results are seen, which nothing here can check; each is tested by itself at 5 %, and a relative margin "
        "is itself measured", "Pale lines are the other cells, hollow diamonds the baseline at the levels",
        "Crosses are cells that cannot be ranked for want of seeds",
    ):  # fmt: skip
        assert wanted in text
    assert "beforehand" not in text


def test_costs_are_device_time_and_trainings_have_the_cell_that_shares_them(
    page: str, ablation: AblationReport
) -> None:
    text = _text(page)
    assert "All replicates together took 1 h 33 min of GPU time" in text
    assert "GPU time over all seeds. Reused: computed once for several cells. By the clock: each training" in text
    rows = [row for row in _tree(page).iter("tr") if "".join(row[-1].itertext()).startswith(("that of", "its own"))]
    whose = {"".join(row[0].itertext()).split()[0]: "".join(row[-1].itertext()) for row in rows}
    assert whose["noise-small"] == "that of truncated"
    assert whose["truncated"] == "that of noise-small"
    assert whose["none"] == whose["blur"] == "its own"
    either = ablation.model_copy(update={"sharing": ablation.sharing.model_copy(update={"device": None})})
    told = _text(render(either))
    assert "of device time" in told
    assert "Device time over all seeds: GPU-seconds where GPUs were used, else CPU-core-seconds." in told


def test_what_is_still_to_come_is_told_as_that(ablation: AblationReport) -> None:
    waiting = [Replicate(seed=seed, status="missing") for seed in (1, 2)]
    cells = [
        cell.model_copy(update={"replicates": [cell.replicates[0], *waiting], "differences": {}})
        for cell in ablation.cells
    ]
    first = cells[0].replicates[0].model_copy(update={"sweep": []})
    cells[0] = cells[0].model_copy(update={"replicates": [first, *waiting]})
    text = _text(render(ablation.model_copy(update={"cells": cells})))
    assert "Pale lines are the other cells; the ring" in text, "the baseline searched nothing"
    assert "12 of 18 replicates are still to come" in text
    assert "failed" not in text.split("At a glance", 2)[2].split("Claims of equality")[0].replace("neither failed", "")
    assert "1 of 3 2 to come" in text


def test_cells_at_fixed_levels_have_a_panel_and_its_words(fixed_ablation: AblationReport) -> None:
    page = render(fixed_ablation)
    assert {"fid-by-level.svg", "accuracy-by-level.svg"} <= set(figure_files(fixed_ablation))
    text = _text(page)
    assert "FID of sr32 in the cells, which differ in nothing but s and kind" in text
    assert "The cell at s = 0 stands for both kinds; the ring marks the chosen cell." in text
    assert "A search draws fewer samples" not in text
    assert "All panels have the same axes" not in text


def test_missing_parts_leave_no_holes(bare_ablation: AblationReport) -> None:
    page = render(bare_ablation)
    text = _text(page)
    assert "<svg" not in page
    assert not re.search(r"\bNone\b|\bnan\b", text)
    assert "No images were kept." in text
    assert "✕ b, seed 0 lost" in text
    assert "No cell changes a setting." in text
