"""One owner at a time of a training that several trials ask for: the others wait, and then find it done.

Not what keeps results whole: that is the commit log (``pipeline.commits``), which two owners would take from each other
again and again. A claim is a lock of the operating system on a file of the store, so whoever dies lets go of it,
however it died; it has no time limit that could be too short or too long. It holds between all processes that see the
store through a file system with such locks: a local one, NFS 4, Lustre.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.storage import LocalStorage

POLL_SECONDS = 0.5


@contextmanager
def claimed(storage: LocalStorage, name: str) -> Iterator[float]:
    """Own what is called ``name`` while the block runs; gives the seconds that were waited for it."""
    path = storage.path(f"claims/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    # The file stays: if it were deleted, two processes could hold locks on two files of its name.
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL_SECONDS)  # a lock that is waited for in the kernel could not be interrupted
        yield time.monotonic() - started
