"""Looks at a stage while it trains: cheap chained scores at the rungs of successive halving, and an early end.

Who decides is not here: a score is reported, and then a mark in the store says that the trial is called off. Training
waits for no look; it finds the mark at the next step that it logs, commits and ends, so its workers leave as they do
at their last step and what they held is free.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.commits import CommitLog
from pipeline.dag import Node, stored
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.results import Place
from pipeline.storage import Storage
from pipeline.trained_nodes import FEATURE_SEED
from pipeline.tuning.log import TrialLog
from pipeline.watching.task import PointJob, in_task
from pipeline.watching.weights import WatchedWeights

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
STEP, METRIC = "pruning_step", "pruning_fid"  # what is reported to Ray Tune; no other result has them

Report = Callable[[Mapping[str, Any]], None]


@dataclass
class Looks:
    """The looks at the training ``node`` of the trial ``key``, whose experiment is ``changed``."""

    changed: Experiment
    stage: str
    node: Node
    rungs: tuple[int, ...]
    log: TrialLog
    key: str
    report: Report
    seconds: float = 0.0  # spent on looks
    passed: int = -1  # the step that training goes on from

    @property
    def storage(self) -> Storage:
        return self.log.storage

    def during(self, train: Callable[[], None]) -> bool:
        """Run ``train`` beside the looks; whether the trial was pruned. Raises what ``train`` raises."""
        failure: list[BaseException] = []
        self.passed = self._reached()

        def run() -> None:
            try:
                train()
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=run, name="training", daemon=True)
        thread.start()
        try:
            pruned = self._look(thread)
        except BaseException:
            self.log.stop(self.key)  # nobody is left to wait for the training
            raise
        finally:
            thread.join()
        if failure and not pruned:
            raise failure[0]
        return pruned

    def _look(self, training: threading.Thread) -> bool:
        """Report the score of each rung in its turn, also of those that training had passed before a look at them."""
        entry = self.log.get(self.key)
        assert entry is not None, "a trial that is looked at was begun"
        known = dict(entry.rungs)
        for step in self.rungs:
            folder = self._weights(step, training)
            if step not in known and folder is None:
                if step <= self.passed:
                    continue  # an earlier command went by it and set nothing aside: it will not come again
                return False  # training failed
            score = known.get(step)
            if score is None and folder is not None and (score := self._score(step, folder)) is not None:
                self.log.look(self.key, step, score)
            if score is None:
                continue
            self.report({STEP: step, METRIC: score})
            if self.log.is_stopped(self.key):
                return True
        return False

    def _weights(self, step: int, training: threading.Thread) -> Place | None:
        """The weights of ``step``, once they are set aside; None when they will not be, or training ended before."""
        watched = WatchedWeights(self._run, None, self.rungs)
        while True:
            ended = not training.is_alive()  # before the look: what was stored until then is seen
            if (found := watched.set_aside(step)) is not None:
                return found.place
            if ended or step <= self.passed:
                return None
            training.join(POLL_SECONDS)

    @property
    def _run(self) -> CommitLog:
        return CommitLog(self.storage, self.node.context["run"], owner="reader", clock=time.time)

    def _reached(self) -> int:
        """The step of the checkpoint that training goes on from; -1 where it begins anew."""
        from pipeline.snapshots import Snapshots  # on demand: it imports torch
        from stages.specs import TrainingSpec

        training = TrainingSpec.model_validate(self.node.config["training"])
        found = Snapshots.of(self._run, training).latest_checkpoint(lambda step: step <= training.steps, ())
        return -1 if found is None else int(found[0].info["step"])

    def _score(self, step: int, weights: Place) -> float | None:
        """Chained FID of ``weights``; None where it cannot be had, and the trial goes on without this look."""
        started, job, gpus = time.monotonic(), self._job(weights), self._gpus
        try:
            if gpus:
                found = in_task(job, cpus=0.0, gpus=gpus, name=f"look/{self.stage}", called_off=lambda: False)
            else:
                from pipeline.watching.scoring import score_weights

                found = score_weights(job)
        except Exception as error:
            log.warning("train/%s: the look at step %d failed: %s", self.stage, step, error)
            return None
        finally:
            self.seconds += time.monotonic() - started
        return None if found is None else found["fid"]

    @property
    def _gpus(self) -> float:
        """What a look asks Ray for: nothing where this process holds what it needs."""
        return 0.0 if self.node.context.get("in_place") else self.changed.resources.gpus_per_sampling_worker

    def _job(self, weights: Place) -> PointJob:
        nodes, search, evaluation = Nodes(self.changed, trial=True), self.changed.search, self.changed.evaluation
        assert search is not None
        assert search.pruning is not None
        chain = self.changed.chain(self.stage)
        below = [self._place(nodes.train(name)) for name in chain[:-1]]
        resources = self.changed.resources
        return PointJob(
            weights=(*below, weights),
            sampling=tuple(self._sampling(name, search.pruning.sampling_steps) for name in chain),
            data=self._place(nodes.data),
            features=self._place(nodes.classifier("features", FEATURE_SEED)),
            judge=self._place(nodes.judge),
            labels=evaluation.labels,
            samples=search.pruning.samples,
            reference=search.pruning.reference,
            block=evaluation.block,
            seed=search.seed,
            precision=evaluation.precision,
            gpu=(resources.gpus_per_worker if self.node.context.get("in_place") else self._gpus) > 0,
            polite=False,
        )

    def _sampling(self, name: str, steps: int | None) -> dict[str, Any]:
        """As the trial is sampled in the end, in fewer steps where pruning says so, with the average at hand."""
        sampling = self.changed.stages[name].sampling.model_dump(mode="json") | {"ema_length": None}
        return sampling | {"steps": min(sampling["steps"], steps or sampling["steps"])}

    def _place(self, node: Node) -> Place:
        found = stored(node, self.storage)
        assert found is not None, f"{node.name} comes before a look"
        return found.place
