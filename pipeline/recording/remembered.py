"""The runs of MLflow that a command opened, as the store remembers them: a command that goes on with trainings while
MLflow is down keeps their metrics for the runs of the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.addresses import without_secret
from pipeline.storage import Storage
from pipeline.tracking.addresses import absolute_uri


def remember(storage: Storage, identity: str, uri: str, parent: str, runs: Mapping[str, str]) -> None:
    """Store which runs the experiment of ``identity`` has at ``uri``; those of other stages stay known."""
    known = _found(storage, identity, uri)
    others = known["runs"] if known and known["parent"] == parent else {}
    told = {"uri": _place(uri), "parent": parent, "runs": {**others, **runs}}
    storage.put(_key(identity), json.dumps(told, indent=1).encode())


def remembered(storage: Storage, identity: str, uri: str, stages: Sequence[str]) -> tuple[str, dict[str, str]] | None:
    """The parent and the runs of ``stages`` that were opened at ``uri``; None unless all of them were."""
    known = _found(storage, identity, uri)
    if known is None or not set(stages) <= set(known["runs"]):
        return None
    return known["parent"], {name: known["runs"][name] for name in stages}


def _found(storage: Storage, identity: str, uri: str) -> dict[str, Any] | None:
    if not storage.exists(_key(identity)):
        return None
    known = json.loads(storage.read(_key(identity)))
    return known if known["uri"] == _place(uri) else None


def _place(uri: str) -> str:
    return without_secret(absolute_uri(uri))


def _key(identity: str) -> str:
    return f"tracking/opened/{identity[:32]}.json"
