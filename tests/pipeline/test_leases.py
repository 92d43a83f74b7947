"""Leases, which a bucket needs and any storage can hold: one winner, refusals by name, and owners that fall silent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.leases import Lease, Owner
from pipeline.storage import LocalStorage, Storage, open_storage

HERE = os.uname().nodename


def lease_of(storage: Storage, owner: str, *, silence: float = 0.5) -> Lease:
    return Lease(
        storage.objects(""), "claims/run", Owner(owner=owner, since=1_790_000_000.0), beat=0.1, silence=silence
    )


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path, patience=0.02)


@contextmanager
def silenced(lease: Lease) -> Iterator[None]:
    """The owner is dead or frozen: it beats no more, and has released nothing."""
    lease._over.set()
    lease._thread.join()
    yield


def test_of_many_that_take_it_at_once_one_gets_it(storage: LocalStorage) -> None:
    for _ in range(10):
        leases = [lease_of(storage, f"other:{number}", silence=60.0) for number in range(16)]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda lease: lease.take(wait=False), leases))
        winners = [lease for lease, owner in zip(leases, found, strict=True) if owner is None]
        assert len(winners) == 1
        assert {owner.owner for owner in found if owner is not None} == {winners[0].owner.owner}
        winners[0].release()


def test_a_living_owner_is_not_replaced_however_long_it_owns(storage: LocalStorage) -> None:
    first = lease_of(storage, "other:1")
    assert first.take(wait=False) is None
    time.sleep(1.0)  # twice the silence that would be taken for death
    owner = lease_of(storage, "other:2").take(wait=False)
    assert owner is not None
    assert owner.told == "other:1 since 2026-09-21 14:13:20 UTC"
    first.release()
    assert lease_of(storage, "other:2").take(wait=False) is None


def test_who_waits_gets_it_once_it_is_released(storage: LocalStorage) -> None:
    first = lease_of(storage, "other:1", silence=60.0)
    first.take(wait=True)
    threading.Timer(0.5, first.release).start()
    began = time.monotonic()
    assert lease_of(storage, "other:2", silence=60.0).take(wait=True) is None
    assert 0.3 < time.monotonic() - began < 30.0


def test_a_silent_owner_is_replaced_and_its_release_changes_nothing(storage: LocalStorage) -> None:
    first, second = lease_of(storage, "other:1"), lease_of(storage, "other:2")
    first.take(wait=False)
    with silenced(first):
        began = time.monotonic()
        assert second.take(wait=False) is None
        assert time.monotonic() - began >= 0.5
    first.release()  # it woke up
    third = lease_of(storage, "other:3").take(wait=False)
    assert third is not None
    assert third.owner == "other:2"


@dataclass(frozen=True)
class Frozen(LocalStorage):
    """A store that answers late for a while, with what it had before."""

    late: list[float] = field(default_factory=lambda: [0.6, 0.6, 0.6])

    def read(self, key: str) -> bytes:
        if key.endswith("/beat") and self.late:
            time.sleep(self.late.pop())
            return b"the last one before the outage"
        return super().read(key)


def test_a_store_that_does_not_answer_is_no_silence_of_the_owner(storage: LocalStorage) -> None:
    first = lease_of(storage, "other:1")
    first.take(wait=False)
    owner = lease_of(Frozen(storage.root, patience=0.02), "other:2").take(wait=False)
    first.release()
    assert owner is not None
    assert owner.owner == "other:1"


def test_a_dead_process_of_this_machine_is_replaced_at_once(storage: LocalStorage) -> None:
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    first = lease_of(storage, f"{HERE}:{process}", silence=60.0)
    first.take(wait=False)
    with silenced(first):
        began = time.monotonic()
        assert lease_of(storage, f"{HERE}:{os.getpid()}", silence=60.0).take(wait=False) is None
        assert time.monotonic() - began < 5.0


@pytest.mark.s3
def test_in_a_real_store_too(s3_store: Any) -> None:
    address = f"s3://{s3_store.bucket()}/store"
    one, other = open_storage(address), open_storage(address)
    first = lease_of(one, "other:1", silence=60.0)
    assert first.take(wait=False) is None
    owner = lease_of(other, "other:2", silence=60.0).take(wait=False)
    assert owner is not None
    assert owner.owner == "other:1"
    first.release()
    assert lease_of(other, "other:2", silence=60.0).take(wait=False) is None
