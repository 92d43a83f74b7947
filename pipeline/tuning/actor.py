"""A trial that trains, as Ray Tune runs it: an actor for one trial after the other. What a trial does is elsewhere."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.experiment_spec import Experiment
from pipeline.search.spec import SearchSpec
from pipeline.storage import open_storage
from pipeline.tuning.looks import Report
from pipeline.tuning.round import Settings, TrainingRound
from pipeline.tuning.trial import TrainingTrial
from stages.processor import prepare_processor


def trainable() -> type:
    """The Tune trainable: with ``experiment``, ``place`` (search section, stage, paths, fixed settings) and ``root`` of
    the store as parameters, and the key of a trial as ``trial`` in its config. Made on demand: importing this does not
    import Ray.

    A class, for Tune's functions run in a session in which Ray Train does not answer.
    """
    from ray import tune

    class TrainingActor(tune.Trainable):
        """One trial after the other in one process, where libraries are loaded once; a step ends with a report."""

        def setup(self, config: Settings, experiment: Any = None, place: Any = None, root: str = "") -> None:

            described = Experiment.model_validate(experiment).model_copy(update={"store": root})
            search, stage, paths, fixed = place
            prepare_processor(described.resources.threads)
            self.round = TrainingRound(described, SearchSpec.model_validate(search), stage, tuple(paths), dict(fixed))
            self._take_up(config["trial"], fresh=True)

        def reset_config(self, new_config: Settings) -> bool:
            self._take_up(new_config["trial"], fresh=False)
            return True

        def _take_up(self, key: str, *, fresh: bool) -> None:
            self.steps = Steps(lambda report: run_begun(self.round, key, report, fresh=fresh))

        def step(self) -> Settings:
            return self.steps.next()

        # Tune asks for these when it uses an actor again; what there is of a trial is in the store.
        def save_checkpoint(self, checkpoint_dir: str) -> None:
            del checkpoint_dir

        def load_checkpoint(self, checkpoint: Any) -> None:
            del checkpoint

    return TrainingActor


def run_begun(trials: TrainingRound, key: str, report: Report, *, fresh: bool) -> Settings:
    """Run the trial ``key``, which the driver has begun; what Tune is told of its end. All else is in the journal."""
    log = trials.log(open_storage(trials.experiment.store))
    entry = log.get(key)
    assert entry is not None, "the driver begins a trial before it is run"
    if entry.state == "begun":  # else its process was lost on the way from the journal to Tune
        TrainingTrial(trials, entry, log, report, fresh).run()
    ended = log.get(key)
    assert ended is not None
    # Tune wants a number; nothing reads it.
    return {"objective": math.inf if ended.objective is None else ended.objective, "done": True}


class Steps:
    """A function that reports on its way, as a series of results: it goes on when the next one is asked for."""

    def __init__(self, run: Callable[[Report], Settings]) -> None:
        self._told: queue.Queue[Settings | BaseException] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(run,), name="trial", daemon=True)
        self._begun = False

    def next(self) -> Settings:
        """The next report, or in the end what ``run`` returned. Raises what it raised."""
        if not self._begun:
            self._begun = True
            self._thread.start()
        else:
            self._go.release()
        told = self._told.get()
        if isinstance(told, BaseException):
            raise told
        return told

    def _run(self, run: Callable[[Report], Settings]) -> None:
        try:
            self._told.put(run(self._report))
        except BaseException as error:
            self._told.put(error)

    def _report(self, metrics: Mapping[str, Any]) -> None:
        self._told.put(dict(metrics))
        self._go.acquire()
