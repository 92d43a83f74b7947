"""Temporary folders that do not outlive their process for long: what a killed one left, the next one removes.

A folder is locked while it is in use, and the kernel frees the lock however its holder dies. Nothing here knows what
is in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "rayfall-scratch-"
_MARK = ".made-by-rayfall"  # a file: what does not hold it is somebody else's, whatever it is called


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder below ``parent`` (made if need be), removed on leaving.

    On entering, such folders of processes that were killed are removed too; where the file system has no locks they
    stay, for nobody can tell there. Raises OSError where a folder cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(f"{_PREFIX}*"):
        _remove_if_abandoned(path)
    folder, lock = _new_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)  # and with it the lock


def _new_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # a cleaner of temporary folders was quicker
        _lock(lock, wait=True)
        if folder.exists():
            (folder / _MARK).touch()
            return folder, lock
        os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone, or somebody else's
        return
    try:
        if (folder / _MARK).is_file() and _lock(lock, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(handle: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody holds it, or there are no locks here
        return False
    return True
