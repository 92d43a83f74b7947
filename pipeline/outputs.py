"""Files and folders that a person names for what a command makes: looked at before the work, written whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.storage import Storage


def check_file(path: Path | None) -> None:
    """Raise UserError where ``path`` cannot be written as a file. None: nobody named one."""
    if path is None:
        return
    with users_choice(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file to write")
        if _is_special(path):
            _check_writable(path, path, os.W_OK)
        else:
            _check_above(_place_of(path))


def check_folder(path: Path) -> None:
    """Raise UserError where ``path`` is no folder to write into and cannot become one."""
    with users_choice(path):
        if path.is_dir():
            _check_writable(path, path)
        elif path.exists():
            raise UserError(f"{path} is a file; name a folder")
        else:
            _check_above(path)


def _check_above(path: Path) -> None:
    """Raise UserError where nothing can be made in the nearest folder above ``path`` that is there."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is a file; name another place")
    _check_writable(path, above)


def _check_writable(path: Path, place: Path, mode: int = os.W_OK | os.X_OK) -> None:
    if not os.access(place, mode):
        raise UserError(f"{path} cannot be written: {place} is read-only; name another place")


def _is_special(path: Path) -> bool:
    """Whether there is something that is no file: a device, a pipe, /dev/stdout."""
    return path.exists() and not path.is_file()


def _place_of(path: Path) -> Path:
    """Where the file of that name lies: a link stays one."""
    return Path(os.path.realpath(path))


def write_whole(path: Path, text: str) -> Path:
    """Write a file, and the folders above it, so that a reader never finds it half written.

    What is no file, a device or a pipe, is written to as it is.
    """
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return path
    place = _place_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


@contextmanager
def users_choice(path: Path | None) -> Iterator[None]:
    """Errors of writing to a place that a person named are UserErrors. None: nobody named one, and they stay."""
    try:
        yield
    except OSError as error:
        if path is None:
            raise
        raise UserError(f"{path} cannot be written: {error.strerror}; name another place") from None


def keep_report(storage: Storage, key: str, page: str, path: Path | None = None) -> str:
    """Write a page where a person wants it, else as ``key`` of the storage; where it is."""
    if path is not None:
        with users_choice(path):
            return str(write_whole(path, page))
    storage.put(key, page.encode())
    return f"{storage.address}/{key}"
