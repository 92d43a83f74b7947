"""A round of a search at sampling time: trials on reused actors, with everything that trials share computed once.

Ray Tune is not used: trials of sampling train nothing, so what they need is a driver that knows which nodes they
share. It has no state: what a trial computes is stored node by node, so after a crash the same command looks up what
is there and goes on. Nothing here trains; see ``pipeline.search.run`` for the rounds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.experiment_spec import Experiment
from pipeline.search.budget import Ledger
from pipeline.search.proposals import Proposal, Suggested, Told
from pipeline.search.spec import SearchSpec
from pipeline.search.trials import Point, Settings
from pipeline.storage import LocalStorage
from pipeline.sweep.actors import ActorPool
from pipeline.sweep.graph import ActorGraph
from pipeline.sweep.sharing import Costs, knew_levels, of_stage, sharing_of, told
from pipeline.sweep.trial import Trial, Trials

ASKED_AGAIN = 4  # proposals for each trial asked for, where Optuna proposes again what it knows


@dataclass
class Sweep:
    """The trials of one round: ``paths`` are searched, ``fixed`` settings stay, ``stage`` is scored.

    ``experiment`` lists in its search space what is known of levels: see ``with_drawn_lists``. Trials begin in the
    order in which they are proposed, as many at once as keep all actors at work.
    """

    experiment: Experiment
    stage: str
    paths: list[str]
    fixed: Settings
    proposals: list[Settings] | Suggested
    storage: LocalStorage
    pool: ActorPool
    ledger: Ledger
    progress: Callable[[int, int], None]
    trials: list[Trial] = field(default_factory=list)  # those that began, in order, no two of which compute the same
    not_begun: int = 0  # of a list, those that the budget kept from beginning

    def __post_init__(self) -> None:
        self.at_work = Trials(self.experiment, self.stage, self.storage, ActorGraph(self.storage, self.pool))
        self._known: dict[str, Trial] = {}
        self._expected = self.search.trials if isinstance(self.proposals, Suggested) else len(self.proposals)
        self._spent_seconds = 0.0

    @property
    def search(self) -> SearchSpec:
        """The search section that the trials are of."""
        return self.at_work.search

    def run(self) -> dict[str, Any]:
        """{"points", "sharing", "shared" (a sentence)}: the points in the order in which their trials began."""
        begun, busy, alive = time.perf_counter(), self.pool.busy, self.pool.lifetime
        if isinstance(self.proposals, Suggested):
            self._run_proposals(self.proposals)
        else:
            self._run_list(self.proposals)
        self._begin_again()
        lived = self.pool.lifetime - alive
        share = min(1.0, (self.pool.busy - busy) / lived) if lived > 0 and self.pool.busy > busy else None
        return self._summary(wall=time.perf_counter() - begun, busy=share)

    def _summary(self, *, wall: float, busy: float | None) -> dict[str, Any]:
        costs, nodes = Costs(self.storage), [trial.nodes for trial in self.trials]
        points = [self._point(trial, costs) for trial in self.trials]
        sharing = sharing_of(nodes, costs, samples=self.search.samples, look=self.at_work.look, wall=wall, busy=busy)
        dropped = sum(point["status"] == "dropped" for point in points)
        tried = [trial.changed for trial in self.trials if trial.changed is not None]
        sentence = told(sharing, knew_levels=knew_levels(self.search, self.paths, tried), dropped=dropped)
        if self.not_begun:
            sentence += f"; the budget was spent before {self.not_begun} more began"
        return {"points": points, "sharing": sharing, "shared": sentence}

    def _point(self, trial: Trial, costs: Costs) -> Point:
        assert trial.point is not None, "every trial has come to its end"
        return {**trial.point, "seconds": costs.of(of_stage(trial.nodes.computed, self.stage))}

    def _run_list(self, proposals: list[Settings]) -> None:
        """First looks of all trials, where there are any; then all samples of those that are not hopeless."""
        at_work, ahead = self.at_work, 2 * self.pool.size  # more than run: whoever is idle finds something to do
        open_trials: list[Trial] = []
        for settings in proposals:
            trial = at_work.made(self.fixed | settings)
            if trial.identity in self._known:
                continue
            if self._is_spent and at_work.costs(trial):
                self.not_begun += 1
                continue
            self._begin(trial)
            open_trials.append(trial)
            while len(open_trials := [one for one in open_trials if not at_work.settled(one)]) >= ahead:
                self._step()
        self._go_on()

    def _go_on(self) -> None:
        """Wait for all first looks, decide, and wait for all samples of those that are not hopeless."""
        self._until(self.at_work.settled)
        for trial in self.trials:
            self.at_work.take_look(trial)
        for trial in self.trials:
            self.at_work.decide(trial, self.trials)
        self._until(self.at_work.ended)

    def _begin_again(self) -> None:
        """Trials that failed once more, at the end of the round: it may have been the machine. No trial goes on from
        what this finds, so a search that asks Optuna proposes the same whatever comes of it."""
        failed = [trial for trial in self.trials if self.at_work.broke(trial)]
        if not failed or self._is_spent:
            return
        for trial in failed:
            self.at_work.begin_again(trial)
        self._go_on()

    def _run_proposals(self, proposals: Suggested) -> None:
        """Trials are asked for, looked at and told in one order, whichever ends first: see ``Suggested``."""
        at_work, running, asked = self.at_work, deque[tuple[Proposal, Trial]](), 0
        at_once = self.search.trials_at_once(self.paths, self.experiment.resources.sampling_workers)
        while True:
            while len(running) < at_once and self._may_ask(asked):
                proposal, asked = proposals.ask(), asked + 1
                trial = at_work.made(self.fixed | proposal.settings)
                if trial.identity not in self._known:
                    if self._is_spent and at_work.costs(trial):
                        self.not_begun = self.search.trials - len(self.trials)
                        break
                    self._begin(trial)
                running.append((proposal, self._known[trial.identity]))
            if not running:
                return
            self._look_in_order()
            if at_work.ended(running[0][1]):
                proposal, trial = running.popleft()
                rung, point = at_work.rung(trial), trial.point
                proposals.tell(proposal, Told(point["objective"] if point else None, (rung,) if rung else ()))
            else:
                self._step()

    @property
    def _is_spent(self) -> bool:
        """Whether no further trial may begin: what those under way will spend is reckoned by those that ended."""
        ended = sum(map(self.at_work.ended, self.trials))
        each = self._spent_seconds / ended if ended else 0.0
        return self.ledger.is_spent(self.ledger.hours_of(each * (len(self.trials) - ended)))

    def _may_ask(self, asked: int) -> bool:
        return not self.not_begun and len(self.trials) < self.search.trials and asked < ASKED_AGAIN * self.search.trials

    def _look_in_order(self) -> None:
        """Each trial is compared with those that began before it, and with no other, whichever were quicker."""
        for number, trial in enumerate(self.trials):
            if not self.at_work.settled(trial):
                return
            self.at_work.take_look(trial)
            self.at_work.decide(trial, self.trials[:number])

    def _begin(self, trial: Trial) -> None:
        self._known[trial.identity] = trial
        self.trials.append(trial)
        self.at_work.begin(trial)
        self._report()

    def _until(self, done: Callable[[Trial], bool]) -> None:
        while not all(map(done, self.trials)):
            self._step()

    def _step(self) -> None:
        assert self.pool.open_calls, "what is waited for is under way"
        busy = self.pool.busy
        self.at_work.graph.step()
        self._spent_seconds += self.pool.busy - busy
        self.ledger.charge(self.pool.busy - busy)
        self._report()

    def _report(self) -> None:
        self.progress(sum(self.at_work.ended(trial) for trial in self.trials), max(len(self.trials), self._expected))
