"""Batches by step: the same from any number of processes and from any step on, each example once in every epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from pipeline.data.batches import StepBatches, step_batches
from pipeline.data.cache import ShardCache
from pipeline.data.loading import Examples
from pipeline.data.manifest import Form, Manifest
from pipeline.data.ordering import ExampleOrder
from pipeline.errors import UserError
from pipeline.objects import open_objects

WriteDataSet = Callable[..., Manifest]
Indices = npt.NDArray[np.int64]

COUNT, SHARD = 55, 7  # eight shards, the last of six
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
PIXELS[:, 0, 0, 0] = np.arange(COUNT)  # by which an image is known again
LABELS = np.arange(COUNT) % 10
PATIENCE = 30.0  # seconds for processes to begin and to end


@pytest.fixture
def folder(tmp_path: Path, write_data_set: WriteDataSet) -> Path:
    form = Form(size=8, encoding="raw")
    write_data_set(tmp_path / "set", PIXELS, LABELS, forms=[form], shard_size=SHARD)
    return tmp_path / "set"


def _batches(
    folder: Path, batch_size: int, rank: int = 0, world: int = 1, *, window: int = 3, lanes: int = 1
) -> StepBatches:
    examples = Examples(folder, "train", keep_bytes=0)
    order = ExampleOrder(examples.counts, seed=0, stage="base", window=window, lanes=lanes)
    return StepBatches(examples, order, batch_size, np.array_split(np.arange(batch_size), world)[rank])


def _known(images: Any) -> list[int]:
    """Which examples they are, after a look at every pixel."""
    found = np.asarray(images)[:, 0, 0, 0].tolist()
    assert np.array_equal(images, PIXELS[found])
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3")
@pytest.mark.parametrize("processes", [0, 1, 2, 3])
def test_any_number_of_processes_and_any_first_step_give_the_same_batches(folder: Path, processes: int) -> None:
    """Steps 5 and 10 of 11 are whole epochs; of 8, an epoch ends within step 6."""
    for batch_size, start in ((8, 0), (8, 5), (11, 5), (11, 8)):
        batches = _batches(folder, batch_size)
        steps = range(start, start + 6)
        found = list(step_batches(batches, steps, processes=processes, pin=False))
        assert len(found) == 6
        for step, (images, labels) in zip(steps, found, strict=True):
            expected = batches.order.of_step(step, batch_size)
            assert _known(images) == expected.tolist()
            assert labels.tolist() == LABELS[expected].tolist()
            assert (images.shape, str(images.dtype), str(labels.dtype)) == (
                (batch_size, 8, 8, 3),
                "torch.uint8",
                "torch.int64",
            )


# The ledger: what was read, by the images themselves


@pytest.mark.parametrize(("window", "lanes"), [(16, 1), (2, 1), (2, 4), (1, 6)])
def test_every_epoch_holds_every_example_once_however_many_workers_share_it(
    folder: Path, window: int, lanes: int
) -> None:
    """Two and a half epochs. At any moment every example was read as often as any other, or once more."""
    batch_size, steps = 24, range(6)
    assert len(steps) * batch_size > 2.5 * COUNT
    ledgers = []
    for world in (1, 2, 3, 4, 8):
        read = [
            list(step_batches(_batches(folder, batch_size, rank, world, window=window, lanes=lanes), steps, **HERE))
            for rank in range(world)
        ]
        ledger = [[example for images, _ in parts for example in _known(images)] for parts in zip(*read, strict=True)]
        seen = np.zeros(COUNT, dtype=int)
        for number, batch in enumerate(ledger, 1):
            np.add.at(seen, batch, 1)
            assert seen.sum() == number * batch_size
            assert set(seen) <= {number * batch_size // COUNT, number * batch_size // COUNT + 1}
        ledgers.append(ledger)
    assert all(ledger == ledgers[0] for ledger in ledgers), "the same global batches"


HERE: dict[str, Any] = {"processes": 0, "pin": False}

# A training of several workers, as far as data are concerned: it notes which examples each step read.
TRAINING = """
import os, sys, time
import numpy as np
from pipeline.data.loading import Examples
from pipeline.data.ordering import ExampleOrder

folder, ledger, start, stop, world = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
examples = Examples(folder, "train")
order = ExampleOrder(examples.counts, seed=0, stage="base", window=2, lanes=4)
with open(ledger, "a") as file:
    for step in range(start, stop):
        parts = [examples.read(order.of_step(step, 24, part))[0] for part in np.array_split(np.arange(24), world)]
        print(step, *np.concatenate(parts)[:, 0, 0, 0], file=file, flush=True)
        time.sleep(0.01)
