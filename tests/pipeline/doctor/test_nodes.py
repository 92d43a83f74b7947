"""Every node is asked, and each thing that is wrong with one has its sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import gpus, nodes
from pipeline.doctor.findings import Findings, Trouble
from pipeline.doctor.nodes import Probe, check_node, check_nodes, seen_here
from pipeline.doctor.versions import versions_here
from stages.compiling import compiled


def facts(**changes: Any) -> dict[str, Any]:
    plain = {"host": "a", "versions": versions_here(), "gpus": [], "driver": [], "cuda": "13.2"}
    return {**plain, "free": {"/cache": 100.0}, "store": None, **changes}


@pytest.mark.parametrize(
    ("changes", "declared", "told"),
    [
        ({"versions": {"python": "3.9.1"}}, 0, "python 3.9.1 instead of"),
        ({"driver": ["L4, 470.1"]}, 1, r"driver sees 1 GPUs and torch 0 \(built for CUDA 13.2\); install a driver"),
        ({"gpus": ["L4"]}, 2, "Ray was told of 2 GPUs and there are 1; start Ray with --num-gpus=1"),
        ({"store": "/store/probe is not there"}, 0, "does not see what this machine wrote .* share the store"),
        ({"free": {"/cache": 0.4}}, 0, "0.4 GB are free at /cache; free some"),
    ],
)
def test_what_is_wrong_with_a_node(changes: dict[str, Any], declared: float, told: str) -> None:
    with pytest.raises(Trouble, match=told):
        check_node(facts(**changes), declared)


def test_a_node_with_all_it_needs() -> None:
    assert check_node(facts(gpus=["L4"], driver=["L4, 580.1"]), 1) == "a: L4, 580.1; 100 GB free at /cache"


def test_a_store_of_another_machine_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "probe").write_bytes(b"1")
    assert seen_here(Probe(str(tmp_path), "probe", b"1")) is None
    assert "other bytes" in str(seen_here(Probe(str(tmp_path), "probe", b"2")))
    assert "is not there" in str(seen_here(Probe(str(tmp_path / "mine"), "probe", b"1")))


@pytest.mark.ray
def test_nodes_of_a_cluster_answer(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "probe").write_bytes(b"1")
    findings = Findings()
    assert check_nodes(Probe(str(tmp_path), "probe", b"1", (str(tmp_path),)), findings) == 0
    assert [finding.told for finding in findings.all if not finding.ok] == []
    assert len(findings.all) == 1
    assert f"GB free at {tmp_path}" in findings.all[0].told


@pytest.mark.ray
def test_without_a_gpu_that_is_what_is_said(ray_cluster: None) -> None:
    findings = Findings()
    gpus.check_gpus(0, findings)
    assert [(finding.ok, finding.told[:30]) for finding in findings.all] == [(False, "there is no GPU in this cluste")]


@pytest.mark.ray
def test_ranks_meet_and_add_up(ray_cluster: None) -> None:
    """The part of the NCCL check that needs no GPU: two actors and their meeting place, over gloo."""
    actors = gpus._actors(2, 0)
    address = gpus._get([actors[0].call.remote(gpus.free_address)])[0]
    found = gpus._get([one.call.remote(gpus.all_reduce, address, rank, 2, "gloo") for rank, one in enumerate(actors)])
    gpus._end(actors)
    assert [one["sum"] for one in found] == [3.0, 3.0]


def test_the_timed_step_runs_where_there_is_no_gpu() -> None:
    found = gpus.step_seconds(compiled=False, device="cpu", batch=2)
    assert found["seconds"] > 0
    assert found["loss"] > 0


@pytest.mark.parametrize("moved", [True, False])
def test_steps_tell_whether_gradients_were_written_over(
    moved: bool, in_one_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_on_a_gpu(net: Any, **asked: Any) -> Any:
        return compiled(net, backend=in_one_place, graphs=asked["graphs"])

    monkeypatch.setattr("stages.checks.training.compiled", as_on_a_gpu)
    if not moved:
        monkeypatch.setattr("stages.training.lends_gradients", lambda model: False)
    difference = gpus.trained_both_ways(device="cpu", micro_batch=2)
    if moved:
        assert "are those of the plain net" in gpus.told_of_training(difference)
    else:
        with pytest.raises(Trouble, match=r"off by up to nan of themselves .*; set resources\.compile to true there"):
            gpus.told_of_training(difference)


def test_steps_that_are_off_by_more_than_rounding_are_told() -> None:
    with pytest.raises(Trouble, match=r"a net with dropout 0\.1 that is launched as CUDA graphs .* up to 0\.0101 "):
        gpus.told_of_training(0.0101, 0.1)


@pytest.mark.slow
def test_images_are_drawn_both_ways_where_there_is_no_gpu() -> None:
    found = gpus.drawn_both_ways(device="cpu", block=2)
    assert 0 < found["difference"] < 1e-4, "in float32"
    assert f"off by up to {found['difference']:.1e}" in gpus.told_of_drawing(found)


@pytest.mark.parametrize("difference", [0.5, float("nan")])
def test_images_that_are_off_by_more_than_rounding_are_told(difference: float) -> None:
    with pytest.raises(Trouble, match=r"off by up to (0\.5|nan) .*; leave resources\.compiled_sampling false there"):
        gpus.told_of_drawing({"difference": difference, "plain": 1.0, "compiled": 1.0, "block": 2})


@pytest.mark.ray
def test_a_call_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch, ray_cluster: None) -> None:
    monkeypatch.setattr(gpus, "PATIENCE", 0.5)
    actors = gpus._actors(1, 1)  # of a GPU that this cluster does not have
    with pytest.raises(Trouble, match="`ray status` says whether"):
        gpus._get([actors[0].call.remote(gpus.gpu_place)])
    gpus._end(actors)
    assert nodes.PATIENCE > 0.5


# A cluster that is told of two GPUs: Ray places by what it is told, and nothing here touches one.
PLACED = """
import ray
from pipeline.doctor import gpus
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
print(gpus.check_halves())
print(gpus.check_placement(2))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_halves_share_and_wholes_do_not() -> None:
    answer = subprocess.run([sys.executable, "-c", PLACED], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-2:] == ["two actors shared one GPU", "2 actors have 2 GPUs"]
