"""SQLite that somebody else holds while a stage trains: no metric missing, none doubled, none of another time.

A real training, a real lock. The protection is also switched off, which must show.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import open_storage
from pipeline.tracking import forwarding
from pipeline.tracking.forwarding import Forwarder
from pipeline.tracking.journal import Journal

pytestmark = pytest.mark.faults


@pytest.fixture
def short_patience(request: pytest.FixtureRequest) -> Iterator[None]:
    """MLflow waits 20 seconds for SQLite's lock, and there is no setting for it: 0.2 seconds here, if asked for."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def shorten(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 200"), parameters

    if not request.param:
        yield
        return
    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


@pytest.mark.parametrize(
    ("short_patience", "seconds"),
    [
        (True, 0.0),
        pytest.param(False, 10.0, marks=pytest.mark.slow),
        pytest.param(False, 120.0, marks=pytest.mark.slow),
    ],
    indirect=["short_patience"],
)
def test_sqlite_that_somebody_else_holds(
    training: Any,
    straight_to_mlflow: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_patience: None,
    seconds: float,
    record_figure: Any,
) -> None:
    """While a stage trains, and ``seconds`` at least."""
    monkeypatch.setattr(forwarding, "LONGEST", 0.5)
    uri, started = f"sqlite:///{tmp_path}/mlflow.db", time.monotonic()
    whole, lossy = training(uri, "whole"), training(uri, "lossy")
    forwarder = Forwarder(uri, open_storage(whole.store), [whole.run], every_seconds=0.05).start()
    holder = sqlite3.connect(f"{tmp_path}/mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    whole.train()
    if not seconds:
        with monkeypatch.context() as off:
            off.setattr(Journal, "append", straight_to_mlflow(uri))
            lossy.train(lost_at=3)
    time.sleep(max(0.0, started + seconds - time.monotonic()))
    whole.assert_journalled()
    holder.close()
    waited = time.monotonic() - started
    deadline = time.monotonic() + 120
    while whole.journal.count():
        assert time.monotonic() < deadline, "nobody sent"
        time.sleep(0.1)
    forwarder.close()
    assert whole.missing_and_doubled() == (0, 0)
    whole.assert_whole()
    points = whole.metrics * whole.steps
    record_figure(11, f"SQLite locked for {waited:.0f} s", f"0 of {points} points missing, 0 doubled")
    if not seconds:
        lossy.forward()
        assert lossy.found() == {}
        record_figure(11, "the same, metrics straight to MLflow", "all that were tried lost", protected=False)