"""


def test_killed_at_random_moments_and_resumed_by_others_it_reads_what_it_would_have_read(
    folder: Path, tmp_path: Path
) -> None:
    """Committed is every third step; what was read after the last commit is read again."""
    ledger, stop, start = tmp_path / "ledger", 60, 0
    committed: list[list[int]] = []
    lot, worlds = np.random.default_rng(7), iter([1, 4, 3, 8, 2] * 9)
    while start < stop:
        ledger.unlink(missing_ok=True)
        command = [sys.executable, "-c", TRAINING, *map(str, (folder, ledger, start, stop, next(worlds)))]
        killed_at = start + int(lot.integers(1, 20))  # how many steps it gets
        with subprocess.Popen(command) as process:
            while process.poll() is None and _lines(ledger) < killed_at - start:
                time.sleep(0.002)
            process.kill()
        rows = [
            [int(word) for word in line.split()]
            for line in ledger.read_text().splitlines(keepends=True)
            if line[-1] == "\n"
        ]
        assert [row[0] for row in rows] == list(range(start, start + len(rows)))
        kept = len(rows) if start + len(rows) == stop else len(rows) // 3 * 3
        committed += [row[1:] for row in rows[:kept]]
        start += kept
    batches = _batches(folder, 24, window=2, lanes=4)
    assert committed == [batches.order.of_step(step, 24).tolist() for step in range(stop)]
    counts = np.bincount(np.concatenate(committed), minlength=COUNT)
    assert set(counts) <= {60 * 24 // COUNT, 60 * 24 // COUNT + 1}


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


# What goes wrong


@pytest.mark.parametrize("processes", [0, 2])
def test_an_error_of_reading_arrives_as_it_was_at_its_step(folder: Path, processes: int) -> None:
    path = folder / "8-raw/train-00003.tar"
    path.write_bytes(path.read_bytes().replace(PIXELS[25].tobytes(), PIXELS[26].tobytes()))
    batches = _batches(folder, 4)
    damaged = next(step for step in range(20) if 25 in batches.order.of_step(step, 4))
    found = step_batches(batches, range(20), processes=processes, pin=False)
    for _ in range(damaged):
        next(found)
    with pytest.raises(UserError) as caught:
        next(found)
    assert type(caught.value) is UserError
    assert str(caught.value).startswith("shard 8-raw/train-00003.tar of ")
    assert "\n" not in str(caught.value)
    assert not _readers(), "also while somebody holds the traceback"


def test_a_data_set_that_was_replaced_meanwhile_is_refused_in_a_sentence(
    folder: Path, write_data_set: WriteDataSet
) -> None:
    """The processes open it for themselves, so they are the ones that notice."""
    batches = _batches(folder, 4)
    write_data_set(folder, PIXELS[::-1], LABELS, forms=[Form(size=8, encoding="raw")], shard_size=SHARD)
    with pytest.raises(UserError, match=r"was replaced by another one while it was in use; start again$"):
        next(step_batches(batches, range(20), processes=1, pin=False))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_killed_process_is_an_error_and_no_hang(folder: Path, at_once: bool) -> None:
    found = step_batches(_batches(folder, 4), range(1000), processes=2, pin=False)
    next(found)
    _readers()[-1].kill()
    time.sleep(0 if at_once else 1)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"is gone; was memory short\?|exited unexpectedly"):
        for _ in found:
            pass
    assert time.monotonic() - began < PATIENCE
    assert not _readers()


def test_an_iteration_that_is_given_up_leaves_no_process(folder: Path) -> None:
    found = step_batches(_batches(folder, 4), range(1000), processes=2, pin=False)
    next(found)
    assert len(_readers()) == 2
    del found
    assert not _readers()


def _readers() -> list[psutil.Process]:
    """The processes that read ahead, once those that are ending have ended."""
    from multiprocessing.forkserver import _forkserver

    server = _forkserver._forkserver_pid  # type: ignore[attr-defined]
    living = psutil.Process(server).children() if server else []
    _, alive = psutil.wait_procs(living, timeout=1)
    return alive


KILLED = """
import sys
import psutil
import numpy as np

if __name__ == "__main__":
    from pipeline.data.batches import StepBatches, step_batches
    from pipeline.data.loading import Examples
    from pipeline.data.ordering import ExampleOrder

    examples = Examples(sys.argv[1], "train")
    order = ExampleOrder(examples.counts, seed=0, stage="base")
    found = step_batches(StepBatches(examples, order, 4, np.arange(4)), range(1000), processes=2, pin=False)
    next(found)
    print(*(one.pid for one in psutil.Process().children(recursive=True)), flush=True)
    input()
