"""Claims in a bucket, which has no locks: whoever owns something says so again and again, and is dead when silent.

A lease is a log as commits are: entry n + 1 is created only if nobody else did, so of any number that take it at once
one gets it. An entry says who owns it, or that it was released. Beside the log lies the owner's beat, an object that it
writes anew every few seconds. Clocks of machines are not compared: who waits looks whether the beat changes, by a clock
of its own. An owner that was only slow, and was replaced meanwhile, is stopped by the commit log.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from pipeline.errors import UserError
from pipeline.objects import MissingObject, Objects
from pipeline.storage import Storage

BEAT = 5.0  # seconds between two beats
# Seconds without one after which an owner is taken for dead: as long as a lost host holds up those who go on for it.
SILENCE = 30.0
POLL = 2.0  # seconds between two looks of one who waits, at most


def this_process() -> str:
    """How this process is called where others read it: machine and process number."""
    return f"{os.uname().nodename}:{os.getpid()}"


class Owner(BaseModel):
    """Who owns something, and since when (seconds since 1970)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    owner: str  # as ``this_process`` has it
    since: float

    @property
    def told(self) -> str:
        """For a person."""
        return f"{self.owner} since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M:%S} UTC"

    @property
    def is_gone(self) -> bool:
        """Whether it is known to be dead: a process of this machine that is not there any more."""
        host, _, process = self.owner.rpartition(":")
        if host != os.uname().nodename:
            return False
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # of another user, and there
            return False
        return False


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    owner: Owner
    nonce: str
    released: bool


class Lease:
    """The lease under ``prefix``, as seen by ``owner``; ``beat`` and ``silence`` in seconds."""

    def __init__(
        self,
        objects: Objects,
        prefix: str,
        owner: Owner,
        *,
        beat: float = BEAT,
        silence: float = SILENCE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.objects, self.prefix, self.owner = objects, prefix, owner
        self.beat, self.silence, self.sleep = beat, silence, sleep
        self._nonce, self._number = uuid.uuid4().hex, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name=f"lease {prefix}", daemon=True)

    def take(self, *, wait: bool) -> Owner | None:
        """Become the owner; None then. Without ``wait`` the present owner as soon as it shows that it lives.

        One that is silent is replaced. Raises StoreError as the store does.
        """
        heard: tuple[int, bytes] | None = None
        silent, looked = 0.0, time.monotonic()
        while True:
            number, newest = _newest(self.objects, self.prefix)
            if newest is None or newest.released or newest.owner.is_gone or silent > self.silence:
                if self._put(number + 1, released=False):
                    self._number = number + 1
                    self._thread.start()
                    return None
                heard, silent = None, 0.0
                continue
            sign, now = (number, self._beat_of()), time.monotonic()
            # A look that took long, for the store did not answer, says nothing of how long the owner was silent.
            silent, looked = silent + min(now - looked, self.beat), now
            if sign != heard:
                if heard is not None and not wait:
                    return newest.owner
                heard, silent = sign, 0.0
            self.sleep(min(self.beat / 2, POLL))

    def release(self) -> None:
        """Let go of it; nothing happens where somebody took it meanwhile, or where the store does not answer."""
        self._over.set()
        self._thread.join()
        with suppress(UserError, OSError):  # who comes next waits for the silence to be long enough
            self._put(self._number + 1, released=True)

    def forget(self) -> None:
        """Remove all traces, once nobody could do anything as its owner. Raises as the store does."""
        for name, _ in list(self.objects.names(f"{self.prefix}/")):
            self.objects.remove(name)

    def _put(self, number: int, *, released: bool) -> bool:
        entry = _Entry(owner=self.owner, nonce=self._nonce, released=released)
        return self.objects.create(f"{self.prefix}/{number:08d}.json", entry.model_dump_json().encode())

    def _beat_of(self) -> bytes:
        try:
            return self.objects.read(f"{self.prefix}/beat")
        except MissingObject:
            return b""

    def _keep_beating(self) -> None:
        count = 0
        while not self._over.is_set():
            with suppress(UserError, OSError):  # a store that fails for a while: the next beat may reach it
                self.objects.write(f"{self.prefix}/beat", f"{self._nonce} {count}".encode())
            count += 1
            self._over.wait(self.beat)


def owner_of_lease(storage: Storage, prefix: str, *, silence: float = SILENCE) -> Owner | None:
    """Who owns the lease under ``prefix``, without taking it: None for nobody, or for one that has been silent.

    Times are those of the storage: no clock of a machine is asked.
    """
    number, newest = _newest(storage.objects(""), prefix)
    if newest is None or newest.released or newest.owner.is_gone:
        return None
    signs = [storage.age(key) for key in (f"{prefix}/beat", f"{prefix}/{number:08d}.json")]
    return newest.owner if any(age is not None and age < silence for age in signs) else None


def age_of_lease(storage: Storage, prefix: str) -> float | None:
    """Seconds since the lease was last taken or released, by the storage's clock; None where it never was."""
    number, newest = _newest(storage.objects(""), prefix)
    return None if newest is None else storage.age(f"{prefix}/{number:08d}.json")


def _newest(objects: Objects, prefix: str) -> tuple[int, _Entry | None]:
    """The number of the newest entry, 0 where there is none, and the entry."""
    names = [name for name in objects.below(prefix) if name.endswith(".json")]
    if not names:
        return 0, None
    number = int(names[-1].removesuffix(".json"))
    try:
        return number, _Entry.model_validate_json(objects.read(f"{prefix}/{names[-1]}"))
    except MissingObject:  # removed meanwhile: there is nothing left to own
        return number, None
