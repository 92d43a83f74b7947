"""An ablation on a real Ray cluster at the smallest size: what it computes, what it shares, what it survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablation.run import Ablation
from pipeline.ablation.workflow import plan_ablation, report_ablation, run_ablation
from pipeline.dag import stored
from pipeline.errors import UserError
from pipeline.events import Silence
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes

TEXT = """\
name: tiny_ablation
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 2, batch_size: 8}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 2, batch_size: 8}
    sampling: {steps: 3}
evaluation: {samples: 24, reference: 60, block: 16, memorised: 0, classifier: {steps: 5, channels: [8, 8]}}
resources: {cpus_per_worker: 0.5, log_every: 2, sampling_workers: 1}
ablation:
  baseline: clean
  cells:
    clean: {}
    noisy:
      search:
        samples: 20
        space:
          stages.sr.sampling.level: {values: [0.1, 0.3]}
          stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}
    # Its first step throws the weights out of range: the loss of the next is no number.
    broken: {stages.sr.training: {steps: 2, batch_size: 8, learning_rate: 1.0e+30, warmup: 0}}
  equal: [{cells: [clean, noisy], relative_margin: 0.5}]
"""


class Seen(Silence):
    """Remembers which nodes were computed."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        del seconds
        if not reused:
            self.computed.append(node)


def load(folder: Path, *settings: str) -> Experiment:
    file = folder / "tiny.yaml"
    file.write_text(TEXT)
    return load_experiment(file, [f"store={folder / 'store'}", *settings])


def ablate(experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    seen = Seen()
    figures = run_ablation(experiment, events=seen, command="rayfall ablate", program=["rayfall", "run", "tiny.yaml"])
    return figures, seen.computed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def first(folder: Path, ray_cluster: None) -> tuple[dict[str, Any], list[str]]:
    return ablate(load(folder))


def test_every_cell_has_a_figure_for_every_seed_and_the_broken_one_is_shown_as_failed(
    first: tuple[dict[str, Any], list[str]],
) -> None:
    figures, _ = first
    json.dumps(figures, allow_nan=False)

    assert {name: cell["n"] for name, cell in figures["cells"].items()} == {"clean": 3, "noisy": 3, "broken": 0}
    assert list(figures["failed"]) == [f"broken, seed {seed}" for seed in (0, 1, 2)]
    assert all("train/sr failed: FloatingPointError" in why for why in figures["failed"].values())
    difference = figures["cells"]["noisy"]["differences"]["chained_fid"]
    assert difference["n"] == 3
    assert difference["low"] < difference["mean"] < difference["high"]
    assert len(figures["equalities"]) == 1


def test_weights_and_low_res_images_are_made_once_for_the_cells_that_share_them(
    first: tuple[dict[str, Any], list[str]],
) -> None:
    figures, computed = first
    trained = [name for name in computed if ": train/" in name]

    # base, and the stage above it as declared, under each of three seeds; the broken one never ends.
    assert len(trained) == len(set(trained)) == figures["sharing"]["trainings_run"] == 6
    assert figures["sharing"]["trainings_asked"] == 15
    for seed in (0, 1, 2):
        # What is truncated on the way is another trajectory than what is finished.
        drawn = {name for name in computed if name.startswith(f"seed {seed}") and name.endswith(": chained/base")}
        assert f"seed {seed}, clean and broken: chained/base" in drawn or drawn == {
            f"seed {seed}, 3 cells: chained/base"
        }
    for name in ("data", "classifier/features", "classifier/judge", "real/train/16"):
        assert computed.count(name) <= 1  # none: the search, which needs them too, was first


def test_the_same_command_computes_nothing_but_what_failed(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    figures, computed = ablate(load(folder))

    assert computed == []  # what failed fails again, so nothing of it is finished
    assert list(figures["failed"]) == list(first[0]["failed"])
    assert figures["cells"] == first[0]["cells"]


def test_a_later_seed_computes_its_own_replicates_alone(first: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    without = "ablation.cells={clean: {}, noisy: {stages.sr.sampling.steps: 2}}"
    more = load(folder, without, "ablation.seeds=[0, 1, 2, 5]")
    plan = {(row["cell"], row["seed"]): row for row in plan_ablation(more)["replicates"]}
    assert {key: row["trains"] for key, row in plan.items() if row["trains"]} == {("clean", 5): ["base", "sr"]}

    figures, computed = ablate(more)

    assert {name: cell["n"] for name, cell in figures["cells"].items()} == {"clean": 4, "noisy": 4}
    trained = {name for name in computed if ": train/" in name}
    assert trained == {"seed 5, clean and noisy: train/base", "seed 5, clean and noisy: train/sr"}
    assert not any(name.startswith("seed 0, clean") for name in computed)


def test_a_replicate_alone_is_an_experiment_whose_results_are_there(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    ablation = Ablation.of(load(folder))
    cell = next(cell for cell in ablation.cells if cell.replicate.name == "noisy, seed 1")

    found = stored(Nodes(cell.replicate.experiment).search(), cell.storage)
    assert found is not None
    assert cell.experiment.stages["sr"].sampling.level == found.summary["chosen"]["stages.sr.sampling.level"]
    scores = stored(Nodes(cell.experiment).scores("chained", "sr"), cell.storage)
    assert scores is not None
    assert scores.summary["passport"]["seed"] == cell.experiment.evaluation.seed


def test_the_report_is_written_again_from_what_is_stored(first: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    out = folder / "again.html"
    figures = report_ablation(load(folder), path=out, command="rayfall ablate", program=["rayfall", "run", "tiny.yaml"])

    assert figures["cells"] == first[0]["cells"]
    page = out.read_text()
    assert "FloatingPointError" in page
    assert "noisy" in page


def test_no_report_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing of the ablation tiny_ablation is whole"):
        report_ablation(load(tmp_path), path=None, command="rayfall ablate", program=["rayfall"])
