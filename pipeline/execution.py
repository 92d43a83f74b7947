"""Running a graph: what is missing is computed, here or as Ray tasks, and committed.

The driver only decides which nodes are ready; results travel through the storage, never through Ray's object
store, so a lost worker or driver loses the nodes it was computing and nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.commits import CommitLog, OwnershipLost
from pipeline.dag import Node, NodeFailed, Progress, Result, Task, ancestry, missing, source_of, stored
from pipeline.errors import UserError
from pipeline.events import Events
from pipeline.storage import LocalStorage, open_storage


def compute(node: Node, root: Path, progress_file: Path | None = None) -> Result:
    """Run one node's function here and commit its result. Its inputs must be stored already."""
    storage = open_storage(root)
    if (known := stored(node, storage)) is not None:
        return known
    inputs = {}
    for role, parent in node.inputs.items():
        result = stored(parent, storage)
        assert result is not None, f"{node.name} was started before its input {parent.name}"
        inputs[role] = result.folder
    owner = f"{os.uname().nodename}:{os.getpid()}"
    commits = CommitLog(storage, node.key, owner=owner, clock=time.time)
    commits.begin()
    name, out = commits.new_folder("files")
    started = time.time()
    scratch = f"scratch/{node.key.removeprefix('results/')}"
    task = Task(
        node.name, node.config, inputs, out, node.context, storage, Progress(progress_file), storage.path(scratch)
    )
    try:
        summary = function_of(node.function)(task) or {}
    except (NodeFailed, UserError):
        raise
    except Exception as error:
        raise NodeFailed(node.name, f"{type(error).__name__}: {error}", traceback.format_exc()) from error
    seconds = time.time() - started
    info = {"node": node.name, "summary": summary, "seconds": seconds, "source": source_of(node.function)}
    try:
        commits.commit(name, info)
    except OwnershipLost:
        # Another driver computed the same node first; the same digest means the same result.
        storage.remove(f"{node.key}/{name}")
    storage.remove(scratch)
    result = stored(node, storage)
    assert result is not None
    return Result(result.folder, result.summary, seconds, reused=False)


def function_of(name: str) -> Callable[[Task], dict[str, Any] | None]:
    """The function that a node names as "module:function"."""
    module, function = name.split(":")
    found: Callable[[Task], dict[str, Any] | None] = getattr(importlib.import_module(module), function)
    return found


def execute(targets: Sequence[Node], storage: LocalStorage, events: Events, *, use_ray: bool) -> dict[str, Result]:
    """Compute what is missing for ``targets`` and return the result of every target by name.

    With ``use_ray`` (Ray must be initialised) nodes whose inputs are ready run at the same time as Ray tasks;
    otherwise one after the other in this process.
    """
    todo = missing(targets, storage)
    waiting = {node.digest for node in todo}
    for node in ancestry(targets):
        if node.digest not in waiting and (result := stored(node, storage)):
            events.finished(node.name, result.seconds, True)
    (_execute_on_ray if use_ray else _execute_here)(todo, storage, events)
    results = {node.name: stored(node, storage) for node in targets}
    assert all(results.values()), "every target is stored after execution"
    done = {node.name for node in todo}
    return {n: Result(r.folder, r.summary, r.seconds, n not in done) for n, r in results.items() if r is not None}


def _execute_here(todo: Sequence[Node], storage: LocalStorage, events: Events) -> None:
    for node in todo:
        events.started(node.name)
        result = compute(node, storage.root)
        events.finished(node.name, result.seconds, False)


def _execute_on_ray(todo: Sequence[Node], storage: LocalStorage, events: Events) -> None:
    import ray

    remote: Any = ray.remote(compute)
    folder = storage.path("progress")
    folder.mkdir(parents=True, exist_ok=True)
    waiting = {node.digest: node for node in todo}
    running: dict[Any, tuple[Node, Path]] = {}
    try:
        while waiting or running:
            for node in list(waiting.values()):
                busy = {n.digest for n, _ in running.values()}
                if any(parent.digest in waiting or parent.digest in busy for parent in node.inputs.values()):
                    continue
                progress = folder / f"{node.digest[:16]}.json"
                progress.unlink(missing_ok=True)
                needs = {"num_cpus": node.cpus, "num_gpus": node.gpus, "name": node.name}
                reference = remote.options(**needs).remote(node, storage.root, progress)
                running[reference] = (waiting.pop(node.digest), progress)
                events.started(node.name)
            ready, _ = ray.wait(list(running), timeout=0.25)
            for reference in ready:
                node, progress = running.pop(reference)
                result = _get(reference, node)
                progress.unlink(missing_ok=True)
                events.finished(node.name, result.seconds, False)
            for node, progress in running.values():
                if progress.exists():
                    events.progress(node.name, *json.loads(progress.read_text()))
    finally:
        for reference in running:
            ray.cancel(reference, force=False)


def _get(reference: Any, node: Node) -> Result:
    import ray

    try:
        result: Result = ray.get(reference)
        return result
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, NodeFailed):
            raise NodeFailed(cause.node, cause.error, cause.trace) from None
        raise NodeFailed(node.name, str(cause), str(error)) from None
