"""The search in the report: every round has its section, its figure and all of its trials, and a browser is content."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.collecting.searches import sections_of
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.report.parts import Report
from pipeline.report.search_figures import settings_figure
from pipeline.report.search_parts import SearchSection
from pipeline.report.trial_figures import front_figure, rungs_figure
from pipeline.report.writing import figure_files, render
from pipeline.search.choice import best_of, front_of, why

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
SVG = "{http://www.w3.org/2000/svg}"
Point = dict[str, Any]


def _scores(fid: float, accuracy: float, samples: int, seed: int) -> dict[str, Any]:
    """Of two trials, what is left out moves both alike: the paired error is far below either's own."""
    common = np.random.default_rng(samples).normal(0, 0.03 * fid / 4, 20)
    own = np.random.default_rng(seed).normal(0, 0.0005 * fid, 20)
    without = [float(fid + value) for value in common + own]
    return {"fid": fid, "fid_error": 0.03 * fid, "fid_without": without, "accuracy": accuracy, "samples": samples,
            "recall": 0.4 + accuracy / 6}  # fmt: skip


def _point(settings: dict[str, Any], fid: float, accuracy: float, oracle: float | None = None, **more: Any) -> Point:
    seed, samples = int(1000 * fid), more.get("samples", 512)
    found = {"chained": _scores(fid, accuracy, samples, seed), "oracle": None}
    if oracle is not None:
        found["oracle"] = _scores(oracle, 0.95, samples, seed + 1)
    return {"settings": settings, "status": "finished", "error": None, "objective": fid, "samples": samples,
            "seconds": 4.0 + accuracy, "rungs": [], "start_seconds": None, **found, **more}  # fmt: skip


def _round(stage: str, points: list[Point], **more: Any) -> dict[str, Any]:
    best = best_of(points)
    return {"stage": stage, "metric": "chained_fid", "kind": "sampling", "points": points, "front": front_of(points),
            "chosen": points[best]["settings"], "why": why(points, best, metric="chained_fid"), **more}  # fmt: skip


def levels() -> dict[str, Any]:
    """A sweep of s with both kinds, screened: the largest levels cannot win."""
    points = []
    for kind, cost in (("truncated", 0.0), ("non_truncated", 3.0)):
        for level in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
            if kind == "non_truncated" and level == 0:
                continue
            settings = {"stages.sr16.sampling.level": level, "stages.sr16.sampling.augmentation": kind}
            fid = 14.0 + 120 * (level - 0.12) ** 2 + cost * level * 2
            accuracy = 0.88 - 2 * (level - 0.05) ** 2 - cost * level / 40
            more: dict[str, Any] = {"rungs": [[128, 2.1 * fid]]}
            if level > 0.25:
                more |= {"status": "dropped", "samples": 128, "objective": float("inf")}
                fid *= 2.1
            points.append(_point(settings, fid, accuracy, 6.0 + 40 * level, **more))
    sharing = {"wall_seconds": 74.0, "busy_share": 0.934}
    told = "13 trials: what they share (41 s) was computed once and not by each of them, 467 s saved of 571 s"
    return _round("sr16", points, sharing=sharing, shared=told)


def samplers() -> dict[str, Any]:
    """Sampler x steps."""
    points = [
        _point(
            {"stages.base8.sampling.sampler": sampler, "stages.base8.sampling.steps": steps},
            4.0 + 60 / steps**rate, 0.93 - 0.9 / steps**rate, seconds=0.3 * steps, net_calls=2 * steps,
        )
        for sampler, rate in (("ddim", 1.0), ("ddpm", 0.8), ("dpmpp", 1.4))
        for steps in (4, 8, 16, 32, 64)
    ]  # fmt: skip
    return _round("base8", points)


