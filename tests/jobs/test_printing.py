"""What a person reads of the figures."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.console import Console

from jobs.printing import print_figures

FEW = "FID of 64 samples is flagged"


def printed(figures: dict[str, Any], width: int = 120) -> list[str]:
    stream = io.StringIO()
    print_figures(Console(file=stream, width=width), figures)
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def scores(fid: float) -> dict[str, Any]:
    figures = {"samples": 64, "fid": fid, "fid_error": 0.25, "kid": 0.0125, "accuracy": 0.875, "precision": 0.5}
    return {
        **figures,
        "recall": 0.25,
        "per_class": [1.0, None],
        "fid_curve": [[32, 9.0]],
        "flags": [FEW],
        "passport": {},
    }


def test_scores_are_a_row_per_stage_and_kind_without_the_classes() -> None:
    stages = {
        "base8": {"chained": scores(3.0), "real": scores(1.0), "gap": None, "level": 0.0, "cas": {"cas_top1": 0.75}},
        "sr16": {"chained": scores(5.0), "oracle": scores(4.0), "real": scores(1.0), "gap": 1.0, "level": 0.1},
    }
    figures = {"stages": stages, "chosen": {}, "computed": [], "report": "store/reports/demo.html", "seconds": 75.0}
    assert printed(figures) == [
        "images samples fid kid accuracy precision recall CAS gap",
        "base8 chained 64 3 ± 0.25 [1] 0.0125 0.875 0.5 0.25 0.75 -",
        "base8 real 64 1 ± 0.25 [1] 0.0125 0.875 0.5 0.25 - -",
        "sr16 chained 64 5 ± 0.25 [1] 0.0125 0.875 0.5 0.25 - 1",
        "sr16 oracle 64 4 ± 0.25 [1] 0.0125 0.875 0.5 0.25 - -",
        "sr16 real 64 1 ± 0.25 [1] 0.0125 0.875 0.5 0.25 - -",
        "[1] FID of 64 samples is flagged",
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
    row = {key: scores(5.0)[key] for key in ("samples", "fid", "fid_error", "kid", "accuracy", "precision", "recall")}
    cost = {"size": 16, "parameters": 1200, "training_seconds": 75.0, "net_calls": 26}
    cascades = {
        "main": {"stages": ["base8", "sr16"], **cost, **row},
        "alone": {"stages": ["single16"], **cost, **row, "fid": 6.0},
    }
    refused = [{"size": 16, "order": [], "refusal": "not ranked: main and alone differ in samples (64 and 32)"}]
    lines = printed({"stages": stages, "cascades": cascades, "ranking": refused})
    assert lines[-4:] == [
        "cascade stages parameters training net calls size fid kid accuracy precision recall",
        "main base8 -> sr16 1200 1 min 15 s 26 16 5 ± 0.25 0.0125 0.875 0.5 0.25",
        "alone single16 1200 1 min 15 s 26 16 6 ± 0.25 0.0125 0.875 0.5 0.25",
        "cascades of 16 px: not ranked: main and alone differ in samples (64 and 32)",
    ]
    assert lines[5:-4] == [
        "restoration samples psnr consistency accuracy",
        "sr16 64 20.5 0.0001 0.875",
        "bound images bits_per_dim",
        "base8 8 3.5",
    ]
    assert "cascade" not in " ".join(printed({"stages": stages, "cascades": {}}))


LEVEL, KIND = "stages.sr16.sampling.level", "stages.sr16.sampling.augmentation"


def trial(level: float, fid: float, **more: Any) -> dict[str, Any]:
    settings = {LEVEL: level, KIND: "truncated"}
    point: dict[str, Any] = {"settings": settings, "error": None, "objective": fid, "seconds": 3.0, "rungs": []}
    return {**point, "chained": scores(fid), "oracle": scores(4.0), **more}


def test_looks_of_trainings_are_at_steps() -> None:
    pruned = trial(0.3, math.inf, status="pruned", objective=None, chained=None, oracle=None, rungs=[[75, 20.0]])
    lines = searched(trial(0.1, 5.0, status="finished", rungs=[[75, 9.0], [1150, 6.0]]), pruned, kind="training")
    assert lines[1:3] == ["1 0.1 6 (step 1,150) 5 ± 0.25 0.875 4 3.0 s chosen", "2 0.3 20 (step 75) - - - 3.0 s pruned"]


def searched(*points: dict[str, Any], **more: Any) -> list[str]:
    found = {"stage": "sr16", "metric": "chained_fid", "points": points, "chosen": points[0]["settings"], **more}
    return printed({"search": {"chosen": points[0]["settings"], "rounds": [found]}, "chosen": points[0]["settings"]})


def test_a_search_is_a_row_per_trial_the_best_first_and_why_and_what_was_shared() -> None:
    bad = trial(0.5, math.inf, status="failed", error="ValueError: [odd]", chained=None, oracle=None, seconds=0.5)
    looked: dict[str, Any] = {"status": "dropped", "objective": None, "chained": {**scores(3.0), "samples": 16}}
    first, last = trial(0.3, math.inf, **looked, rungs=[[16, 3.0]]), trial(0.2, math.inf, **looked, rungs=[[16, 3.5]])
    chosen, worse = trial(0.1, 5.0, status="finished"), trial(0.05, 6.0, status="finished", oracle=None)
    # A look in fewer steps may say less than the score of whoever was better in it, so it stands by itself.
    assert searched(chosen, bad, last, first, worse, why="lowest chained FID", shared="4 trials: 3 s saved") == [
        "sr16, by chained FID level last look fid accuracy oracle fid took end",
        "1 0.1 - 5 ± 0.25 0.875 4 3.0 s chosen",
        "2 0.05 - 6 ± 0.25 0.875 - 3.0 s -",
        "3 0.3 3 (16) - - - 3.0 s dropped",
        "4 0.2 3.5 (16) - - - 3.0 s dropped",
        "5 0.5 - - - - 0.5 s failed",
        "1 failed: ValueError: [odd]",
        "why: lowest chained FID",
        "shared: 4 trials: 3 s saved",
        f"chosen: {LEVEL} 0.1, {KIND} truncated",
    ]


def test_of_many_trials_the_best_are_shown_and_the_others_counted() -> None:
    ends = ["finished"] * 13 + ["pruned"] * 2
    points = [trial(n / 100, 5.0 + n, status=end) for n, end in enumerate(ends)]
    lines = searched(*points)
    assert len(lines) == 1 + 12 + 1 + 1
    assert lines[12].startswith("12 0.11 16 ± 0.25")
    assert lines[13] == "and 3 more: 1 finished, 2 pruned"


def test_a_search_of_an_older_store_is_printed_too() -> None:
    bad = {"settings": {LEVEL: 0.2, KIND: "truncated"}, "error": "ValueError: [odd]", "seconds": 0.0}
    assert searched(trial(0.1, 5.0), bad)[:3] == [
        "sr16, by chained FID level fid accuracy oracle fid took end",
        "1 0.1 5 ± 0.25 0.875 4 3.0 s chosen",
        "2 0.2 - - - 0.0 s failed",
    ]


def test_a_choice_of_nothing_is_a_choice() -> None:
    chosen = {"stages.a.sampling.ema_length": None, "stages.a.flip": True, "stages.a.b": [0.1, 2], "stages.a.c": "ddim"}
    told = "chosen: stages.a.sampling.ema_length null, stages.a.flip true, stages.a.b [0.1, 2], stages.a.c ddim"
    assert printed({"chosen": chosen}, width=200) == [told]
    points = [trial(0.1, 5.0 + n) | {"settings": {"stages.a.ema": value}} for n, value in enumerate((None, False))]
    assert [line.split()[:3] for line in searched(*points)[1:3]] == [["1", "null", "5"], ["2", "false", "6"]]


def test_a_refused_fid_is_a_dash_with_its_reason_and_other_scorers_stand_beside() -> None:
    dino = {"fid": 80.0, "fid_error": None, "kid": 0.5, "flags": [FEW]}
    refused = {**scores(0.0), "fid": None, "fid_error": None, "flags": ["FID is refused"], "also": {"dinov2": dino}}
    lines = printed({"stages": {"base8": {"chained": refused, "gap": None}}, "ranking": []})
    assert lines == [
        "images samples fid kid accuracy precision recall dinov2 fd",
        "base8 chained 64 - [1] 0.0125 0.875 0.5 0.25 80 [2]",
        "[1] FID is refused",
        "[2] FID of 64 samples is flagged",
    ]


def test_training_and_single_values() -> None:
    figures = {"stages": {"base8": {"step": 100, "loss": 0.04321987}}, "folder": "x" * 200, "count": 3, "nothing": None}
    assert printed(figures, width=60) == ["stages step loss", "base8 100 0.04322", "folder: " + "x" * 200, "count: 3"]
