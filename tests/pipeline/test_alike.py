"""Nodes of a cluster that have other packages than the driver are named; nodes that are alike are let be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.alike import Alike, unlike

# A cluster of two nodes in a process of its own; the second joins later, and finds other packages where it looks first.
PROGRAM = """
import os, socket, sys, time
import ray
from ray.cluster_utils import Cluster
from pipeline.alike import Alike
from pipeline.errors import UserError

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
room = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": True, "dashboard_port": port})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
alike = Alike()
alike.look()
print("ASKED", len(alike.asked), flush=True)
cluster.add_node(**room, env_vars={"PYTHONPATH": sys.argv[1] + os.pathsep + os.environ["PYTHONPATH"]})
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    try:
        alike.look()
    except UserError as error:
        print("TOLD", error, flush=True)
        break
    if len(alike.known) == 2 and not alike.asked:
        print("ALIKE", flush=True)
        break
    time.sleep(0.2)
ray.shutdown()
cluster.shutdown()
"""


def test_the_sentence_names_the_node_and_both_versions() -> None:
    here = {"Python": "3.11", "ray": "2.60.0", "torch": "2.12.0"}
    assert unlike("10.0.0.7", {**here, "more": "1"}, here) is None
    told = unlike("10.0.0.7", {**here, "torch": "2.11.0"}, here)
    assert told is not None
    assert told.startswith("node 10.0.0.7 has torch 2.11.0 where the driver has 2.12.0: install constraints.txt")
    several = unlike("10.0.0.7", {"Python": "3.11"}, {**here, "scipy": "1", "numpy": "2"})
    assert several is not None
    assert "torch none where the driver has 2.12.0, scipy none where the driver has 1 and 1 others" in several


@pytest.mark.ray
def test_on_one_machine_nobody_is_asked(ray_cluster: None) -> None:
    alike = Alike(here={"torch": "0"})
    alike.look()
    assert not alike.asked


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("other", [True, False])
def test_a_node_that_joins_is_asked_for_what_it_has(other: bool, tmp_path: Path) -> None:
    if other:
        (tmp_path / "jinja2-0.0.1.dist-info").mkdir()
        (tmp_path / "jinja2-0.0.1.dist-info" / "METADATA").write_text("Name: jinja2\nVersion: 0.0.1\n")
    root = str(Path(__file__).parents[2])
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    said = answer.stdout.splitlines()
    assert said[0] == "ASKED 0", answer.stderr[-2000:]
    if other:
        assert said[1].startswith("TOLD node ")
        assert "has jinja2 0.0.1 where the driver has " in said[1]
    else:
        assert said[1] == "ALIKE"