def _early_end(number: int, fid: float, rungs: list[Any]) -> dict[str, Any]:
    """Two trials failed, and those that were bad were pruned."""
    nothing = {"chained": None, "oracle": None, "objective": float("inf"), "samples": 0, "scoring_seconds": 0.0}
    if number in (5, 11):
        error = "RuntimeError: the loss of step 213 is not finite; lower training.learning_rate"
        failed = {"status": "failed", "error": error, "rungs": rungs[: number // 8]}
        return nothing | failed | {"seconds": 31.0, "training_seconds": 20.0}
    if fid > 20:
        pruned = {"status": "pruned", "rungs": rungs[: 1 + (fid < 27)]}
        return nothing | pruned | {"seconds": 60.0, "training_seconds": 48.0}
    return {}


def trainings() -> dict[str, Any]:
    """Four settings of training and one of sampling, with trials that were pruned and trials that failed."""
    dice, points, own = np.random.default_rng(7), [], "stages.sr16."
    for number in range(18):
        settings: dict[str, Any] = {
            f"{own}training.learning_rate": float(10 ** dice.uniform(-4, -2)),
            f"{own}augmentation.noise.levels": [[0.0, 0.1], [0.0, 0.3], [0.0, 0.6]][number % 3],
            f"{own}net.dropout": float(dice.uniform(0, 0.3)),
            f"{own}augmentation.blur": None if number % 2 else {"probability": 0.5, "sigma": [0.4, 0.6]},
            f"{own}sampling.level": [0.0, 0.1, 0.2][(number * 7) % 3],
        }
        rate = np.log10(settings[f"{own}training.learning_rate"])
        fid = float(12 + 9 * (rate + 2.8) ** 2 + 20 * settings[f"{own}net.dropout"] + dice.normal(0, 0.8))
        rungs = [[step, fid * (1 + 3 * 100 / step)] for step in (100, 300, 900)]
        more: dict[str, Any] = {
            "rungs": rungs,
            "seconds": 210.0,
            "cost_hours": 0.05,
            "start_seconds": 7.0 + number / 5,
            "training_seconds": 150.0,
            "scoring_seconds": 40.0,
        }
        more |= _early_end(number, fid, rungs)
        accuracy = 0.9 - fid / 200 + float(dice.normal(0, 0.006))
        points.append(_point(settings, fid, accuracy, fid / 2, samples=1000) | more)
    return _round("sr16", points, kind="training", sharing={"wall_seconds": 1310.0, "busy_share": None})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    file = tmp_path_factory.mktemp("searched") / "x.yaml"
    stage = "net: {kind: unet, channels: 8}, training: {steps: 1, batch_size: 8}"
    file.write_text(
        "name: x\ndata: {kind: drawn, size: 16}\nstages:\n"
        f"  base8: {{size: 8, {stage}}}\n"
        f"  sr16: {{size: 16, low_res_size: 8, augmentation: {{noise: {{levels: [0, 1]}}}}, {stage}}}\n"
        "search: {space: {stages.sr16.sampling.level: {values: [0.0, 0.1]}}, budget: {gpu_hours: 1.5}}\n"
    )
    return load_experiment(file)


@pytest.fixture(scope="module")
def sections(experiment: Experiment) -> list[SearchSection]:
    rounds, spent = [samplers(), levels(), trainings()], {"hours": 0.5, "gpu_hours": 1.25}
    return sections_of(experiment, {"chosen": {}, "rounds": rounds, "spent": spent})


@pytest.fixture(scope="module")
def searched(report: Report, sections: list[SearchSection]) -> Report:
    return report.model_copy(update={"searches": sections})


@pytest.fixture(scope="module")
def page(searched: Report) -> str:
    return render(searched)


def _tree(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))


def _text(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


def _rows(page: str) -> list[list[list[str]]]:
    """The cells of every table of trials."""
    tables = [table for table in _tree(page).iter("table") if "sortable" in table.attrib.get("class", "")]
    return [[[_text(cell) for cell in row] for row in table.iter("tr")] for table in tables]


def test_every_round_has_its_figures_and_a_row_for_every_trial(
    searched: Report, page: str, sections: list[SearchSection]
) -> None:
    mine = {name for name in figure_files(searched) if name.split("-")[0] in ("level", "search", "front", "rungs")}
    assert mine == {
        "search-base8.svg", "front-base8.svg", "level-sr16.svg", "front-sr16.svg",
        "search-sr16-2.svg", "front-sr16-2.svg", "rungs-sr16-2.svg",
    }  # fmt: skip
    assert [len(rows) - 1 for rows in _rows(page)] == [len(section.points) for section in sections]
    ids = [element.attrib["id"] for element in _tree(page).iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))


def test_tables_name_what_differs_and_mark_the_chosen_and_the_front(page: str) -> None:
    sampler, level, training = _rows(page)
    assert sampler[0][:3] == ["place", "sampler", "steps"]
    assert sampler[1][:4] == ["1 *", "dpmpp", "64", "4.18 ± 0.13"]
    assert level[0][:3] == ["place", "s log-SNR, step of 1000", "kind"]
    chosen = next(row for row in level if row[0] == "1 *")
    assert chosen[1:6] == ["0.1 +3.7, 93", "truncated", "14.05 ± 0.42", "–", "10.00 ± 0.30"]
    other = next(row for row in level if row[0] == "2")
    assert other[4].startswith("+0.06")  # behind the chosen, by far less than either's own error
    assert float(other[4].split(" ± ")[1]) < 0.1
    assert [row[0] for row in level].count("dropped") == 4
    assert training[0][1:6] == ["learning_rate", "noise.levels", "dropout", "blur", "level"]
    assert [row[0] for row in training[1:]] == ["1 *", *map(str, range(2, 10)), *["pruned"] * 7, *["failed"] * 2]


def test_a_round_that_never_began_says_why_and_shows_nothing(report: Report, experiment: Experiment) -> None:
    empty = {"stage": "sr16", "metric": "chained_fid", "kind": "sampling", "points": [], "chosen": {}, "front": []}
    found = empty | {"why": "the budget was spent", "shared": "", "sharing": {"wall_seconds": 0.1, "busy_share": None}}
    sections = sections_of(experiment, {"rounds": [found], "spent": {"hours": 2.0, "gpu_hours": 1.75}})
    text = _text(_tree(render(report.model_copy(update={"searches": sections}))))
    assert "Why: the budget was spent" in text
    assert "The search spent 1.75 of 1.5 GPU-hours." in text


def test_the_text_says_why_what_was_shared_and_what_was_spent(page: str) -> None:
    text = _text(_tree(page))
    assert "Why: lowest chained FID (14 ± 0.42) of 13 trials (4 dropped); " in text
    assert "13 trials: what they share (41 s) was computed once" in text
    assert "The round took 1 min 14 s by the clock, 93.4 % of the actors' time inside trials." in text
    assert "From its begin to its first step a training took 8.7 s on average, 10 s at most." in text
    assert "The search spent 1.25 of 1.5 GPU-hours." in text
    assert "2 failed: RuntimeError: the loss of step 213 is not finite" in text


def _words(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_figure_fits_what_was_searched(sections: list[SearchSection]) -> None:
    sampler, level, training = (_words(settings_figure(section)) for section in sections)
    assert {"chained, sampler ddim", "chained, sampler dpmpp", "steps", "64", "chosen"} <= set(sampler)
    assert {"log-SNR", "chained, truncated", "chained, non-truncated", "oracle", "dropped", "×2"} <= set(level)
    assert {"learning_rate", "dropout", "blur", "null", "[0, 0.3]", "pruned", "failed"} <= set(training)


def test_one_setting_alone_is_an_axis_of_numbers_or_of_names(experiment: Experiment) -> None:
    for values, labels in (((1.0, 1.5, 2.0), {"1", "1.5", "2"}), ((None, [0.1, 0.9]), {"null", "[0.1, 0.9]"})):
        points = [_point({"stages.base8.sampling.guidance": one}, 5.0 + n, 0.9) for n, one in enumerate(values)]
        (section,) = sections_of(experiment, {"rounds": [_round("base8", points)]})
        assert {"guidance", *labels} <= set(_words(settings_figure(section)))


def test_values_that_were_drawn_have_round_ticks_that_do_not_meet(experiment: Experiment) -> None:
    rates = (0.0005792, 0.001158, 0.001459, 0.001839, 0.002317, 0.003677)
    points = [_point({"stages.base8.training.learning_rate": one}, 5.0 + n, 0.9) for n, one in enumerate(rates)]
    (section,) = sections_of(experiment, {"rounds": [_round("base8", points)]})
    words = set(_words(settings_figure(section)))
    assert {"0.001", "0.002"} <= words
    assert not {f"{rate:g}" for rate in rates} & words


def test_trials_that_ended_early_are_never_on_the_front(experiment: Experiment) -> None:
    good = [_point({"stages.base8.sampling.steps": n}, 6.0 - n, 0.9 - n / 20) for n in (1, 2)]
    best = _point({"stages.base8.sampling.steps": 3}, 1.0, 1.0) | {"status": "dropped", "objective": float("inf")}
    (section,) = sections_of(experiment, {"rounds": [_round("base8", [*good, best])]})
    assert section.front == [1, 0]
    words = set(_words(front_figure(section)))
    assert {"Pareto front", "chosen", "1", "2"} <= words
    assert "dropped" not in words


def test_looks_are_drawn_of_trials_that_train(sections: list[SearchSection]) -> None:
    assert [bool(rungs_figure(section)) for section in sections] == [False, False, True]
    assert {"chosen", "pruned", "failed", "100", "300", "900"} <= set(_words(rungs_figure(sections[2])))


_SORT = """<script>
const place = Array.from(document.querySelectorAll("table.sortable")).map(table => {
  const column = Array.from(table.tHead.rows[0].cells).findIndex(cell => cell.textContent.startsWith("accuracy"));
  const read = () => Array.from(table.tBodies[0].rows).map(row => row.cells[column].textContent).join(" ");
  const before = read(), click = () => table.tHead.rows[0].cells[column].firstChild.click();
  click(); const up = read(); click();
  return [before, up, read()];
});
console.log("SORTED " + JSON.stringify(place));
</script></main>"""


def _console(page: str, folder: Path) -> list[str]:
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--screenshot={folder / 'shot.png'}"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert (folder / "shot.png").is_file(), done.stderr[-500:]
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_runs_the_one_script_and_a_click_sorts(page: str, tmp_path: Path) -> None:
    assert _console(page, tmp_path) == []
    # The test's own clicks need a page whose policy lets them run; the script must have been run before them.
    end = page.index("</main>")
    own = page[page.index("<script>", end) : page.index("</script>", end) + len("</script>")]
    free = re.sub(r"; script-src 'sha256-[^']+'", "; script-src 'unsafe-inline'", page).replace(own, "")
    (line,) = _console(free.replace("</main>", own + _SORT), tmp_path)
    told = re.search(r'SORTED (\[\[.*\]\])"', line)
    assert told, line
    for before, up, down in json.loads(told[1]):
        shares = [[float(word) for word in re.findall(r"[\d.]+", row)] for row in (before, up, down)]
        assert shares[1] == sorted(shares[0])
        assert shares[2] == shares[1][::-1]
        assert up.rstrip("– ") == up.rstrip("– ").replace("–", "")  # what is missing stays below, either way
        assert down.rstrip("– ") == down.rstrip("– ").replace("–", "")
