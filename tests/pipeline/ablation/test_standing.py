"""Where an ablation stands, by its store: replicates counted, shared nodes looked at once, failures told."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.ablation.cells import replicates_of
from pipeline.ablation.failures import Failures
from pipeline.ablation.run import Cell
from pipeline.ablation.standing import ablation_standing
from pipeline.commits import CommitLog
from pipeline.dag import source_of
from pipeline.experiment import load_experiment
from pipeline.session import at_work
from pipeline.storage import open_storage

SHIPPED = Path(__file__).parents[3] / "jobs" / "experiments" / "ablations" / "truncation.yaml"


def test_replicates_are_counted_and_failures_told(tmp_path: Path) -> None:
    experiment = load_experiment(SHIPPED, [f"store={tmp_path}"])
    found = ablation_standing(experiment)
    assert all(set(row.counts) == {"waiting"} and row.failure is None for row in found.replicates)

    storage = open_storage(tmp_path)
    first, second = (Cell(replicate, storage) for replicate in replicates_of(experiment)[:2])
    data = first.declared.data
    log = CommitLog(storage, data.key, owner="test", clock=time.time)
    _, folder = log.new_folder("files")
    log.commit(folder.name, {"summary": {}, "seconds": 2.0, "source": source_of(data.function), "node": "data"})
    Failures(storage, experiment.name).remember({second.identity: "train/sr16 failed: odd"})

    found = ablation_standing(experiment)
    assert all(row.counts["done"] == 1 for row in found.replicates), "the data set is one for all"
    assert [row.failure for row in found.replicates[:3]] == [None, "train/sr16 failed: odd", None]
    assert found.figures()["replicates"][1]["failure"] == "train/sr16 failed: odd"
    with at_work(experiment, "ablation"):
        working = ablation_standing(experiment)
    assert working.standing.owner is not None
    assert working.replicates[1].failure is None, "it is tried again"
