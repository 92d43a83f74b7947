"""Which trial of a round begins next: those cut off first, then new ones while the budget lasts, then failed ones once
more. Starts nothing itself.

What ended before, in this command or an earlier one, is looked up. So are settings that mean the same as those of
another trial; they count as no trial. A trial whose training another one is at waits for that one here, where it holds
neither CPU nor GPU. A trial that has been asked for has been noted as begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.dag import Node, stored
from pipeline.search.budget import Ledger
from pipeline.search.proposals import Proposal, Settings, Suggested, Told, is_within, most_trials, proposals_of
from pipeline.search.trials import failed_point
from pipeline.tuning.costs import cost_of, leave_trainings
from pipeline.tuning.log import TrialEntry, TrialLog
from pipeline.tuning.round import TrainingRound

REPEATS = 200  # proposals in a row that were tried already: then there is nothing else to try
POLL_SECONDS = 1.0  # between looks at whether a training that is waited for is done


class Waiting(NamedTuple):
    """A trial that may begin, and the trainings that it needs."""

    key: str
    proposal: Proposal
    trainings: list[Node]


@dataclass
class Desk:
    """The trials of one round, to be begun one after the other by one driver; ``now`` gives unix time."""

    round: TrainingRound
    log: TrialLog
    ledger: Ledger
    now: Callable[[], float] = time.time
    running: dict[str, Waiting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        search, paths = self.round.search, self.round.paths
        mine = [entry for entry in self.log.entries() if entry.round == self.round.identity]
        self.ended_before = [entry for entry in mine if entry.ended and is_within(search, entry.settings, paths)]
        found = proposals_of(search, paths, [(dict(entry.settings), _told(entry)) for entry in self.ended_before])
        self._suggested = found if isinstance(found, Suggested) else None
        self._met: set[str] = set()  # of Optuna's proposals, what trials they are
        self._listed: dict[str, Settings] = {}  # the trials of a list by key, in its order
        for settings in [] if isinstance(found, Suggested) else found:
            self._listed.setdefault(self.round.key(settings), settings)
        known = self._known()
        cut_off = sorted((entry for entry in known if entry.state == "begun"), key=lambda entry: entry.asked)
        self._resumed = [self._waiting(entry.key, Proposal(dict(entry.settings))) for entry in cut_off]
        tried = {entry.key for entry in known}
        self._todo = [self._waiting(key, Proposal(one)) for key, one in self._listed.items() if key not in tried]
        self._count = len(tried)  # trials of the round, those that wait among them
        self._met |= tried
        self._spent = False
        self._nothing_left = False
        self._ahead: str | None = None
        self._asked_at: float | None = None  # when there was nothing to begin while trials run

    def next(self) -> str | None:
        """The trial to run now, noted as begun; None when none can begin now, or ever: see ``over``."""
        if self._ahead is not None:
            key, self._ahead = self._ahead, None
            return key
        if self.running and self._asked_at is not None and time.monotonic() - self._asked_at < POLL_SECONDS:
            return None
        found = self._next()
        self._asked_at = time.monotonic() if found is None else None
        self._nothing_left = found is None
        return found

    @property
    def over(self) -> bool:
        """Whether ``next`` gave nothing and will give nothing any more. What runs may fail, and begin again."""
        return self._nothing_left and not self.running

    def has_more(self) -> bool:
        """Whether there is a trial to run, so that nothing is started for none."""
        self._ahead = self._ahead or self.next()
        return self._ahead is not None

    @property
    def not_begun(self) -> int:
        """Trials that the budget kept from beginning."""
        if not self._spent:
            return 0
        if self._suggested is None:
            return len(self._todo)
        return max(0, most_trials(self.round.search, self.round.paths) - len(self._known()))

    def _next(self) -> str | None:
        # What has begun is finished, whatever it costs.
        if (found := self._free(self._resumed)) is not None:
            return self._begin(found)
        self._spent = self.ledger.is_spent(self._reserved())
        if self._spent:
            return None
        found = self._free(self._todo) or self._proposed() or self._failed()
        return None if found is None else self._begin(found)

    def _reserved(self) -> float:
        """What the trials that run will spend yet, by the mean of those that ended and trained."""
        entries = [entry for entry in self._known() if entry.key in self.running or entry.ended]
        costs = {entry.key: cost_of(self.log.storage, entry, self.ledger.resources) for entry in entries}
        ended = [cost for key, cost in costs.items() if key not in self.running and cost > 0.0]
        mean = sum(ended) / len(ended) if ended else 0.0
        return sum(max(0.0, mean - costs.get(key, 0.0)) for key in self.running)

    def _free(self, waiting: list[Waiting]) -> Waiting | None:
        """Take out the first that needs no training that another trial is at."""
        taken = {_run(node) for one in self.running.values() for node in one.trainings}
        for place, one in enumerate(waiting):
            mine = [node for node in one.trainings if _run(node) in taken]
            if all(stored(node, self.log.storage) is not None for node in mine):
                return waiting.pop(place)
        return None

    def _proposed(self) -> Waiting | None:
        """The next trial that is proposed; what must wait for a training is set aside, and another asked for."""
        if self._suggested is None:
            return None
        for _ in range(REPEATS):
            if self._count >= self.round.search.trials:
                return None
            proposal = self._suggested.ask()
            key = self.round.key(proposal.settings)
            known = self.log.get(key)
            if key in self._met or (known is not None and known.ended):
                told = Told() if known is None or not known.ended else _told(known)
                self._suggested.tell(proposal, told)
                self._count += key not in self._met  # settings that mean the same stood outside the space of today
                self._met.add(key)
                continue
            self._met.add(key)
            self._count += 1
            self._todo.append(self._waiting(key, proposal))
            if (found := self._free(self._todo)) is not None:
                return found
        return None

    def _failed(self) -> Waiting | None:
        """A trial that failed and may be tried once more, when all others have begun."""
        if self._todo:
            return None
        # The journal knows that a trial failed before whoever runs it says that it is over.
        failed = [
            one for one in self._known() if one.state == "failed" and not one.ended and one.key not in self.running
        ]
        return self._free([self._waiting(entry.key, Proposal(dict(entry.settings))) for entry in failed])

    def _begin(self, one: Waiting) -> str:
        self.log.clear_stop(one.key)
        self.log.begin(one.key, self.round.identity, one.proposal.settings, self.now())
        self.running[one.key] = one
        return one.key

    def ended(self, key: str, error: str | None = None) -> None:
        """The trial ran; with ``error`` it could not say itself how it ended: its process was lost again and again."""
        one, entry = self.running.pop(key), self.log.known(key)
        self._asked_at, self._nothing_left = None, False
        if entry.state == "begun":
            point = failed_point({**self.round.fixed, **one.proposal.settings}, error or "its process was lost")
            leave_trainings(self.log, key, self.ledger.resources)
            cost = cost_of(self.log.storage, self.log.known(key), self.ledger.resources)
            self.log.end(key, "failed", {**point, "cost_hours": cost})
            entry = self.log.known(key)
        if self._suggested is not None:
            self._suggested.tell(one.proposal, _told(entry))

    def check_over(self) -> None:
        """Raise RuntimeError where trials are under way, or could begin: whoever ran them left off before the end."""
        if not self.over:
            raise RuntimeError(f"the round at {self.round.stage} was left before its end; the same command goes on")

    def entries(self) -> list[TrialEntry]:
        """The trials of the round that ended, those of a list in its order."""
        return [entry for entry in self._known() if entry.state != "begun"]

    def _known(self) -> list[TrialEntry]:
        """The trials in the journal that this round could have tried; of a list all, whichever settings they had."""
        if self._suggested is None:
            return [entry for key in self._listed if (entry := self.log.get(key)) is not None]
        search, paths = self.round.search, self.round.paths
        mine = [entry for entry in self.log.entries() if entry.round == self.round.identity]
        return [entry for entry in mine if entry.key in self._met or is_within(search, entry.settings, paths)]

    def _waiting(self, key: str, proposal: Proposal) -> Waiting:
        return Waiting(key, proposal, self.round.trainings(proposal.settings))


def _run(node: Node) -> str:
    """The training run of a node: one that is to have more steps goes on with the same run."""
    return Path(node.context["run"]).name


def _told(entry: TrialEntry) -> Told:
    """What Optuna is told of a trial that ended: of a pruned one the scores that it was pruned by."""
    if entry.state == "finished" and entry.objective is not None:
        return Told(entry.objective)
    return Told(rungs=entry.rungs) if entry.state == "pruned" else Told()
