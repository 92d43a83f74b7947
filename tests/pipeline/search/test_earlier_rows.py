"""Rows that a smaller draw left: taken over they are bitwise those of a draw from nothing, or they are not taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.benchmarks.sweep_inputs import prepare, swept_experiment
from pipeline.dag import Node
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.trials import targets_of
from pipeline.storage import open_storage


def screened(store: Path) -> Experiment:
    """A first look at 48 of 90 samples: three canonical blocks."""
    search = {"screening": {"samples": 40}}
    return swept_experiment(store, 2, levels=2, samples=90, base_steps=2, channels=8, block=16, search=search)


def test_a_draw_that_goes_on_is_bitwise_a_draw_from_nothing(tmp_path: Path) -> None:
    folders: list[dict[str, dict[str, bytes]]] = []
    for name, looks in (("goes-on", True), ("from-nothing", False)):
        experiment = screened(tmp_path / name)
        prepare(experiment)
        storage = open_storage(experiment.store)
        if looks:
            first = targets_of(experiment, "sr16", look=48)
            execute(first, storage, Silence(), use_ray=False)
        results = execute(_draws(experiment), storage, Silence(), use_ray=False)
        facts = {name: json.loads((found.folder / "drawn.json").read_text()) for name, found in results.items()}
        assert {facts[name]["taken"] for name in ("chained/base", "chained/sr16")} == {48 if looks else 0}
        assert facts["oracle/sr16"]["taken"] == 0, "an oracle has no first look"
        folders.append({name: _bytes(found.folder) for name, found in results.items()})
    assert folders[0] == folders[1]
    assert {"images.npy", "kept-0.3.npy", "features-classifier.npy"} <= folders[0]["chained/base"].keys()


def _draws(experiment: Experiment) -> list[Node]:
    nodes = Nodes(experiment, trial=True)
    return [nodes.chained("base"), nodes.chained("sr16"), nodes.oracle("sr16")]


def _bytes(folder: Path) -> dict[str, bytes]:
    arrays = {path.name: np.load(path).tobytes() for path in folder.glob("*.npy")}
    for path in folder.glob("*.npz"):
        arrays |= {f"{path.name}/{name}": values.tobytes() for name, values in np.load(path).items()}
    return arrays


@pytest.mark.parametrize("changed", ["code", "threads", "compiled", "statistics"])
def test_rows_of_another_making_are_not_taken(tmp_path: Path, changed: str) -> None:
    experiment = screened(tmp_path)
    prepare(experiment)
    storage = open_storage(experiment.store)
    first = Nodes(experiment, trial=True, look=48).chained("base")
    folder = execute([first], storage, Silence(), use_ray=False)["chained/base"].folder
    entry = folder.parent / "log" / "00000001.json"
    info = json.loads(entry.read_text())
    if changed == "code":
        info["info"]["source"] = "another"
    elif changed in ("threads", "compiled"):
        facts = json.loads((folder / "drawn.json").read_text())
        (folder / "drawn.json").write_text(json.dumps(facts | {changed: 2 if changed == "threads" else True}))
        del info["files"]["drawn.json"]
    else:
        (folder / "features-classifier.npy").unlink()
        del info["files"]["features-classifier.npy"]
    entry.write_text(json.dumps(info))
    result = execute([Nodes(experiment, trial=True).chained("base")], storage, Silence(), use_ray=False)["chained/base"]
    assert json.loads((result.folder / "drawn.json").read_text())["taken"] == 0
    assert len(np.load(result.folder / "features-classifier.npy")) == 90