"""


def test_a_training_that_is_killed_leaves_no_process(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    with subprocess.Popen([sys.executable, script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        assert training.stdout
        left = [psutil.Process(int(pid)) for pid in training.stdout.readline().split()]
        assert len(left) == 4, "two that read, who forks them, and who cleans up after them"
        os.kill(training.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(left, timeout=PATIENCE)
        assert not alive


# Ahead of need


class Asked:
    """Examples that note what they are asked for, in turn: shards ahead of need and shards read."""

    def __init__(self, examples: Examples) -> None:
        self.examples, self.shard_of = examples, np.repeat(np.arange(len(examples.counts)), examples.counts)
        self.ahead: list[list[int]] = []
        self.missed: set[int] = set()

    def prefetch(self, needed: list[int], ahead: list[int]) -> None:
        self.ahead.append(list(dict.fromkeys([*needed, *ahead])))

    def read(self, indices: Indices) -> Any:
        self.missed |= set(self.shard_of[indices]) - {shard for shards in self.ahead for shard in shards}
        return self.examples.read(indices)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("start", [0, 3, 11])
def test_shards_are_asked_for_before_they_are_read_and_no_more_than_three_windows_of_them(
    tmp_path: Path, write_data_set: WriteDataSet, lanes: int, start: int
) -> None:
    pixels = np.zeros((64, 4, 4, 3), dtype=np.uint8)
    write_data_set(tmp_path, pixels, np.zeros(64, dtype=int), forms=[Form(size=4, encoding="raw")], shard_size=2)
    batches = _batches(tmp_path, 4, window=2, lanes=lanes)
    asked = batches.examples = Asked(batches.examples)  # type: ignore[assignment]
    list(step_batches(batches, range(start, start + 40), **HERE))
    assert not asked.missed
    assert len(asked.ahead) == 40 // (batches.steps_per_window // 2 or 1), "twice a window"
    assert max(map(len, asked.ahead)) <= 3 * 2 * lanes
    first = set(batches.examples.shard_of[batches.order.of_step(start, 4)])  # type: ignore[attr-defined]
    assert first <= set(asked.ahead[0][: 2 * lanes]), "what the first step needs comes first"


def test_workers_with_lanes_of_their_own_ask_for_shards_of_their_own(folder: Path) -> None:
    asked = []
    for rank in range(2):
        batches = _batches(folder, 8, rank, 2, window=1, lanes=2)
        batches.examples = Asked(batches.examples)  # type: ignore[assignment]
        list(step_batches(batches, range(3), **HERE))
        asked.append({shard for shards in batches.examples.ahead for shard in shards})  # type: ignore[attr-defined]
    assert len(asked[0] & asked[1]) <= 1, "the one that the two lanes meet in"


@pytest.fixture
def remote(write_data_set: WriteDataSet, s3_store: Any) -> Iterator[str]:
    address = f"s3://{s3_store.bucket()}/set"
    write_data_set(address, PIXELS, LABELS, forms=[Form(size=8, encoding="raw")], shard_size=SHARD)
    return address


@pytest.mark.s3
def test_a_remote_data_set_is_read_ahead_through_a_cache_that_holds_a_part_of_it(remote: str, tmp_path: Path) -> None:
    """Eight shards of 20 kB, room for six: evicted, fetched again, and every batch right.

    Processes reach the store with the credentials of now: the server that forks them may have been started before.
    """
    size = open_objects(remote).size("8-raw/train-00000.tar")
    assert size
    with ShardCache(tmp_path / "cache", 6 * size) as cache:
        examples = Examples(remote, "train", cache=cache, keep_bytes=0)
        order = ExampleOrder(examples.counts, seed=0, stage="base", window=2)
        batches = StepBatches(examples, order, 10, np.arange(10))
        for processes in (0, 2):
            found = step_batches(batches, range(12), processes=processes, pin=False)
            for step, (images, _) in enumerate(found):
                assert _known(images) == order.of_step(step, 10).tolist()
                assert _held(tmp_path / "cache") <= 6 * size


def _held(cache: Path) -> int:
    """The bytes in a cache, by file name; files come and go meanwhile."""
    held = 0
    for path in cache.iterdir():
        with suppress(FileNotFoundError):
            held += path.stat().st_size
    return held


@pytest.mark.s3
def test_a_cache_too_small_for_what_is_read_side_by_side_is_refused(remote: str, tmp_path: Path) -> None:
    size = open_objects(remote).size("8-raw/train-00000.tar")
    assert size
    with ShardCache(tmp_path / "cache", 3 * size) as cache:
        examples = Examples(remote, "train", cache=cache)
        batches = StepBatches(examples, ExampleOrder(examples.counts, seed=0, stage="base"), 10, np.arange(10))
        with pytest.raises(UserError, match=r"too few for the 8 shards .* shuffle in smaller windows"):
            batches.share_cache(1)
        small = StepBatches(examples, ExampleOrder(examples.counts, seed=0, stage="base", window=1), 10, np.arange(10))
        small.share_cache(1)  # two windows at their edge
        with pytest.raises(UserError, match="for 2 users"):
            small.share_cache(2)
