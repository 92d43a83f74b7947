"""A round of a search at sampling time: trials on reused actors, with everything that trials share computed once.

Ray Tune is not used: trials of sampling train nothing, so what they need is a driver that knows which nodes they
share. It has no state but notes, in the ledger, of what has begun: what a trial computes is stored node by node, so
after a crash the same command looks up what is there and goes on. Nothing here trains; see ``pipeline.search.run`` for
the rounds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.dag import Node
from pipeline.experiment_spec import Experiment
from pipeline.search.budget import Ledger
from pipeline.search.proposals import Proposal, Suggested, Told, most_trials
from pipeline.search.spec import SearchSpec
from pipeline.search.trials import Point, Settings
from pipeline.storage import Storage
from pipeline.sweep.actors import ActorPool
from pipeline.sweep.graph import ActorGraph
from pipeline.sweep.reckoning import Reckoning
from pipeline.sweep.sharing import Costs, counted, knew_levels, of_stage, sharing_of, told
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
    storage: Storage
    pool: ActorPool
    ledger: Ledger
    progress: Callable[[int, int], None]
    trials: list[Trial] = field(default_factory=list)  # those that began, in order, no two of which compute the same
    not_begun: int = 0  # those that the budget kept from beginning
    cut_off: int = 0  # those that it kept at their first looks, that is dropped

    def __post_init__(self) -> None:
        self.at_work = Trials(self.experiment, self.stage, self.storage, ActorGraph(self.storage, self.pool))
        self._known: dict[str, Trial] = {}
        self._looked_up: list[Node] = []
        self._reckoning = Reckoning(Costs(self.storage), self.at_work.look)
        listed = None if isinstance(self.proposals, Suggested) else len(self.proposals)
        self._expected = most_trials(self.search, self.paths) if listed is None else listed

    @property
    def search(self) -> SearchSpec:
        """The search section that the trials are of."""
        return self.at_work.search

    def run(self) -> dict[str, Any]:
        """{"points", "sharing", "shared" (a sentence)}: the points in the order in which their trials began."""
        begun, busy, alive = time.perf_counter(), self.pool.busy, self.pool.lifetime
        with self.ledger.metered(lambda: self.pool.spent):
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
        if self.cut_off:
            sentence += f"; {self.cut_off} were dropped after a first look because the budget was spent"
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
            # No look is to take the place of the one trial whose samples will all be drawn whatever else begins.
            if not self._may_begin(trial, at_work.left(trial) if trial.looks else []):
                self.not_begun += 1
                continue
            self._begin(trial)
            open_trials.append(trial)
            while len(open_trials := [one for one in open_trials if not at_work.settled(one)]) >= ahead:
                self._step()
        self._go_on()

    def _go_on(self) -> None:
        """Wait for all first looks, decide, and wait for all samples of those that are not hopeless, the best first."""
        at_work = self.at_work
        self._until(at_work.settled)
        for trial in self.trials:
            at_work.take_look(trial)
        for trial in self.trials:
            at_work.decide(trial, self.trials)
        for trial in sorted(filter(at_work.survives, self.trials), key=at_work.promise):
            self._draw_all(trial)
        self._until(at_work.take_end)

    def _begin_again(self) -> None:
        """Trials that failed once more, at the end of the round: it may have been the machine. No trial goes on from
        what this finds, so a search that asks Optuna proposes the same whatever comes of it."""
        failed = [trial for trial in self.trials if self.at_work.broke(trial)]
        if not failed or self.ledger.is_spent():
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
                    if not self._may_begin(trial):
                        self.not_begun = self._expected - len(self.trials)
                        break
                    self._begin(trial)
                running.append((proposal, self._known[trial.identity]))
            if not running:
                return
            self._look_in_order()
            if at_work.take_end(running[0][1]):
                proposal, trial = running.popleft()
                rung, point = at_work.rung(trial), trial.point
                proposals.tell(proposal, Told(point["objective"] if point else None, (rung,) if rung else ()))
            else:
                self._step()

    def _may_begin(self, trial: Trial, kept: Sequence[Node] = ()) -> bool:
        """Whether the trial is looked up, was begun by an earlier command, or has room beside the nodes ``kept``."""
        if not self.at_work.costs(trial):
            self._looked_up += counted(trial.looks or trial.targets)
            return True
        if not self.ledger.has_noted(trial.identity) and not self._has_room(kept):
            return False
        self.ledger.note(trial.identity)
        return True

    def _draw_all(self, trial: Trial) -> None:
        """Go on with a trial that was looked at, where the budget has room for it. The first of a round goes on
        whatever is spent, or there were nothing to choose from."""
        note, is_first = f"{trial.identity}-whole", not any(other.goes_on for other in self.trials)
        if is_first or not self.at_work.left(trial) or self.ledger.has_noted(note) or self._has_room():
            self.ledger.note(note)
            self.at_work.go_on(trial)
        else:
            self.at_work.drop(trial)
            self.cut_off += 1

    def _has_room(self, kept: Sequence[Node] = ()) -> bool:
        """Whether the budget lets something begin: where only what is under way stands against it, that is waited for.

        What is under way takes, until it is stored, what others of its kind took; so do the nodes ``kept``, whose place
        is not to be taken.
        """
        graph = self.at_work.graph
        while not self.ledger.is_spent():
            known = [*graph.computed.values(), *self._looked_up]
            reserved = self._reckoning.seconds([*graph.open.values(), *kept], known)
            if not self.ledger.is_spent(self.ledger.hours_of(reserved)):
                return True
            if not self.pool.open_calls:
                return False
            self._step()
        return False

    def _may_ask(self, asked: int) -> bool:
        return not self.not_begun and len(self.trials) < self.search.trials and asked < ASKED_AGAIN * self.search.trials

    def _look_in_order(self) -> None:
        """Each trial is compared with those that began before it, and with no other, whichever were quicker."""
        for number, trial in enumerate(self.trials):
            if not self.at_work.settled(trial):
                return
            self.at_work.take_look(trial)
            self.at_work.decide(trial, self.trials[:number])
            if self.at_work.survives(trial):
                self._draw_all(trial)

    def _begin(self, trial: Trial) -> None:
        self._known[trial.identity] = trial
        self.trials.append(trial)
        self.at_work.begin(trial)
        self.at_work.take_end(trial)
        self._report()

    def _until(self, done: Callable[[Trial], bool]) -> None:
        while not all(map(done, self.trials)):
            self._step()

    def _step(self) -> None:
        assert self.pool.open_calls, "what is waited for is under way"
        self.at_work.graph.step()
        for trial in self.trials:
            self.at_work.take_end(trial)
        self._report()

    def _report(self) -> None:
        ended = sum(trial.point is not None for trial in self.trials)
        self.progress(ended, max(len(self.trials), self._expected))
