"""What scores need of a data set that is there already is asked when the graph is drawn up, and of training not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.manifest import Split, load_manifest, save_manifest
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.objects import open_objects
from pipeline.storage import open_storage
from pipeline.watching.run import Watch

NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
STEPS = {"kind": "linear_beta", "steps": 20, "beta_start": 0.005, "beta_end": 0.6}
SPACE = {"stages.base.sampling.steps": {"values": [2, 3]}}


def nodes_of(folder: Path, evaluation: dict[str, Any], **changes: Any) -> Nodes:
    """Of a stage on the shards in ``folder``."""
    stage = {"size": 8, "net": NET, "schedule": STEPS, "training": {"steps": 3, "batch_size": 8}}
    fields = {
        "name": "x",
        "store": str(folder / "store"),
        "data": {"kind": "shards", "path": str(folder / "shards")},
        "stages": {"base": stage},
        "evaluation": {"reference": 20, **evaluation},
    }
    return Nodes(Experiment.model_validate(fields | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images to train on and ten held out."""
    ingest_drawn(tmp_path / "shards", seed=0, forms=make_forms([(8, "raw")]), train=20, val=10, shard_size=8)
    return tmp_path


@pytest.mark.parametrize(
    ("evaluation", "changes", "setting"),
    [
        ({"samples": 11}, {}, "evaluation.held_out"),
        ({"samples": 400, "held_out": 11}, {}, "evaluation.held_out"),
        ({"samples": 10, "bound": {"images": 11}}, {}, "evaluation.bound.images"),
        ({"samples": 10}, {"search": {"samples": 11, "space": SPACE, "metric": "chained_accuracy"}}, "search.samples"),
    ],
)
def test_more_held_out_images_than_there_are_are_refused_at_once(
    folder: Path, evaluation: dict[str, Any], changes: dict[str, Any], setting: str
) -> None:
    nodes = nodes_of(folder, evaluation, **changes)
    with pytest.raises(UserError, match=rf"of 11 held-out images, and .*shards has 10; set {setting} to at most"):
        nodes.evaluation()
    assert nodes.train("base").digest, "training asks for none"


def test_as_many_as_there_are_will_do(folder: Path) -> None:
    evaluation = {"samples": 400, "held_out": 10, "bound": {"images": 10}}
    assert "scores/real/8" in {node.name for node in nodes_of(folder, evaluation).evaluation()}


def test_a_data_set_without_held_out_images_is_for_training_alone(folder: Path) -> None:
    whole = load_manifest(folder / "shards")
    none = whole.splits["val"].shards["8-raw"].model_copy(update={"bytes": (), "sha256": (), "index_sha256": ()})
    splits = {**whole.splits, "val": Split(counts=(), shards={"8-raw": none})}
    save_manifest(open_objects(folder / "shards"), whole.model_copy(update={"splits": splits}).sealed())
    nodes = nodes_of(folder, {"samples": 10})
    assert nodes.train("base").digest
    with pytest.raises(UserError, match="shards has no held-out images, as samples of a cascade never have"):
        nodes.evaluation()
    with pytest.raises(UserError, match=r"remove evaluation\.during to train"):
        _ = nodes_of(folder, {"samples": 10, "during": {"every": 2}}).watchers


def test_scores_while_stages_train_ask_for_no_more_held_out_images_than_there_are(folder: Path) -> None:
    nodes = nodes_of(folder, {"samples": 400, "during": {"every": 2}})
    with pytest.raises(UserError, match="scores are asked of 400 held-out images"):
        nodes.evaluation()
    watch = Watch(nodes, ["base"], open_storage(folder / "store"), print)
    assert [node.name for node in watch.targets] == ["classifier/features", "classifier/judge"]


def test_dropout_is_not_both_compiled_and_computed_again(folder: Path) -> None:
    both, net = {"compile": True, "recompute": 8}, {**NET, "dropout": 0.1}
    stages = {"base": {"size": 8, "net": net, "schedule": STEPS, "training": {"steps": 3, "batch_size": 8}}}
    with pytest.raises(ValueError, match=r"change the dropout of stages\.base: .*; leave out one of the two"):
        nodes_of(folder, {"samples": 10}, stages=stages, resources=both)
    stages["base"]["net"] = {**net, "dropout_below": 4}
    for fine in (stages, {"base": {**stages["base"], "net": NET}}):
        nodes_of(folder, {"samples": 10}, stages=fine, resources=both)


def test_graphs_are_launched_on_gpus(folder: Path) -> None:
    asked = {"compile": "graphs", "gpus_per_worker": 0.5}
    assert nodes_of(folder, {"samples": 10}, resources=asked).train("base").context["compile"] == "graphs"
    with pytest.raises(ValueError, match=r"gpus_per_worker is 0; give workers GPUs, or set compile to true"):
        nodes_of(folder, {"samples": 10}, resources={**asked, "gpus_per_worker": 0})
    with pytest.raises(ValueError, match="compile"):
        nodes_of(folder, {"samples": 10}, resources={"compile": "nets"})


@pytest.mark.parametrize(("setting", "plainly", "otherwise"), [("recompute", None, 8), ("compile", False, True)])
def test_how_nets_are_computed_is_told_to_the_workers_and_tells_no_results_apart(
    folder: Path, setting: str, plainly: Any, otherwise: Any
) -> None:
    plain = nodes_of(folder, {"samples": 10}).train("base")
    other = nodes_of(folder, {"samples": 10}, resources={setting: otherwise}).train("base")
    assert (plain.context[setting], other.context[setting]) == (plainly, otherwise)
    assert other.digest == plain.digest
    assert other.context["run"] == plain.context["run"]


def test_drawing_is_told_whether_nets_are_compiled(folder: Path) -> None:
    plain, other = (
        nodes_of(folder, {"samples": 10}, resources={"compiled_sampling": asked}).chained("base")
        for asked in (False, True)
    )
    assert (plain.context["compiled_sampling"], other.context["compiled_sampling"]) == (False, True)
    assert other.digest == plain.digest
