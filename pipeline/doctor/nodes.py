"""What one node of the cluster is and sees: plain functions that Ray runs on each, and what is wrong with an answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.doctor.findings import Findings, Trouble
from pipeline.doctor.stores import open_store
from pipeline.doctor.versions import compare_versions, versions_here
from pipeline.errors import UserError

PATIENCE = 180.0  # seconds for all nodes to answer; the first task on a node starts a process and loads libraries
LEAST_FREE = 5.0  # GB below which a cache folder is called full

# Asked in a process of its own, which sees every GPU: Ray hides those that a task did not ask for.
_ASK_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"gpus": gpus, "cuda": torch.version.cuda}))
"""


@dataclass(frozen=True)
class Probe:
    """What each node is to look for: an object of a store, and folders for caches."""

    store: str | None = None
    name: str = ""
    data: bytes = b""
    folders: tuple[str, ...] = ()


def facts_here(probe: Probe) -> dict[str, Any]:
    """This node's versions, GPUs, free disk (GB by folder) and what it sees of the probe (a sentence, or None: all)."""
    return {
        "host": os.uname().nodename,
        "versions": versions_here(),
        **gpus_here(),
        "free": {folder: free_disk(folder) for folder in probe.folders},
        "store": seen_here(probe),
    }


def gpus_here() -> dict[str, Any]:
    """GPUs by torch (names) and by the driver ("NAME, VERSION" each)."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    asked = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH], env=environment, capture_output=True, text=True, check=False
    )
    told = json.loads(asked.stdout) if asked.returncode == 0 else {"gpus": [], "cuda": None}
    driver: list[str] = []
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return {**told, "driver": driver}


def free_disk(folder: str) -> float:
    """GB free where ``folder`` is or will be."""
    path = Path(folder).expanduser().absolute()
    return shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists())).free / 1e9


def seen_here(probe: Probe) -> str | None:
    """Why this node does not see the probe; None where it does, or there is none."""
    if probe.store is None:
        return None
    try:
        found = open_store(probe.store).read(probe.name)
    except UserError as error:
        return str(error)
    return None if found == probe.data else f"{probe.store}/{probe.name} has other bytes there"


def check_node(facts: Mapping[str, Any], declared: float) -> str:
    """Raise Trouble for the first that is wrong of a node that says to Ray that it has ``declared`` GPUs."""
    compare_versions(facts["versions"], versions_here())
    seen = max(len(facts["gpus"]), len(facts["driver"]))
    if len(facts["gpus"]) < len(facts["driver"]):
        told = f"its driver sees {len(facts['driver'])} GPUs and torch {len(facts['gpus'])}"
        raise Trouble(f"{told} (built for CUDA {facts['cuda']}); install a driver that this torch can use")
    if declared > len(facts["gpus"]):
        raise Trouble(f"Ray was told of {declared:g} GPUs and there are {seen}; start Ray with --num-gpus={seen}")
    if facts["store"] is not None:
        raise Trouble(f"it does not see what this machine wrote to the store ({facts['store']}); share the store")
    for folder, free in facts["free"].items():
        if free < LEAST_FREE:
            raise Trouble(f"{free:.1f} GB are free at {folder}; free some, or name a folder on another disk")
    gpus = ", ".join(facts["driver"] or facts["gpus"]) or "no GPU"
    free = ", ".join(f"{free:.0f} GB free at {folder}" for folder, free in facts["free"].items())
    return "; ".join(part for part in (f"{facts['host']}: {gpus}", free) if part)


def check_nodes(probe: Probe, findings: Findings) -> float:
    """Ask every node of the cluster that this process has joined; returns how many GPUs Ray was told of."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    remote: Any = ray.remote(facts_here)
    asked = {}
    for node in alive:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeID"]] = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(probe)
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=PATIENCE)
    for node in alive:
        findings.check(f"node {node['NodeManagerAddress']}", lambda node=node: _answer(node, asked))  # type: ignore[misc]
    return sum(node["Resources"].get("GPU", 0.0) for node in alive)


def _answer(node: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    import ray

    try:
        facts = ray.get(asked[node["NodeID"]], timeout=1.0)
    except ray.exceptions.GetTimeoutError as error:
        raise Trouble(f"no answer within {PATIENCE:.0f} s; look at its load and at Ray's logs there") from error
    except ray.exceptions.RayTaskError as error:
        raise Trouble(f"Rayfall does not run there ({_last(str(error))}); install it on every node") from error
    return check_node(facts, node["Resources"].get("GPU", 0.0))


def _last(text: str) -> str:
    lines: Sequence[str] = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
