"""One owner at a time, of an experiment or of one of its trainings: others wait for it, or are refused.

Not what keeps results whole: that is the commit log (``pipeline.commits``), which two owners would take from each other
again and again. In a folder a claim is a lock of the operating system on a file, so whoever dies lets go of it, however
it died; it holds between all processes that see the folder through a file system with such locks: a local one, NFS 4,
Lustre. A bucket has no locks (``pipeline.leases``).
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from pipeline.errors import UserError
from pipeline.leases import Lease, Owner, age_of_lease, owner_of_lease, this_process
from pipeline.storage import LocalStorage, Storage

POLL_SECONDS = 0.5
LOOK_SECONDS = 0.1  # longer than `owner_of` holds a lock, which is no owner to be refused for


class Claimed(UserError):  # noqa: N818 - it states what happened
    """Somebody else is at work on it; the message says who, and since when."""


@contextmanager
def claimed(
    storage: Storage,
    name: str,
    *,
    refused: Callable[[str], str] | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[float]:
    """Own what is called ``name`` while the block runs; gives the seconds that were waited for it.

    Where another process owns it this one waits. With ``refused`` it does not: Claimed is raised, with the sentence
    that ``refused`` makes of the owner ("HOST:PID since ..."). ``clock`` gives seconds since 1970.
    """
    started, owner = time.monotonic(), Owner(owner=this_process(), since=clock())
    if not isinstance(storage, LocalStorage):
        lease = Lease(storage.objects(""), f"claims/{name}", owner)
        if (other := lease.take(wait=refused is None)) is not None:
            assert refused is not None, "who waits is not refused"
            raise Claimed(refused(other.told))
        try:
            yield time.monotonic() - started
        finally:
            lease.release()
        return
    path = storage.path(f"claims/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file stays: if it were deleted, two processes could hold locks on two files of its name.
    with path.open("a+") as file:
        tries = 0
        while not _locked(file, fcntl.LOCK_EX):
            tries += 1
            if refused is not None and tries > 1:
                raise Claimed(refused(_told_in(file)))
            # A lock that is waited for in the kernel could not be interrupted.
            time.sleep(POLL_SECONDS if refused is None else LOOK_SECONDS)
        file.truncate(0)
        file.write(owner.model_dump_json())
        file.flush()
        yield time.monotonic() - started


def owner_of(storage: Storage, name: str) -> Owner | None:
    """Who owns what is called ``name``; None for nobody, whatever the dead have left. Nothing is written."""
    if not isinstance(storage, LocalStorage):
        return owner_of_lease(storage, f"claims/{name}")
    path = storage.path(f"claims/{name}")
    try:
        file = path.open()
    except FileNotFoundError:
        return None
    with file:
        if _locked(file, fcntl.LOCK_SH):  # and let go of at once
            return None
        return _owner_in(file) or Owner(owner="another process", since=path.stat().st_mtime)


def held_for(storage: Storage, name: str) -> float:
    """Seconds for which the owner of what is called ``name`` has had it, by the storage's clock."""
    local = isinstance(storage, LocalStorage)
    age = storage.age(f"claims/{name}") if local else age_of_lease(storage, f"claims/{name}")
    return age or 0.0


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner_in(file: IO[str]) -> Owner | None:
    """Who wrote the file; between its lock and its bytes it says nothing, or names the one before."""
    file.seek(0)
    try:
        return Owner.model_validate(json.loads(file.read()))
    except ValueError:
        return None


def _told_in(file: IO[str]) -> str:
    owner = _owner_in(file)
    return "another process" if owner is None else owner.told
