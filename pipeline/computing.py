"""Computing one node: its function is called where this runs, and what it leaves is committed under its digest."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable
from typing import Any

from pipeline.commits import CommitLog, OwnershipLost
from pipeline.dag import Node, NodeFailed, Progress, Task, source_of, stored
from pipeline.errors import UserError
from pipeline.leases import this_process
from pipeline.results import Folders, Result
from pipeline.revision import git_revision
from pipeline.storage import Storage, open_storage
from stages.processor import give_back


def compute(node: Node, address: str, progress: str | None = None, revision: str | None = None) -> Result:
    """Run one node's function here and commit its result to the storage at ``address``. Its inputs must be there.

    ``progress`` is the key under which to say how far it is.
    ``revision`` is that of the source tree where the caller knows it better than this process, which may run from a
    copy.
    """
    storage = open_storage(address, known=True)
    if (known := stored(node, storage)) is not None:
        return known
    commits = CommitLog(storage, node.key, owner=this_process(), clock=time.time)
    commits.begin()
    name, out = commits.new_folder("files")
    started = time.time()
    scratch = scratch_of(node)
    told = Progress(storage, progress)
    task = Task(node.name, node.config, inputs_of(node, storage), out, node.context, storage, told, scratch)
    try:
        summary = function_of(node.function)(task) or {}
    except (NodeFailed, UserError):
        raise
    except Exception as error:
        raise NodeFailed(node.name, f"{type(error).__name__}: {error}", traceback.format_exc()) from error
    finally:
        give_back()  # this process may wait for its next node as long as others work
    seconds = time.time() - started
    info = {"node": node.name, "summary": summary, "seconds": seconds, "source": source_of(node.function)}
    info["revision"] = revision or git_revision()
    try:
        commits.commit(name, info)
    except OwnershipLost:
        # Another driver computed the same node first; the same digest means the same result.
        storage.remove(f"{node.key}/{name}")
    storage.remove(scratch)
    result = stored(node, storage)
    assert result is not None
    return Result(result.place, result.summary, seconds, reused=False)


def inputs_of(node: Node, storage: Storage) -> Folders:
    """The stored inputs of a node."""
    found = {role: stored(parent, storage) for role, parent in node.inputs.items()}
    absent = [role for role, result in found.items() if result is None]
    assert not absent, f"{node.name} was started before its inputs {', '.join(absent)}"
    return Folders({role: result for role, result in found.items() if result is not None})


def scratch_of(node: Node) -> str:
    """Key of what a node leaves for itself until it is committed."""
    return f"scratch/{node.key.removeprefix('results/')}"


def function_of(name: str) -> Callable[[Task], dict[str, Any] | None]:
    """The function that a node names as "module:function"."""
    module, function = name.split(":")
    found: Callable[[Task], dict[str, Any] | None] = getattr(importlib.import_module(module), function)
    return found
