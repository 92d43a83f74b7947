"""Which trial of a round begins next: those cut off first, then new ones while the budget lasts. Starts nothing itself.

What ended before, in this command or an earlier one, is looked up. So are settings that mean the same as those of
another trial; they count as no trial. A trial that is asked for has been noted as begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.search.trials import failed_point
from pipeline.tuning.costs import Clock, is_spent
from pipeline.tuning.log import TrialEntry, TrialLog
from pipeline.tuning.proposals import Proposals, Settings, is_within, proposals_of
from pipeline.tuning.round import TrainingRound

REPEATS = 200  # proposals in a row that were tried already: then there is nothing else to try


@dataclass
class Desk:
    """The trials of one round, to be begun one after the other by one driver; ``now`` gives unix time."""

    round: TrainingRound
    log: TrialLog
    clock: Clock
    now: Callable[[], float] = time.time
    running: dict[str, Settings] = field(default_factory=dict)
    over: bool = False  # nothing begins any more

    def __post_init__(self) -> None:
        known = self._known()
        self._resumed = [entry for entry in known if not entry.ended]
        self._resumed.sort(key=lambda entry: (entry.state != "begun", entry.asked))
        search, paths = self.round.search, self.round.paths
        self._optuna = search.algorithm_of(paths) == "optuna"
        self.ended_before = [entry for entry in known if entry.ended]
        self._proposals: Proposals = proposals_of(search, paths, self.ended_before)
        self._asked: list[str] = []  # of a list, the trials it came to, in its order
        self._ahead: str | None = None

    def next(self) -> str | None:
        """The trial to run now, noted as begun; None when no other begins."""
        if self._ahead is not None:
            key, self._ahead = self._ahead, None
            return key
        found = None if self.over else self._next()
        self.over = found is None
        return found

    def has_more(self) -> bool:
        """Whether there is a trial to run, so that nothing is started for none."""
        self._ahead = self._ahead or self.next()
        return self._ahead is not None

    def _next(self) -> str | None:
        if self._resumed:
            # What has begun is finished, whatever it costs.
            entry = self._resumed.pop(0)
            return self._begin(entry.key, dict(entry.settings))
        if is_spent(self.round.search.budget, self.log.entries(), self.clock):
            return None
        for _ in range(REPEATS):
            if self._optuna and len(self._known()) >= self.round.search.trials:
                return None
            settings = self._proposals.ask()
            if settings is None:
                return None
            key = self.round.key(settings)
            if key not in self._asked:
                self._asked.append(key)
            known = self.log.get(key)
            if key not in self.running and (known is None or not known.ended):
                return self._begin(key, settings)
            self._proposals.tell(settings, None if key in self.running else known)
        return None

    def _begin(self, key: str, settings: Settings) -> str:
        self.log.clear_stop(key)
        self.log.begin(key, self.round.identity, settings, self.now())
        self.running[key] = settings
        return key

    def ended(self, key: str, error: str | None = None) -> None:
        """The trial ran; with ``error`` it could not say itself how it ended: its process was lost again and again."""
        settings, entry = self.running.pop(key), self.log.get(key)
        assert entry is not None, "a trial that ran was begun"
        if entry.state == "begun":
            point = failed_point({**self.round.fixed, **settings}, error or "its process was lost")
            self.log.end(key, "failed", {**point, "cost_hours": 0.0})
            entry = self.log.get(key)
        self._proposals.tell(settings, entry)

    def entries(self) -> list[TrialEntry]:
        """The trials of the round that ended, those of a list in its order."""
        ended = {entry.key: entry for entry in self._known() if entry.state != "begun"}
        return [ended.pop(key) for key in self._asked if key in ended] + ([*ended.values()] if self._optuna else [])

    def _known(self) -> list[TrialEntry]:
        """The trials in the journal that this round could have tried."""
        search, paths = self.round.search, self.round.paths
        mine = [entry for entry in self.log.entries() if entry.round == self.round.identity]
        return [entry for entry in mine if is_within(search, entry.settings, paths)]
