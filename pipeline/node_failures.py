"""Why nodes failed, as sentences, and as notes in the store for whoever asks later."""

from __future__ import annotations

import json
import time
from contextlib import suppress

from pipeline.addresses import without_secret
from pipeline.dag import Node, NodeFailed
from pipeline.errors import UserError
from pipeline.objects import StoreError
from pipeline.storage import Storage


def failure_sentence(error: Exception, storage: Storage, key: str) -> str:
    """The sentence of a node that failed with ``error``, without what an address in it lets in with.

    A traceback, or what Ray says in many lines of a lost process, is put under ``key``, which the sentence then names;
    else there is nothing under it afterwards.
    """
    told, trace = str(error), error.trace if isinstance(error, NodeFailed) else ""
    if not isinstance(error, NodeFailed | UserError):
        first, *more = told.strip().splitlines() or [""]
        told, trace = f"{type(error).__name__}: {first}", told if more else ""
    if not trace:
        storage.remove(key)
        return without_secret(told)
    storage.put(key, without_secret(trace).encode())
    return f"{without_secret(told)} (traceback: {storage.address}/{key})"


def failure_key(node: Node) -> str:
    """Where it is noted why a node failed last; what is noted of one that is stored by now means nothing."""
    return f"failures/nodes/{node.key.removeprefix('results/')}.json"


def note_failure(node: Node, error: Exception, storage: Storage) -> None:
    """Note why ``node`` failed, for whoever asks the store. Nothing happens where the store itself is what fails."""
    if isinstance(error, StoreError):
        return
    first = (str(error).strip().splitlines() or [""])[0]
    told = first if isinstance(error, NodeFailed | UserError) else f"{type(error).__name__}: {first}"
    with suppress(OSError, UserError):
        noted = {"node": node.name, "error": without_secret(told), "at": time.time()}
        storage.put(failure_key(node), json.dumps(noted).encode())
