"""Results in a bucket: what is published is uploaded, what is fetched is copied to this machine once and checked.

A folder is published under a key that nobody uses twice (``pipeline.commits``), so a copy that is whole stays right for
ever: copies need no agreement between machines, and any of them may be deleted at any time but while it is read.
"""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from pipeline.errors import UserError
from pipeline.objects import MissingObject, Objects, check_name, open_objects
from pipeline.s3 import S3Objects
from pipeline.s3_requests import FIRST_CONTACT, S3Requests
from pipeline.storage import Damaged, FileRecord, fault_of, records_of

COPIES = "RAYFALL_COPIES"  # names the folder of this machine for copies, where the default has no room
TRANSFERS = 8  # files of a folder that are uploaded, fetched or removed at once
IN_USE_SECONDS = 6 * 3600.0  # a copy that was asked for since then may still be read
SPARE = 0.05  # share of the disk that copies leave free
# Tries of each request, with waits of two minutes in all: a gateway that is started anew is back in less, and training
# that ends for want of it costs more than the wait. A store that never answered is given up in seconds all the same.
ATTEMPTS = 16
HASTY: dict[str, Any] = {"attempts": 1, "connect_timeout": 1.0, "read_timeout": 2.0}  # for what nobody depends on
UNHEARD_SECONDS = 60.0  # until somebody who could not be told is told something again: 3 % of the time at most


@dataclass(frozen=True)
class S3Storage:
    """Keys below a prefix of a bucket. ``copies`` is a folder of this machine, common to all of its processes."""

    bucket: S3Objects
    copies: Path
    patience: float = 2.0
    _hasty: S3Requests = field(default_factory=lambda: S3Requests(**HASTY), init=False, repr=False, compare=False)
    _quiet: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)  # until when, by key

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_quiet": {}}  # other machines' clocks run from another moment

    @property
    def address(self) -> str:
        return self.bucket.address

    def exists(self, key: str) -> bool:
        return self.bucket.size(key) is not None or bool(self.bucket.below(key))

    def list(self, key: str) -> list[str]:
        return self.bucket.below(key)

    def read(self, key: str) -> bytes:
        return self.bucket.read(key)

    def age(self, key: str) -> float | None:
        return self.bucket.age(key)

    def put_new(self, key: str, data: bytes) -> bool:
        return self.bucket.create(key, data)

    def put(self, key: str, data: bytes) -> None:
        self.bucket.write(key, data)

    def tell(self, key: str, data: bytes) -> None:
        if time.monotonic() < self._quiet.get(key, 0.0):
            return
        pause = self.patience  # nobody looks more often
        try:
            replace(self.bucket, requests=self._hasty).write_unchecked(key, data)
        except UserError:
            pause = UNHEARD_SECONDS
        self._quiet[key] = time.monotonic() + pause

    def remove(self, key: str) -> None:
        names = [name for name, _ in self.bucket.names(f"{key}/")]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(self.bucket.remove, [key, *names]))
        shutil.rmtree(self._copy(key), ignore_errors=True)

    def new_folder(self, key: str) -> Path:
        path = self._copy(key)
        path.mkdir(parents=True)
        return path

    def publish(self, key: str) -> dict[str, FileRecord]:
        folder = self._copy(key)
        records = records_of(folder)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda name: self.bucket.upload(f"{key}/{name}", folder / name), records))
        return records

    def fault(self, key: str, files: Mapping[str, FileRecord]) -> str | None:
        there = {name.removeprefix(f"{key}/"): size for name, size in self.bucket.names(f"{key}/")} if files else {}
        for name, record in files.items():
            if name not in there:
                return f"{name} is missing"
            if there[name] != record.bytes:
                return f"{name} has {there[name]} bytes instead of {record.bytes}"
        return None

    def fetch(self, key: str, files: Mapping[str, FileRecord]) -> Path:
        folder = self._copy(key)
        wanted = {name: record for name, record in files.items() if fault_of(folder / name, name, record)}
        if wanted:
            folder.mkdir(parents=True, exist_ok=True)
            self._make_room(sum(record.bytes for record in wanted.values()))
            with ThreadPoolExecutor(TRANSFERS) as pool:
                list(pool.map(lambda one: self._fetch(key, *one), wanted.items()))
        if folder.is_dir():
            os.utime(folder)  # the time of its last use
        return folder

    def objects(self, key: str) -> Objects:
        if key:
            check_name(key, self.address)
        return replace(self.bucket, prefix="/".join(part for part in (self.bucket.prefix, key) if part))

    def ray_address(self, key: str) -> str:
        """pyarrow, which Ray writes with, takes keys from the environment, but no endpoint, as boto3 does."""
        endpoint, region = self.bucket.requests.place(self.address)
        asked = {name: told for name, told in (("region", region), ("endpoint_override", endpoint)) if told}
        return f"{self.address}/{key}" + (f"?{urlencode(asked)}" if asked else "")

    def cache_folder(self, name: str) -> Path:
        return self.copies / quote(name, safe="")

    def _copy(self, key: str) -> Path:
        check_name(key, self.address)
        return self.copies / quote(f"{self.address.removeprefix('s3://')}/{key}", safe="")

    def _fetch(self, key: str, name: str, record: FileRecord) -> None:
        """Copy one file, which gets its name when it is whole. Raises Damaged."""
        check_name(name, f"{self.address}/{key}")
        path = self._copy(key) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            self.bucket.fetch(f"{key}/{name}", unfinished)
            if (fault := fault_of(unfinished, name, record)) is not None:
                raise Damaged(f"{self.address}/{key}: {fault}")
            unfinished.replace(path)
        except MissingObject as error:
            raise Damaged(str(error)) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        """Delete copies and what was never published until ``needed`` bytes fit; what nobody asked for longest goes
        first."""
        disk = shutil.disk_usage(self.copies)
        if disk.free - needed >= SPARE * disk.total:
            return
        now = time.time()
        for path in sorted(self.copies.iterdir(), key=_last_use):
            if now - _last_use(path) < IN_USE_SECONDS or disk.free - needed >= SPARE * disk.total:
                return
            shutil.rmtree(path, ignore_errors=True)
            disk = shutil.disk_usage(self.copies)


def _last_use(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def open_bucket(address: str, *, known: bool = False) -> S3Storage:
    """The storage at ``s3://BUCKET/PREFIX``, as ``open_storage``. Raises UserError for another address."""
    if not address.startswith("s3://"):
        raise UserError(f"store {address} is no place for results; give a folder or s3://BUCKET/PREFIX")
    objects = open_objects(address)
    assert isinstance(objects, S3Objects), "an s3:// address is a bucket's"
    requests = S3Requests(attempts=ATTEMPTS, first_contact=math.inf if known else FIRST_CONTACT)
    return S3Storage(replace(objects, requests=requests), copies_folder())


def copies_folder() -> Path:
    """Where this machine keeps copies. Not a setting of the experiment: any process opens a storage by its address."""
    return Path(os.environ.get(COPIES) or "~/.cache/rayfall/results").expanduser()
