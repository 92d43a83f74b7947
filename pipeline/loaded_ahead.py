"""Processes of the cluster import what the first nodes will need while the driver still imports MLflow.

A process imports torch in a second or two, and Ray gives a task to one that waits with its imports done. Nothing
depends on it: where no process is loaded by the time a node starts, the node imports for itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from pipeline.dag import Node

_SHARE = 0.001  # of a CPU: enough to be where there are CPUs, too little to be in the way of a node
_PROCESSES = 2  # one for a node of data, one for a training


def load_ahead(nodes: Sequence[Node]) -> None:
    """Begin to import, in a few processes, what computing ``nodes`` takes. Ray must be initialised. Returns at once."""
    import ray

    wanted = sorted(modules_of(nodes))
    remote: Any = ray.remote(_load).options(num_cpus=_SHARE, max_retries=0, name="imports")
    for _ in range(min(_PROCESSES, len(nodes))):
        remote.remote(wanted)


def modules_of(nodes: Iterable[Node]) -> set[str]:
    """The modules of the nodes' functions, and Ray Train for those that train."""
    found = {node.function.split(":")[0] for node in nodes}
    return found | {"ray.train.torch"} if any("workers" in node.context for node in nodes) else found


def _load(modules: Sequence[str]) -> None:
    for name in modules:
        with suppress(Exception):  # the node that needs it will say so
            importlib.import_module(name)
