"""Actors that die are replaced, and what they were at is done again."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.sweep.actors import TRIES, ActorPool


def die_unless(path: str) -> str:
    """Ends its process the first time, or every time where ``path`` is empty."""
    if not path or not Path(path).exists():
        if path:
            Path(path).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


def fail() -> None:
    raise FloatingPointError("no finite image")


@pytest.mark.ray
def test_an_actor_that_dies_is_replaced_and_its_call_made_again(tmp_path: Path, ray_cluster: None) -> None:
    pool = ActorPool(1, {"CPU": 1.0})
    try:
        pool.submit("heals", _load(die_unless), str(tmp_path / "mark"))
        pool.submit("fails", _load(fail))
        pool.submit("dies", _load(die_unless), "")
        ended = {}
        while pool.open_calls:
            ended |= {done.call.tag: done for done in pool.wait()}
        assert ended["heals"].value == "lived"
        assert isinstance(ended["fails"].error, FloatingPointError)
        assert f"{TRIES} workers died of it" in str(ended["dies"].error)
        assert pool.lost == 1 + TRIES
        assert pool.busy > 0, "what fails or dies has taken its time"
    finally:
        pool.close()
    assert pool.actors == 0


def _load(function: Any) -> Any:
    """A function of this file as actors can have it: by value, for they cannot import tests."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    return function
