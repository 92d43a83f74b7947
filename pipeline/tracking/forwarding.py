"""From the journals of the store to MLflow: a thread of the driver, the only process that sends metrics.

So a worker needs no MLflow, no address and no password, SQLite has one writer however many nodes there are, and what a
server that is down costs is paid here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from pipeline.storage import Storage
from pipeline.tracking.journal import Journal
from pipeline.tracking.outages import ask_for, in_brief, unavailable
from pipeline.tracking.runs import Tracker
from pipeline.tracking.sending import Sender

log = logging.getLogger(__name__)

EVERY, LONGEST = 5.0, 60.0  # seconds between looks, and at most while nobody answers
PATIENCE = 20.0  # seconds at the end for a request that is under way


class Forwarder:
    """Sends what the journals of ``runs`` hold, from ``start`` to ``close``; runs may be added meanwhile."""

    def __init__(self, uri: str, storage: Storage, runs: Iterable[str] = (), *, every_seconds: float = EVERY) -> None:
        self.uri = uri
        self.journals = {run: Journal(storage, run) for run in runs}
        self._storage, self._every = storage, every_seconds
        self._sender: Sender | None = None
        self._sending, self._over = threading.Lock(), threading.Event()
        self._refused: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="metrics to MLflow", daemon=True)

    def add(self, run: str) -> None:
        """Send the metrics of ``run``, too."""
        self.journals.setdefault(run, Journal(self._storage, run))

    def start(self) -> Forwarder:
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread, and send what is left. Raises what MLflow raises when it does not answer."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise TimeoutError(f"no answer within {PATIENCE:g} seconds")
        if any(self._storage.list(journal.key) for journal in self.journals.values()):
            ask_for(self.uri)
            self.forward()

    def kept(self) -> int:
        """Points that wait in the store."""
        return sum(journal.count() for journal in self.journals.values())

    def forward(self) -> None:
        """Send every batch and remove it. Raises what MLflow raises when it does not answer; a run that it refuses,
        deleted by somebody, keeps its journal and no other from being sent."""
        with self._sending:
            self._sender = self._sender or Sender(Tracker(self.uri))
            for run, journal in list(self.journals.items()):
                try:
                    for name, points in journal.batches():
                        self._sender.send(run, points)
                        journal.remove(name)
                except Exception as error:
                    if unavailable(error):
                        raise
                    self._warn_once(run, error)

    def _warn_once(self, run: str, error: Exception) -> None:
        if run not in self._refused:
            self._refused.add(run)
            log.warning("metrics of run %s are not taken by MLflow: %s", run, in_brief(error))

    def _run(self) -> None:
        wait = self._every
        while not self._over.wait(wait):
            try:
                self.forward()
                wait = self._every
            except Exception as error:
                if wait == self._every:
                    log.warning("metrics wait in the store, MLflow does not answer: %s", in_brief(error))
                wait = min(2 * wait, LONGEST)
