"""What a report says of scores: errors, refusals, two accuracies, the chain, near images, passports, places."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.comparing import Entrant, gap_refusal, standings, within_error
from pipeline.report.parts import Report, StageSection
from pipeline.report.score_tables import extractor_words, footnotes, passport_tables, score_tables
from pipeline.report.scores import FeatureScores, Scores
from pipeline.report.wording import estimate, verdict
from pipeline.report.writing import render
from pipeline.scoring.passport import Passport


def tree_of(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))


def text_of(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


def section(page: str, name: str) -> ElementTree.Element:
    return next(one for one in tree_of(page).iter("section") if one.attrib["aria-labelledby"] == name)


@pytest.fixture(scope="module")
def small(report: Report) -> Report:
    """The last two stages alone: what the tests read, quick to draw."""
    return report.model_copy(update={"stages": report.stages[1:], "searches": []})


@pytest.fixture(scope="module")
def page(small: Report) -> str:
    return render(small)


def changed(report: Report, name: str, **changes: Any) -> Report:
    """``report`` with other parts of the stage ``name``."""
    stages = [stage.model_copy(update=changes) if stage.name == name else stage for stage in report.stages]
    return report.model_copy(update={"stages": stages})


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (14.4321, 0.1234, "14.43 ± 0.12"),
        (14.4321, None, "14.4"),
        (14.4321, 0.0, "14.4"),
        (None, 0.1, "–"),
        (214.2, 37.0, "214 ± 37"),
        (-0.00012, 0.00051, "-0.00012 ± 0.00051"),
        (12345.6, 234.0, "12,346 ± 234"),
    ],
)
def test_a_figure_is_told_to_the_second_digit_of_its_error(value: float | None, error: float | None, text: str) -> None:
    assert estimate(value, error).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_table_has_the_columns_that_any_row_has_and_all_rows(small: Report) -> None:
    first, second = score_tables(small)
    assert first.features == "the data set's own classifier"
    assert first.headers[:4] == ["FID", "FID∞", "FID to held-out", "KID"]
    assert "sFID" not in first.headers
    kinds = [(row.stage.name, row.kind) for row in first.rows]
    assert kinds == [(name, kind) for name in ("sr16", "sr32") for kind in ("chained", "oracle", "real")]
    assert first.rows[0].cells[0].replace("\N{NO-BREAK SPACE}", " ") == "9.70 ± 0.39"
    assert second.features == "DINOv2"
    assert second.headers == ["FD-DINOv2", "KID", "precision", "recall"]


def test_a_refused_figure_is_a_dash_that_leads_to_its_reason(page: str, small: Report) -> None:
    notes = footnotes(small)
    assert len(notes) == 2
    refused = next(sentence for sentence in notes if "refused" in sentence)
    (table,) = [one for one in section(page, "scores").iter("table") if "FD-DINOv2" in text_of(one)]
    cell = table.findall(".//td[@class='key from']")[0]
    assert text_of(cell) == f"– {notes[refused]}"
    link = cell.find(".//a")
    assert link is not None
    target = next(one for one in tree_of(page).iter("li") if one.attrib.get("id") == link.attrib["href"][1:])
    assert text_of(target) == refused


def test_two_accuracies_have_two_names_and_the_net_is_named(page: str) -> None:
    (table,) = [one for one in section(page, "scores").iter("table") if "Classification accuracy score" in text_of(one)]
    head = text_of(table.find("thead"))  # type: ignore[arg-type]
    assert "Accuracy, judge trained on real images" in head
    assert "Classification accuracy score, trained on samples" in head
    last = text_of((table.find("tbody") or [])[-1])
    assert last == "sr32 32 px 87.4 % 95.4 % 95.0 % 98.5 % 67.4 % 82.4 % 97.0 % 100.0 % small classifier 30"


def test_the_verdict_names_the_net_of_the_classification_accuracy_score(small: Report) -> None:
    told = verdict(small).replace("\N{NO-BREAK SPACE}", " ")
    wanted = "A small classifier trained on 32 px samples alone recognises 67.4 % of real held-out images"
    assert f"{wanted}, against 97.0 % when trained on real ones." in told
    assert "trained on 32 px samples" not in verdict(changed(small, "sr32", cas=None))


def test_the_chain_is_told_by_stage(page: str) -> None:
    found = section(page, "chain")
    row = next(text_of(line) for line in found.iter("tr") if text_of(line).startswith("sr16 16 px"))
    assert row == "sr16 16 px 6.50 3.30 0.900 +2.6 -5.1 +0.0 0.420 0.700 3.40 2.90"
    assert {element.attrib["aria-label"].split(":")[0] for element in found.iter("svg")} == {
        "FID of each stage",
        "Power by frequency",
    }


def test_near_images_stand_beside_samples_with_what_is_ordinary(page: str) -> None:
    found = section(page, "memory")
    told = text_of(found)
    for wanted in (
        "Searched among the first 10,000 of 12,000 training images, in the features of the data set's own classifier",
        "lie at 1.30 from their nearest training image (median); one in a hundred lies below 0.400",
        "1.3 % of 1,024 samples lie below that too",
    ):
        assert wanted in told
    rows = found.findall(".//tbody/tr")
    assert len(rows) == 8
    assert [len(row.findall(".//img")) for row in rows] == [4] * 8
    marked = [cell for row in rows for cell in row.iter("small") if "≪" in text_of(cell)]
    assert [text_of(cell) for cell in marked] == ["0.300 ≪"]


def test_what_was_not_examined_leaves_no_section(bare_report: Report) -> None:
    page = render(bare_report)
    names = {one.attrib["aria-labelledby"] for one in tree_of(page).iter("section")}
    assert not names & {"chain", "memory", "classes"}
    assert 'href="#chain"' not in page
    assert "Passports" not in page
    assert "note-1" not in page


def test_every_row_has_its_passport_and_what_agrees_stands_once(page: str, small: Report) -> None:
    table = passport_tables(small)[0]
    assert table.columns == ["chained", "chained, DINOv2", "oracle", "oracle, DINOv2", "real", "real, DINOv2"]
    fields = dict(table.rows)
    assert fields["judged at"] == ["32 px"]
    assert len(fields["images"]) == 6
    folded = [one for one in section(page, "scores").iter("details") if "sha256" in text_of(one)]
    assert len(folded) == 2
    assert all("open" not in one.attrib for one in folded)
    assert "ef" * 32 in text_of(folded[0])


def test_a_gap_is_not_taken_of_unequal_sample_counts(small: Report) -> None:
    oracle = small.stages[0].oracle
    assert oracle is not None
    assert oracle.passport is not None
    fewer = oracle.model_copy(update={"passport": oracle.passport.model_copy(update={"samples": 100})})
    one = changed(small, "sr16", oracle=fewer)
    stage = one.stages[0]
    assert stage.gap is None
    assert stage.gap_refusal == "No gap at sr16: chained and oracle scores differ in samples."
    assert stage.gap_refusal in footnotes(one)
    row = next(line for line in tree_of(render(one)).iter("tr") if text_of(line).startswith("sr16 16 px 0.1"))
    assert f"– {footnotes(one)[stage.gap_refusal]}" in text_of(row)
    assert small.stages[0].gap == pytest.approx(6.5)


def test_an_oracle_has_the_classes_of_held_out_images(small: Report) -> None:
    chained, oracle = (small.stages[0].rows[kind].passport for kind in ("chained", "oracle"))
    assert chained is not None
    assert gap_refusal(chained.model_copy(update={"labels": "uniform"}), oracle) == ""
    assert gap_refusal(chained.model_copy(update={"neighbours": 5}), oracle) == "neighbours"
    assert gap_refusal(None, oracle) == ""


def passport_of(stage: StageSection) -> Passport:
    assert stage.chained.passport is not None
    return stage.chained.passport


def test_cascades_that_differ_in_what_matters_have_no_places(compared_report: Report) -> None:
    main, alone = compared_report.cascades
    fewer = passport_of(compared_report.stages[-1]).model_copy(update={"samples": 500})
    other = alone.model_copy(update={"chained": alone.chained.model_copy(update={"passport": fewer})})
    both = compared_report.model_copy(update={"cascades": [main, other]})
    refusal = "not ranked: main and alone differ in samples (1,024 and 500)"
    assert both.standings[0].refusal == refusal
    assert both.standings[0].places == {}
    page = render(both)
    assert f"Cascades of 32 px are {refusal}." in page
    assert f"The cascades that make 32 px are {refusal}." in verdict(both)
    assert "lowest FID" not in page
    (table,) = [one for one in tree_of(page).iter("table") if "net calls" in text_of(one)]
    assert [text_of(row[6]) for row in table.find("tbody") or []] == ["–"] * 3


def test_a_row_without_a_passport_or_score(compared_report: Report) -> None:
    passport = passport_of(compared_report.stages[-1])
    known = Entrant("known", 32, 3.0, passport)
    (found,) = standings([known, Entrant("unknown", 32, 2.0, None)])
    assert found.refusal == "not ranked: unknown came without a passport"
    (found,) = standings([known, Entrant("refused", 32, None, None), Entrant("best", 32, 1.0, passport)])
    assert found.places == {"best": 1, "known": 2}
    assert standings([known, Entrant("small", 16, 1.0, passport)]) == []


def test_a_difference_within_its_error_is_said_to_be() -> None:
    assert within_error((3.0, 0.3), (3.7, 0.4))
    assert not within_error((3.0, 0.3), (4.1, 0.4))
    assert not within_error((3.0, None), (3.0, 0.4))


def test_a_close_race_is_told_as_one(compared_report: Report) -> None:
    main, alone = compared_report.cascades
    near = alone.model_copy(update={"chained": main.chained.model_copy(update={"fid": 14.5})})
    close = compared_report.model_copy(update={"cascades": [main, near]})
    assert "The first two differ by less than twice the error of their difference." in verdict(close)
    assert "twice the error" not in verdict(compared_report)


def test_classes_have_their_own_fid_where_it_was_taken(small: Report, page: str) -> None:
    assert "FID, sr32" not in page
    one = changed(small, "sr32", per_class_fid={"disk": 7.25})
    table = text_of(section(render(one), "classes"))
    assert "FID, sr32" in table
    assert re.search(r"disk [^▼]*? 7\.25", table)


def test_scores_during_training_are_a_figure_of_the_training_section(page: str) -> None:
    labels = [element.attrib["aria-label"] for element in section(page, "training").iter("svg")]
    assert any(
        label.startswith("FID during training, in the features of the data set's own classifier: sr16 from")
        for label in labels
    )


def test_a_report_of_an_unknown_net_names_it_as_it_is() -> None:
    assert extractor_words("clip") == "clip"
    assert extractor_words("dinov2-vit-l-14") == "DINOv2 (dinov2-vit-l-14)"
    assert Scores(fid=float("nan"), also={"clip": FeatureScores(fid=float("inf"))}).also["clip"].fid is None
