"""The whole experiment on a real Ray cluster, at the smallest size; and that a second run computes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import workflow
from pipeline.ablation.workflow import run_ablation
from pipeline.drawing import draw_samples
from pipeline.errors import UserError
from pipeline.events import Silence
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.storage import open_storage
from pipeline.tracking.addresses import tracking_uri

SHIPPED = Path(__file__).parents[2] / "jobs" / "experiments"
TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3, level: 0.1}
  single:
    size: 16
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    schedule: {kind: linear_beta, steps: 20, beta_start: 0.005, beta_end: 0.6}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 4}
cascades: {main: [base, sr], alone: [single]}
evaluation:
  samples: 24
  reference: 60
  block: 16
  classifier: {steps: 5, channels: [8, 8]}
  bound: {images: 10, steps: 4}
search:
  samples: 20
  space:
    stages.sr.sampling.level: {values: [0.0, 0.2]}
    stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}
resources: {cpus_per_worker: 0.5, log_every: 2}
"""


class Seen(Silence):
    """Remembers which nodes were computed."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        if not reused:
            self.computed.append(node)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TEXT)
    return load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}"])


@pytest.fixture(scope="module")
def figures(experiment: Experiment, ray_cluster: None) -> dict[str, Any]:
    with pytest.raises(UserError, match="are not all in"):
        workflow.make_report(experiment, path=None)
    return workflow.run(experiment, "report", events=Silence())


def test_without_a_search_section_nothing_is_begun(experiment: Experiment, tmp_path: Path) -> None:
    alone = experiment.model_copy(update={"search": None, "store": str(tmp_path / "store")})
    with pytest.raises(UserError, match="has no search section"):
        workflow.run(alone, "search", events=Silence())
    assert not (tmp_path / "store").exists()


@pytest.mark.ray
def test_every_figure_is_there_and_is_plain_json(figures: dict[str, Any]) -> None:
    json.dumps(figures, allow_nan=False)
    assert set(figures["stages"]) == {"base", "sr", "single"}
    for kind in ("chained", "oracle", "real"):
        assert figures["stages"]["sr"][kind]["samples"] == 24
        assert figures["stages"]["sr"][kind]["fid"] >= 0
    gap = figures["stages"]["sr"]["chained"]["fid"] - figures["stages"]["sr"]["oracle"]["fid"]
    assert figures["stages"]["sr"]["gap"] == pytest.approx(gap)
    assert "oracle" not in figures["stages"]["base"]
    assert figures["chosen"]["stages.sr.sampling.level"] in (0.0, 0.2)
    assert Path(figures["report"]).stat().st_size > 10_000


@pytest.mark.ray
def test_a_single_stage_is_compared_with_the_cascade_on_the_same_real_images(
    figures: dict[str, Any], experiment: Experiment
) -> None:
    main, alone = figures["cascades"]["main"], figures["cascades"]["alone"]
    stages = figures["stages"]
    assert (main["stages"], alone["stages"]) == (["base", "sr"], ["single"])
    assert (main["net_calls"], alone["net_calls"]) == (6, 4)
    assert main["fid"] == stages["sr"]["chained"]["fid"]
    assert alone["fid"] == stages["single"]["chained"]["fid"]
    assert stages["sr"]["real"] == stages["single"]["real"]
    assert main["parameters"] > alone["parameters"] > 0
    results = [path.name for path in (Path(experiment.store) / "results").iterdir()]
    assert len([name for name in results if name.startswith("scores-real-16-")]) == 1  # no trial asks for it
    assert "Cascades side by side" in Path(figures["report"]).read_text()


@pytest.mark.ray
def test_super_resolution_is_scored_against_real_images_and_steps_are_bounded(figures: dict[str, Any]) -> None:
    stages = figures["stages"]
    restored = stages["sr"]["restoration"]
    assert restored["samples"] == 24
    assert restored["bicubic_psnr"] > restored["psnr"] > 0  # a net of four steps is no match
    assert 0 < restored["consistency"] < 1
    assert [name for name in stages if "restoration" in stages[name]] == ["sr"]
    assert [name for name in stages if "bound" in stages[name]] == ["single"]
    assert stages["single"]["bound"]["steps"] == 4
    assert stages["single"]["bound"]["bits_per_dim"] > 0


@pytest.mark.ray
def test_search_scored_each_distinct_setting_once(figures: dict[str, Any], experiment: Experiment) -> None:
    storage = open_storage(experiment.store)
    search = json.loads((workflow.stored(Nodes(experiment).search(), storage).folder / "search.json").read_text())  # type: ignore[union-attr]
    (found,) = search["rounds"]
    assert found["stage"] == "sr"
    assert len(found["points"]) == 3  # two levels times two kinds; at s = 0 the kinds are one
    best = min(found["points"], key=lambda point: point["chained"]["fid"])
    assert best["settings"] == figures["chosen"]


@pytest.mark.ray
def test_a_second_run_computes_nothing(figures: dict[str, Any], experiment: Experiment) -> None:
    seen = Seen()
    again = workflow.run(experiment, "report", events=seen)
    assert seen.computed == []
    assert again["stages"] == figures["stages"]
    assert all(node.reused for node in workflow.plan(experiment))


@pytest.mark.ray
def test_an_evaluation_setting_retrains_nothing(figures: dict[str, Any], experiment: Experiment) -> None:
    changed = experiment.model_copy(
        update={"evaluation": experiment.evaluation.model_copy(update={"neighbours": 2}), "search": None}
    )
    missing = {node.name for node in workflow.plan(changed) if not node.reused}
    assert missing
    kinds = (
        "scores/",
        "chained/",
        "oracle/",
        "chain/",
        "memorisation/",
        "restoration/",
        "bound/",
    )  # the search chose another level
    assert all(name.startswith(kinds) for name in missing)


@pytest.mark.ray
def test_parallel_and_serial_sampling_give_the_same_bits(figures: dict[str, Any], experiment: Experiment) -> None:
    from pipeline.execution import execute

    storage = open_storage(experiment.store)
    parallel = workflow.stored(Nodes(experiment).chained("base"), storage)
    if parallel is None:
        parallel = execute([Nodes(experiment).chained("base")], storage, Silence(), use_ray=True)["chained/base"]
    # Another count is another node, but the same images; a trial samples block after block in one process.
    assert experiment.search is not None
    search = experiment.search.model_copy(update={"samples": 20, "seed": experiment.evaluation.seed})
    fewer = Nodes(experiment.model_copy(update={"search": search}), trial=True).chained("base")
    serial = execute([fewer], storage, Silence(), use_ray=False)["chained/base"]
    images = np.load(parallel.folder / "images.npy")
    assert np.array_equal(np.load(serial.folder / "images.npy"), images[:20])


@pytest.mark.ray
def test_runs_in_mlflow_are_one_tree(figures: dict[str, Any], experiment: Experiment) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri(experiment))
    opened = client.get_experiment_by_name("tiny")
    assert opened is not None
    runs = client.search_runs([opened.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    own = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    children = sorted(run.info.run_name for run in own)
    assert [name for name in children if name.startswith("train/")] == ["train/base", "train/single", "train/sr"]
    evaluations = [name for name in children if name.startswith("evaluate/")]
    assert evaluations == ["evaluate/base", "evaluate/single", "evaluate/sr"]
    assert parents[0].data.metrics["cascade.alone.fid"] == figures["cascades"]["alone"]["fid"]
    assert parents[0].data.metrics["cascade.main.net_calls"] == 6
    assert parents[0].data.metrics["sr.restoration_psnr"] == figures["stages"]["sr"]["restoration"]["psnr"]
    assert parents[0].data.metrics["single.bound_bits_per_dim"] > 0
    (search,) = (run for run in own if run.data.tags["rayfall.kind"] == "search")
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == search.info.run_id]
    assert len(trials) == 3
    assert all(run.info.run_name.startswith("trial/") for run in trials)
    assert [run.data.tags.get("rayfall.chosen") for run in trials].count("true") == 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    stage = next(run for run in runs if run.info.run_name == "train/sr")
    assert [m.step for m in client.get_metric_history(stage.info.run_id, "loss")] == [2, 4]
    lasted = {run.info.run_id: (run.info.start_time, run.info.end_time) for run in runs}
    for goal in ("train", "search", "evaluate"):  # they end what they open again, and add no time
        workflow.run(experiment, goal, events=Silence())
        again = client.search_runs([opened.experiment_id])
        assert {run.info.status for run in again} == {"FINISHED"}
        assert {run.info.run_id: (run.info.start_time, run.info.end_time) for run in again} == lasted
    assert "report.html" in [file.path for file in client.list_artifacts(parents[0].info.run_id)]


@pytest.mark.ray
def test_samples_are_those_that_the_evaluation_scored(
    figures: dict[str, Any], experiment: Experiment, tmp_path: Path
) -> None:
    from PIL import Image

    drawn = draw_samples(experiment, stage="base", count=12, label=None, seed=None, folder=tmp_path, events=Silence())
    assert drawn["count"] == 12
    result = workflow.stored(Nodes(experiment).chained("base"), open_storage(experiment.store))
    assert result is not None
    scored = ((np.load(result.folder / "images.npy")[3] + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)
    (file,) = tmp_path.glob("000003-*.png")
    assert np.array_equal(np.asarray(Image.open(file)), scored)
    with pytest.raises(UserError, match="no class 'cat'"):
        draw_samples(experiment, stage="base", count=1, label="cat", seed=None, folder=tmp_path, events=Silence())


def test_a_bucket_without_an_address_of_mlflow_is_refused_before_anything_is_taken() -> None:
    """The bucket does not exist, so whoever asked it for a claim would say so."""
    settings, told = ["store=s3://no-such-bucket/x"], r"^tracking\.uri must be set where the store is s3://no-such"
    with pytest.raises(UserError, match=told):
        workflow.run(load_experiment(SHIPPED / "demo.yaml", settings), "report", events=Silence())
    ablation = load_experiment(SHIPPED / "ablations" / "truncation.yaml", settings)
    with pytest.raises(UserError, match=told):
        run_ablation(ablation, events=Silence(), command="", program=[])
