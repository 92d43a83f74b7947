"""The journal of the trials that train: what has begun and how it ended, kept by the store and not by Ray Tune.

One JSON file per trial under ``searches/<search>/trials/``, replaced whole, named after what the trial computes: so
settings that mean the same are one trial. A driver that was killed finds here what need not run again, what had begun,
and what each trial spent. Results lie elsewhere: scores and weights are results of nodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pipeline.storage import Storage

State = Literal["begun", "finished", "pruned", "failed"]
ATTEMPTS = 2  # at a trial that fails; more is in vain


@dataclass(frozen=True)
class TrialEntry:
    """One trial. ``round`` tells trials apart that may not be compared: other stages, or other pruning."""

    key: str
    round: str
    settings: Mapping[str, Any]  # the searched ones alone
    asked: float  # unix time of the newest attempt
    state: State = "begun"
    attempts: int = 1
    rungs: tuple[tuple[int, float], ...] = ()  # (steps, score) of the looks of pruning
    trained: Mapping[str, float] = field(default_factory=dict)  # run it is at -> seconds of training before it came
    trained_hours: float = 0.0  # of a GPU, or of a CPU, for trainings that it has left, over all attempts
    scored_hours: float = 0.0  # of a GPU, or of a CPU, for scores and looks, over all attempts
    point: Mapping[str, Any] | None = None  # how it ended
    in_vain: bool = False  # whether it failed for what another attempt would meet again

    @property
    def ended(self) -> bool:
        """Whether it is not run again: a failure may be the machine's, and is then worth a second attempt."""
        tried = self.in_vain or self.attempts >= ATTEMPTS
        return self.state in ("finished", "pruned") or (self.state == "failed" and tried)

    @property
    def objective(self) -> float | None:
        """What is minimised; None for a trial that has none."""
        return None if self.point is None else self.point["objective"]


@dataclass(frozen=True)
class TrialLog:
    """The journal under ``prefix``. Of one trial there is one writer at a time: the driver, then the trial itself."""

    storage: Storage
    prefix: str

    def get(self, key: str) -> TrialEntry | None:
        """The trial ``key``; None if it never began."""
        path = self._path(key)
        if not self.storage.exists(path):
            return None
        found = json.loads(self.storage.read(path))
        return TrialEntry(**{**found, "rungs": tuple((int(step), float(score)) for step, score in found["rungs"])})

    def known(self, key: str) -> TrialEntry:
        """The trial ``key``, which has been begun."""
        found = self.get(key)
        assert found is not None, f"trial {key} was never begun"
        return found

    def entries(self) -> list[TrialEntry]:
        """All trials, by key."""
        names = self.storage.list(f"{self.prefix}/trials")
        found = [self.get(name.removesuffix(".json")) for name in names]
        return [entry for entry in found if entry is not None]

    def begin(self, key: str, identity: str, settings: Mapping[str, Any], now: float) -> TrialEntry:
        """Note that the trial is about to run, of the round ``identity``, at the unix time ``now``.

        It is another attempt where it failed, and the same one where it was cut off.
        """
        before = self.get(key)
        if before is None:
            return self._put(TrialEntry(key, identity, dict(settings), now))
        assert not before.ended, f"trial {key} has ended"
        attempts = before.attempts + (before.state == "failed")
        return self._put(replace(before, asked=now, state="begun", attempts=attempts, point=None))

    def look(self, key: str, step: int, score: float) -> None:
        """Note the score of a look, so that it is not drawn again."""
        entry = self.known(key)
        rungs = {**dict(entry.rungs), step: score}
        self._put(replace(entry, rungs=tuple(sorted(rungs.items()))))

    def train(self, key: str, run: str, seconds: float) -> float:
        """Note how long ``run`` had been trained when the trial came to it: until it leaves, the first note stays."""
        entry = self.known(key)
        if run not in entry.trained:
            self._put(replace(entry, trained={**entry.trained, run: seconds}))
            return seconds
        return entry.trained[run]

    def leave(self, key: str, run: str, hours: float) -> None:
        """Note that the trial is no longer at ``run``, and the hours of training that it had of it."""
        entry = self.known(key)
        trained = {other: seconds for other, seconds in entry.trained.items() if other != run}
        self._put(replace(entry, trained=trained, trained_hours=entry.trained_hours + hours))

    def spend(self, key: str, hours: float) -> None:
        """Note what scores or looks cost, beside all that did before."""
        entry = self.known(key)
        self._put(replace(entry, scored_hours=entry.scored_hours + hours))

    def end(self, key: str, state: State, point: Mapping[str, Any], *, in_vain: bool = False) -> None:
        """Note how the trial ended; ``in_vain``: it would fail again."""
        self._put(replace(self.known(key), state=state, point=dict(point), in_vain=in_vain))

    # The mark by which a running trial learns that it is pruned.

    def stop_key(self, key: str) -> str:
        """Where the mark of the trial ``key`` would be."""
        return f"{self.prefix}/stops/{key}"

    def stop(self, key: str) -> None:
        """Call the trial ``key`` off."""
        self.storage.put(self.stop_key(key), b"")

    def is_stopped(self, key: str) -> bool:
        """Whether the trial ``key`` was called off."""
        return self.storage.exists(self.stop_key(key))

    def clear_stop(self, key: str) -> None:
        """Remove the mark of the trial ``key``, which ends or begins again."""
        self.storage.remove(self.stop_key(key))

    def _put(self, entry: TrialEntry) -> TrialEntry:
        self.storage.put(self._path(entry.key), json.dumps(asdict(entry), indent=1).encode())
        return entry

    def _path(self, key: str) -> str:
        return f"{self.prefix}/trials/{key}.json"
