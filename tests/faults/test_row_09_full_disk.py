"""Row 9: a disk that is full ends training with its name, and the last checkpoint is whole."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError

pytestmark = pytest.mark.faults

STEPS, TRIALS, SEED = 8, 10, 9


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB of its own; the test is skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk of 20 MB to fill: {mounted.stderr.strip() or 'mount failed'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all room but ``leave`` bytes; the file that does."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return ballast


def test_the_disk_is_named_and_the_last_commit_is_whole(
    tiny: Any, twin: Callable[[int], dict[int, Any]], disk: Path, record_figure: Any
) -> None:
    dice, straight, whole = random.Random(SEED), twin(STEPS), 0
    size = sum(record.bytes for record in first_entry(tiny, disk).files.values())
    for trial in range(TRIALS):
        store, leave = disk / f"store-{trial}", int(size * dice.uniform(0.05, 2.8))
        run = tiny.run(tiny.settings(store, steps=STEPS))
        ballast = fill(disk, leave)
        with pytest.raises(UserError, match=r"^stages\.sr: the disk of \S+ is full \([0-9.]+ MB are free\); make room"):
            run.train(lambda entry, metrics: None)
        ballast.unlink()
        found = tiny.log(store).latest_whole()
        reached = found[0].info["step"] if found else 0
        again = tiny.run(tiny.settings(store, steps=STEPS))
        assert again.state.step == reached == len(tiny.commits(store))
        again.train(lambda entry, metrics: None)
        whole += dict(tiny.commits(store)) == straight
        shutil.rmtree(store)
    assert whole == TRIALS
    record_figure(
        9,
        "disk full while a checkpoint is written (20 MB tmpfs)",
        f"one sentence with the folder {TRIALS} of {TRIALS}; last commit whole and gone on from to the twin's bits "
        f"{whole} of {TRIALS}; seed {SEED}",
    )


def first_entry(tiny: Any, disk: Path) -> Any:
    store = disk / "first"
    tiny.train(tiny.settings(store, steps=1))
    entry = tiny.log(store).entries()[-1]
    shutil.rmtree(store)
    return entry


def test_without_commits_the_last_checkpoint_is_lost(tiny: Any, disk: Path, record_figure: Any) -> None:
    """The twin: one file that is written over again and again, as a plain loop does; and nobody names the disk."""
    run, file = tiny.run(tiny.settings(disk / "store", steps=STEPS)), disk / "checkpoint.pt"
    dice, lost = random.Random(SEED), 0
    torch.save(state_of(run), file)
    size = file.stat().st_size
    for _ in range(TRIALS):
        ballast = fill(disk, 0)
        room = int(size * dice.uniform(0.05, 0.95))
        file.write_bytes(b"")
        ballast = fill(disk, room)
        with pytest.raises((RuntimeError, OSError)) as caught:
            torch.save(state_of(run), file)
        assert str(disk) not in str(caught.value)
        ballast.unlink()
        try:
            torch.load(file, weights_only=True)
        except Exception:  # whatever it raises, there is nothing to go on from
            lost += 1
        torch.save(state_of(run), file)
    assert lost == TRIALS
    record_figure(
        9,
        "the same, one checkpoint written over in place",
        f"last checkpoint lost {lost} of {TRIALS}, and no error names the disk",
        protected=False,
    )


def state_of(run: Any) -> dict[str, Any]:
    return {name: getattr(run.state, name).state_dict() for name in ("net", "ema", "optimizer")}
