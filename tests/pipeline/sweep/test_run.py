"""Sweeps on real actors: what is shared is computed once, and a search survives what it runs on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.sweep_inputs import prepare, swept_experiment
from pipeline.dag import Progress, Task
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.choice import best_of
from pipeline.search.proposals import with_drawn_lists
from pipeline.search.run import search_stages
from pipeline.storage import open_storage
from pipeline.sweep.actors import ActorPool

LEVEL, KIND = "stages.sr16.sampling.level", "stages.sr16.sampling.augmentation"
KINDS = ["truncated", "non_truncated"]


def tiny(store: Path, stages: int = 2, samples: int = 48, **search: Any) -> Experiment:
    return swept_experiment(store, stages, samples=samples, base_steps=2, channels=8, block=16, search=search)


def run_search(experiment: Experiment) -> dict[str, Any]:
    """The search node, here: its actors are real, its inputs are stored."""
    storage = open_storage(experiment.store)
    out = Path(experiment.store) / "out"
    out.mkdir(exist_ok=True)
    context = {"experiment": experiment.model_dump(mode="json")}
    return search_stages(Task("search", {}, {}, out, context, storage, Progress()))


def drawing_nodes(experiment: Experiment) -> Counter[str]:
    """How many results of each kind were committed, and that none was computed twice."""
    found: Counter[str] = Counter()
    for path in (Path(experiment.store) / "results").iterdir():
        found[path.name.rsplit("-", 1)[0]] += 1
        assert len(list((path / "log").iterdir())) == 1, path.name
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Experiment, dict[str, Any]]:
    """Three stages: both kinds at four levels in the middle, levels drawn from a range at the top."""
    space = {
        LEVEL: {"values": [0.0, 0.1, 0.2, 0.4]},
        KIND: {"values": KINDS},
        "stages.sr32.sampling.level": {"values": [0.1, 0.2]},
    }
    experiment = tiny(tmp_path_factory.mktemp("swept"), stages=3, space=space, concurrency=2)
    prepare(experiment)
    return experiment, run_search(experiment)


@pytest.mark.ray
def test_a_search_draws_what_is_shared_once(swept: tuple[Experiment, dict[str, Any]]) -> None:
    experiment, summary = swept
    found = drawing_nodes(experiment)
    assert found["chained-base"] == 1
    assert found["chained-sr16"] == 7, "four levels of two kinds, of which s = 0 is one"
    assert found["oracle-sr16"] == 4, "one for each level, whatever the kind"
    assert found["chained-sr32"] == found["oracle-sr32"] == 2
    assert found["real-train-16"] == found["classifier-judge"] == 1
    first, second = summary["rounds"]
    assert [len(first["points"]), len(second["points"])] == [7, 2]
    for found_round in summary["rounds"]:
        assert found_round["kind"] == "sampling"
        sharing = found_round["sharing"]
        assert sharing["trials"] == len(found_round["points"])
        assert sharing["saved_seconds"] == pytest.approx(
            sharing["separate_seconds"] - sharing["shared_seconds"] - sharing["trial_seconds"]
        )
        assert sharing["saved_seconds"] > 0
        assert 0 < sharing["busy_share"] <= 1
        assert "was computed once" in found_round["shared"]
        assert found_round["chosen"] == found_round["points"][best_of(found_round["points"])]["settings"]
        assert "lowest chained FID" in found_round["why"]
        assert all(each["seconds"] > 0 and each["samples"] == 48 for each in found_round["points"])
    assert first["points"][0]["net_calls"] == 4
    assert summary["chosen"].items() >= first["chosen"].items()
    json.dumps(summary, allow_nan=False)


@pytest.mark.ray
def test_the_same_search_again_is_looked_up_without_an_actor(
    swept: tuple[Experiment, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, summary = swept
    started: list[ActorPool] = []
    monkeypatch.setattr(ActorPool, "_start", started.append)
    again = run_search(experiment)
    assert not started
    assert [found["points"] for found in again["rounds"]] == [found["points"] for found in summary["rounds"]]
    assert all(found["sharing"]["busy_share"] is None for found in again["rounds"])
    drawing_nodes(experiment)


@pytest.mark.ray
def test_a_failed_trial_is_a_point_and_no_reason_to_stop(tmp_path: Path, ray_cluster: None) -> None:
    experiment = tiny(tmp_path, space={LEVEL: {"values": [0.1, 0.2]}})
    prepare(experiment)
    nodes = Nodes(with_settings(with_drawn_lists(experiment), {LEVEL: 0.2}), trial=True)
    folder = open_storage(experiment.store).path(nodes.chained("sr16").key)
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("in the way")
    (found,) = run_search(experiment)["rounds"]
    assert [each["status"] for each in found["points"]] == ["finished", "failed"]
    assert "NotADirectoryError" in found["points"][1]["error"]
    assert "(1 failed)" in found["why"]


@pytest.mark.ray
def test_ranges_are_drawn_beforehand_or_nothing_is_shared(tmp_path: Path, ray_cluster: None) -> None:
    for algorithm, bases in (("drawn", 1), ("optuna", 3)):
        space = {LEVEL: {"uniform": [0.01, 0.4]}}
        experiment = tiny(tmp_path / algorithm, algorithm=algorithm, trials=3, space=space)
        prepare(experiment)
        (found,) = run_search(experiment)["rounds"]
        assert len(found["points"]) == 3
        assert drawing_nodes(experiment)["chained-base"] == bases
        assert ("shared nothing: levels are proposed one by one" in found["shared"]) == (algorithm == "optuna")


@pytest.mark.ray
def test_screening_draws_the_rest_alone_and_a_dropped_trial_is_never_chosen(tmp_path: Path, ray_cluster: None) -> None:
    search = {"space": {LEVEL: {"values": [0.0, 0.2, 0.4]}}, "screening": {"samples": 48, "errors": 0.01}}
    experiment = tiny(tmp_path / "screened", samples=96, **search)
    prepare(experiment)
    (found,) = run_search(experiment)["rounds"]
    states = Counter(each["status"] for each in found["points"])
    assert states["finished"] >= 1
    assert states["dropped"] >= 1
    for each in found["points"]:
        ((samples, fid),) = each["rungs"]
        assert samples == 48
        assert each["samples"] == (96 if each["status"] == "finished" else 48)
        if each["status"] == "dropped":
            assert each["chained"]["fid"] == fid
            assert each["objective"] is None
    assert found["points"][found["front"][0]]["status"] == "finished"
    kept = next(each for each in found["points"] if each["status"] == "finished")
    alone = tiny(tmp_path / "alone", samples=96, **(search | {"screening": None}))
    prepare(alone)
    (whole,) = run_search(alone)["rounds"]
    same = next(each for each in whole["points"] if each["settings"] == kept["settings"])
    assert kept["chained"] == {**same["chained"], "passport": kept["chained"]["passport"]}
    results = Path(experiment.store) / "results"
    taken = [json.loads(path.read_text())["taken"] for path in results.glob("chained-*/*/drawn.json")]
    assert sorted(set(taken)) == [0, 48]
    oracles = [json.loads(path.read_text()) for path in results.glob("oracle-*/*/drawn.json")]
    assert [facts["taken"] for facts in oracles] == [0] * states["finished"], "an oracle has no first look"


DRIVER = """\
import json, sys
from pathlib import Path
import ray
from pipeline.dag import Progress, Task
from pipeline.experiment_spec import Experiment
from pipeline.search.run import search_stages
from pipeline.storage import open_storage
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
experiment = Experiment.model_validate(json.loads(Path(sys.argv[2]).read_text()))
out = Path(experiment.store) / "out"
out.mkdir(exist_ok=True)
context = {"experiment": experiment.model_dump(mode="json")}
search_stages(Task("search", {}, {}, out, context, open_storage(experiment.store), Progress()))
"""


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.parametrize("algorithm", ["grid", "optuna"])
def test_a_killed_driver_loses_no_finished_trial(
    tmp_path: Path, ray_cluster: None, algorithm: str, record_figure: Any
) -> None:
    """The same command tries the same again, and what was stored is stored once."""
    import ray

    space = {LEVEL: {"values": [0.0, 0.1, 0.15, 0.2, 0.25, 0.3]}}
    experiment = tiny(tmp_path / "store", algorithm=algorithm, trials=6, space=space)
    prepare(experiment)
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "experiment.json").write_text(experiment.model_dump_json())
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py", address, tmp_path / "experiment.json"])
    deadline = time.monotonic() + 240
    while len(finished := _logs(experiment, "scores-chained-sr16")) < 2:
        assert driver.poll() is None, "it was to be killed at work"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    (found,) = run_search(experiment)["rounds"]
    drawing_nodes(experiment)
    assert {path: path.read_bytes() for path in finished} == finished
    assert len(found["points"]) == 6
    other = experiment.model_copy(update={"store": str(tmp_path / "calm")})
    prepare(other)
    (calm,) = run_search(other)["rounds"]
    assert [each["settings"] for each in calm["points"]] == [each["settings"] for each in found["points"]]
    assert [each["objective"] for each in calm["points"]] == [each["objective"] for each in found["points"]]
    assert calm["front"] == found["front"]
    record_figure(
        3,
        f"driver killed with SIGKILL in the middle of a search of sampling ({algorithm})",
        f"0 of {len(finished)} finished trials run again; {len(found['points'])} trials with the settings and scores, "
        "and the best, of an undisturbed search",
    )

    ended = _logs(other, "scores-chained-sr16")
    for path in ended:
        path.unlink()  # nothing says any more that it ended
    run_search(other)
    again = [path for path, before in ended.items() if path.read_bytes() != before]
    assert len(again) == 6
    record_figure(3, "trials that no entry says to have ended", f"{len(again)} of 6 run again", protected=False)


def _logs(experiment: Experiment, name: str) -> dict[Path, bytes]:
    folders = (Path(experiment.store) / "results").glob(f"{name}-*/log/*.json")
    return {path: path.read_bytes() for path in folders}
