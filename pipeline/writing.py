"""Commits are written beside the training: it stands still for a copy of its state, not for disks and networks.

One is written at a time and in the order in which they were begun, so the log is that of a training that waits for
each. What fails in writing is raised where the next one is begun or waited for, in the training's own thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from pipeline.commits import Entry

log = logging.getLogger(__name__)

Write = Callable[[], Entry]
"""Write what was copied and commit it."""


class BesideTraining:
    """The commits of one worker, inside the block of a ``with``, which ends when the last of them is written.

    ``waited`` counts the seconds that the training stood still for them.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="commits")
        self._being_written: Future[Entry] | None = None

    def begin(self, copy: Callable[[], Write]) -> None:
        """``copy()`` the state here and write it beside, once what was begun before is written. Raises what that
        raised."""
        self.wait()
        began = time.monotonic()
        write = copy()
        self.waited += time.monotonic() - began
        self._being_written = self._pool.submit(write)

    def wait(self) -> None:
        """Until all that was begun is written. Raises what writing it raised, once."""
        began = time.monotonic()
        written, self._being_written = self._being_written, None
        if written is not None:
            written.result()
        self.waited += time.monotonic() - began

    def __enter__(self) -> BesideTraining:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            log.warning("a commit could not be written: %s", failure)
        finally:
            self._pool.shutdown()
