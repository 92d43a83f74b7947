"""What a person reads of the figures."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from jobs.printing import print_figures


def printed(figures: dict[str, Any], width: int = 120) -> list[str]:
    stream = io.StringIO()
    print_figures(Console(file=stream, width=width), figures)
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def scores(fid: float) -> dict[str, Any]:
    return {"samples": 64, "fid": fid, "accuracy": 0.875, "per_class": [1.0, None], "precision": 0.5, "recall": 0.25}


def test_scores_are_a_row_per_stage_and_kind_without_the_classes() -> None:
    stages = {
        "base8": {"chained": scores(3.0), "real": scores(1.0), "gap": None, "level": 0.0},
        "sr16": {"chained": scores(5.0), "oracle": scores(4.0), "real": scores(1.0), "gap": 1.0, "level": 0.1},
    }
    figures = {"stages": stages, "chosen": {}, "computed": [], "report": "store/reports/demo.html", "seconds": 75.0}
    assert printed(figures) == [
        "images samples fid accuracy precision recall gap",
        "base8 chained 64 3 0.875 0.5 0.25 -",
        "base8 real 64 1 0.875 0.5 0.25 -",
        "sr16 chained 64 5 0.875 0.5 0.25 1",
        "sr16 oracle 64 4 0.875 0.5 0.25 -",
        "sr16 real 64 1 0.875 0.5 0.25 -",
        "computed: nothing, everything was stored",
        "report: store/reports/demo.html",
        "took: 1 min 15 s",
    ]


def test_restoration_bounds_and_cascades_are_tables_of_their_own() -> None:
    restoration = {"samples": 64, "psnr": 20.5, "ssim": None, "consistency": 1e-4}
    stages = {
        "base8": {"chained": scores(3.0), "bound": {"images": 8, "bits_per_dim": 3.5}},
        "sr16": {"chained": scores(5.0), "oracle": scores(4.0), "restoration": restoration},
    }
    row = {key: value for key, value in scores(5.0).items() if key != "per_class"}
    cost = {"size": 16, "parameters": 1200, "training_seconds": 75.0, "net_calls": 26}
    cascades = {
        "main": {"stages": ["base8", "sr16"], **cost, **row},
        "alone": {"stages": ["single16"], **cost, **row, "fid": 6.0},
    }
    lines = printed({"stages": stages, "cascades": cascades})
    assert lines[-3:] == [
        "cascade stages parameters training net calls size fid accuracy precision recall",
        "main base8 -> sr16 1200 1 min 15 s 26 16 5 0.875 0.5 0.25",
        "alone single16 1200 1 min 15 s 26 16 6 0.875 0.5 0.25",
    ]
    assert lines[4:-3] == [
        "restoration samples psnr consistency accuracy",
        "sr16 64 20.5 0.0001 0.875",
        "bound images bits_per_dim",
        "base8 8 3.5",
    ]
    assert "cascade" not in " ".join(printed({"stages": stages, "cascades": {}}))


def test_a_search_is_a_row_per_trial_and_what_was_chosen() -> None:
    chosen = {"stages.sr16.sampling.level": 0.1}
    good = {"settings": chosen, "error": None, "chained": scores(5.0), "oracle": scores(4.0), "seconds": 3.0}
    bad = {"settings": {"stages.sr16.sampling.level": 0.2}, "error": "ValueError: [odd]", "seconds": 0.0}
    rounds = [{"stage": "sr16", "metric": "chained_fid", "points": [good, bad], "chosen": chosen}]
    assert printed({"search": {"chosen": chosen, "rounds": rounds}}) == [
        "sr16, by chained_fid samples fid accuracy precision recall oracle fid error",
        "level 0.1 64 5 0.875 0.5 0.25 4 -",
        "level 0.2 - - - - - - ValueError: [odd]",
        "chosen: stages.sr16.sampling.level 0.1",
    ]


def test_a_choice_of_nothing_is_a_choice() -> None:
    chosen = {"stages.a.sampling.ema_length": None, "stages.a.flip": True, "stages.a.b": [0.1, 2], "stages.a.c": "ddim"}
    told = "chosen: stages.a.sampling.ema_length null, stages.a.flip true, stages.a.b [0.1, 2], stages.a.c ddim"
    assert printed({"chosen": chosen}, width=200) == [told]
    point = {"settings": {"stages.a.sampling.ema_length": None}, "error": None, "chained": scores(5.0), "oracle": None}
    rounds = [{"stage": "a", "metric": "chained_fid", "points": [point], "chosen": {}}]
    assert printed({"search": {"chosen": chosen, "rounds": rounds}}, width=200)[1].startswith("ema_length null 64 5")


def test_training_and_single_values() -> None:
    figures = {"stages": {"base8": {"step": 100, "loss": 0.04321987}}, "folder": "x" * 200, "count": 3, "nothing": None}
    assert printed(figures, width=60) == ["stages step loss", "base8 100 0.04322", "folder: " + "x" * 200, "count: 3"]
