"""Row 1, the plain process: a worker killed at any moment ends in the same bits and has seen every example once.

Real SIGKILL, at moments drawn from a seed, and right after a commit. A commit's entry stays in the log when its files
are pruned, so the hashes of weights, average and optimizer of every checkpoint that there ever was are compared.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytestmark = pytest.mark.faults

STEPS, INTERVAL, KILLS_PER_RUN, SEED = 30, 3, 5, 20261122


class Attempt(NamedTuple):
    """One process: what it read by step (from 0), where it began, its last commit, the last that it had begun to write
    when it ended, and when its first step was done."""

    began_at: int
    committed: int
    begun: int
    read: dict[int, list[int]]
    first_done: float | None


def attempts_of(tiny: Any, store: Path, ledger: Path) -> list[Attempt]:
    """The processes of a run in their order, by the commit log and the ledger."""
    rows = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    found, reached = [], 0
    entries = tiny.log(store).entries()
    for owner in dict.fromkeys(entry.owner for entry in entries):
        pid = int(owner.rpartition(":")[2])
        mine = [row for row in rows if row["pid"] == pid]
        committed = max((entry.info["step"] for entry in entries if entry.owner == owner and entry.info), default=0)
        read = {row["step"]: row["examples"] for row in mine if "step" in row}
        done = [row["at"] for row in mine if "done" in row]
        begun = max((row["begun"] for row in mine if "begun" in row), default=reached)
        found.append(Attempt(reached, max(reached, committed), begun, read, done[0] if done else None))
        reached = max(reached, committed)
    return found


def seen_once(attempts: list[Attempt], examples: int) -> bool:
    """Whether the committed steps saw, epoch for epoch, every example exactly once."""
    stream: list[int] = []
    for attempt in attempts:
        for step in range(attempt.began_at, attempt.committed):
            stream += attempt.read[step]
    epochs = [stream[start : start + examples] for start in range(0, len(stream), examples)]
    whole = all(sorted(epoch) == list(range(examples)) for epoch in epochs[:-1])
    return whole and len(set(epochs[-1])) == len(epochs[-1])


def killed_run(
    tiny: Any, zygote: Any, folder: Path, dice: random.Random, kills: int, seconds: float
) -> tuple[list[str], list[float]]:
    """Train to the end with up to ``kills`` kills: how each came, and how long until the next step was done."""
    settings, ledger = tiny.settings(folder / "store", steps=STEPS, log_every=INTERVAL), folder / "ledger"
    told, ends = [], []
    while True:
        how: dict[str, Any] = {}
        if len(told) < kills and dice.random() < 0.3:
            how = {"die_after_commit": dice.randint(1, 3)}
        elif len(told) < kills:
            how = {"kill_after": dice.uniform(0.0, seconds)}
        ended = zygote.child(settings, ledger, **how)
        if not ended.killed:
            assert ended.code == 0, f"{how} in {folder}"
            break
        told.append(json.dumps(how))
        ends.append(ended.ended)
    firsts = [one.first_done for one in attempts_of(tiny, folder / "store", ledger) if one.first_done is not None]
    waits = [min(after) - end for end in ends if (after := [first for first in firsts if first > end])]
    return told, waits


def test_killed_at_any_moment_the_same_bits_and_every_example_once(
    tiny: Any,
    zygote: Any,
    twin: Callable[[int], dict[int, Any]],
    repeats: int,
    tmp_path: Path,
    record_figure: Any,
) -> None:
    dice, straight = random.Random(SEED), twin(STEPS)
    plain = zygote.child(tiny.settings(tmp_path / "plain", steps=STEPS, log_every=INTERVAL), tmp_path / "plain-ledger")
    seconds, kills, waits, past_begun, being_written = plain.ended - plain.began, 0, [], 0, 0
    commits = runs = 0
    while kills < repeats:
        runs += 1  # not all are hit: a moment that was drawn may come after the end
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        told, waited = killed_run(tiny, zygote, folder, dice, min(KILLS_PER_RUN, repeats - kills), seconds)
        found = tiny.commits(folder / "store")
        assert all(hashes == straight[step] for step, hashes in found), f"{SEED=} {folder} {told}"
        assert found[-1][0] == STEPS
        attempts = attempts_of(tiny, folder / "store", folder / "ledger")
        assert seen_once(attempts, tiny.examples), f"{SEED=} {folder} {told}"
        past_begun = max(past_begun, *(max(one.read, default=one.begun - 1) + 1 - one.begun for one in attempts))
        being_written = max(being_written, *(one.begun - one.committed for one in attempts))
        kills, commits, waits = kills + len(told), commits + len(found), waits + waited
    # A commit is written beside the training: what a kill takes are the steps since it was begun, and those of a commit
    # that was still being written. A second one is never begun before the first is whole.
    assert past_begun <= INTERVAL
    assert being_written <= INTERVAL
    p50, p95 = np.percentile(waits, [50, 95])
    record_figure(
        1,
        "worker killed with SIGKILL at random moments and after commits, a plain process",
        f"{kills} of {kills} kills of {runs} runs: {commits} commits equal in all bits to the undisturbed twin's, "
        f"examples of committed steps seen exactly once; replayed at most {past_begun} steps since a commit was begun "
        f"(interval {INTERVAL}) and {being_written} whose commit was being written; next step done after "
        f"p50 {p50:.2f} s, p95 {p95:.2f} s, without the start of Python; seed {SEED}",
    )


def test_without_the_order_of_steps_examples_are_seen_twice_and_weights_differ(
    tiny: Any, zygote: Any, twin: Callable[[int], dict[int, Any]], tmp_path: Path, record_figure: Any
) -> None:
    """The twin: examples handed out from the first again, as by a loader that was not resumed."""
    settings = tiny.settings(tmp_path / "store", steps=STEPS, log_every=INTERVAL)
    how = {"without": "order"}
    assert zygote.child(settings, tmp_path / "ledger", die_after_commit=2, **how).killed
    assert zygote.child(settings, tmp_path / "ledger", **how).code == 0
    found, straight = tiny.commits(tmp_path / "store"), twin(STEPS)
    other = [step for step, hashes in found if hashes != straight[step]]
    assert other == list(range(3 * INTERVAL, STEPS + 1, INTERVAL))
    assert not seen_once(attempts_of(tiny, tmp_path / "store", tmp_path / "ledger"), tiny.examples)
    record_figure(
        1,
        "the same, with examples handed out from the first again",
        f"{len(other)} of {len(found)} commits have other bits, and examples are seen twice",
        protected=False,
    )
