"""What a search has spent of its budget: one ledger for rounds that draw and rounds that train, over all commands.

It is kept by the store. What trials that train cost stands in their journal; the hours by the clock and those of
drawing stand in a file of each command that worked on the search, which is written every few seconds. Beside them it is
noted which trials of sampling have begun, since what has begun is finished.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.experiment import digest_of
from pipeline.experiment_spec import Experiment, ResourcesSpec
from pipeline.nodes import Nodes
from pipeline.search.spec import BudgetSpec, SearchSpec
from pipeline.storage import Storage
from pipeline.tuning.costs import cost_of
from pipeline.tuning.log import TrialLog

WRITE_SECONDS = 5.0  # by the clock, that a killed command loses at most: of each actor's drawing too


def prefix_of(experiment: Experiment, search: SearchSpec) -> str:
    """Where the store keeps the ledger and the journal of the ``search`` section as it was written.

    A search is known by the name of its ``experiment`` and by what every stage of that would be scored by as it stands.
    So more trials, another budget or algorithm, other settings and other stages to try are the same search, which goes
    on with what it spent; other data, samples, seeds or declared settings of a stage are another. Searches that differ
    in what they try alone are told apart by the name: the cells of an ablation, which are experiments of one name, have
    the name of their replicate here.
    """
    declared = Nodes(experiment.model_copy(update={"search": search}), trial=True)
    targets = [node.digest for stage in experiment.names for node in declared.trial_targets(stage)]
    return f"searches/{digest_of([experiment.name, search.metric, targets])[:16]}"


@dataclass
class Ledger:
    """The ledger of the search under ``prefix``, as the command ``name`` reads it and adds to it.

    GPU-hours are those of a worker's share of a GPU, or of its CPU where it has none. What was stored already costs
    nothing. Of a trial that trains, training that is under way costs what it has committed, and scores and looks count
    when they are done. What is computed once before trials of a round begin (declared weights, and all that the trials
    of a round that trains share) is in no GPU-hours; the clock runs meanwhile.
    """

    storage: Storage
    prefix: str
    budget: BudgetSpec
    resources: ResourcesSpec
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)
    _drawing: float = 0.0  # GPU-hours of this command's drawing
    _metered: Callable[[], float] = field(default=lambda: 0.0)  # seconds of drawing since that

    @contextmanager
    def kept(self) -> Iterator[Ledger]:
        """While the block runs the file of this command is kept up to date, whatever the block waits for."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(WRITE_SECONDS):
                self.write()

        thread = threading.Thread(target=keep, name="ledger", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()
            self.write()

    def write(self) -> None:
        """Put down what this command has spent."""
        told = {"hours": self._passed, "gpu_hours": self._drawn}
        self.storage.put(f"{self._folder}/{self.name}.json", json.dumps(told).encode())

    def charge(self, seconds: float) -> None:
        """Add what actors spent drawing and scoring, all of them together."""
        self._drawing += self.hours_of(seconds)

    @contextmanager
    def metered(self, seconds: Callable[[], float]) -> Iterator[None]:
        """While the block runs, what ``seconds`` gains is charged as it is spent: calls that have not ended, too."""
        before = seconds()
        self._metered = lambda: seconds() - before
        try:
            yield
        finally:
            gained, self._metered = self._metered(), lambda: 0.0
            self.charge(gained)

    def note(self, trial: str) -> None:
        """Put down that ``trial``, of a round that draws, has begun: no later command keeps it from being finished."""
        self.storage.put(self._mark(trial), b"")

    def has_noted(self, trial: str) -> bool:
        """Whether this or an earlier command noted ``trial``."""
        return self.storage.exists(self._mark(trial))

    def hours_of(self, seconds: float) -> float:
        """GPU-hours of an actor that is at work for so many seconds."""
        return seconds * (self.resources.gpus_per_sampling_worker or 1.0) / 3600.0

    @property
    def hours(self) -> float:
        """Hours by the clock, of all commands together."""
        return self._passed + self._others("hours")

    @property
    def gpu_hours(self) -> float:
        """Hours of a worker's GPU, or CPU, that were spent on drawing and on training."""
        entries = TrialLog(self.storage, self.prefix).entries()
        training = sum(cost_of(self.storage, entry, self.resources) for entry in entries)
        return training + self._drawn + self._others("gpu_hours")

    def is_spent(self, reserved: float = 0.0) -> bool:
        """Whether nothing more may begin; ``reserved`` GPU-hours are those that what runs will spend yet."""
        if self.budget.hours is not None and self.hours >= self.budget.hours:
            return True
        return self.budget.gpu_hours is not None and self.gpu_hours + reserved >= self.budget.gpu_hours

    def summary(self) -> dict[str, float]:
        """What was spent so far, as plain JSON."""
        return {"hours": self.hours, "gpu_hours": self.gpu_hours}

    @property
    def _folder(self) -> str:
        return f"{self.prefix}/spent"

    def _mark(self, trial: str) -> str:
        return f"{self.prefix}/begun/{trial}"

    @property
    def _drawn(self) -> float:
        return self._drawing + self.hours_of(self._metered())

    @property
    def _passed(self) -> float:
        return (time.monotonic() - self.started) / 3600.0

    def _others(self, what: str) -> float:
        names = [name for name in self.storage.list(self._folder) if name != f"{self.name}.json"]
        return float(sum(json.loads(self.storage.read(f"{self._folder}/{name}"))[what] for name in names))
