"""Scores while stages train: who looks out for weights set aside and has them scored. Training knows nothing of it.

A thread of the driver reads the commit logs of the stages and hands one moment at a time to a Ray task, which draws
images chained on the newest weights of the stages below. A task holds nothing while it waits for its turn, so it can
keep nobody from training; one that fails costs its point and a warning.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from pipeline.commits import CommitLog
from pipeline.dag import Node, stored
from pipeline.experiment import digest_of
from pipeline.nodes import Nodes
from pipeline.results import Place
from pipeline.storage import Storage
from pipeline.watching.points import Curve, CurveLog, Point
from pipeline.watching.task import POLL_SECONDS, in_task, job_of, sampling_of
from pipeline.watching.weights import WatchedWeights, Weights

log = logging.getLogger(__name__)


def curve_of(nodes: Nodes, storage: Storage, name: str) -> Curve:
    """Where the points of stage ``name`` are stored; the experiment must ask for them.

    A curve is of one training run, of the runs below it, and of one way to draw and to score.
    """
    evaluation, chain = nodes.experiment.evaluation, nodes.experiment.chain(name)
    assert evaluation.during is not None, "an experiment without evaluation.during has no curves"
    runs = [nodes.train(stage).context["run"] for stage in chain]
    identity = {
        "watch": evaluation.during.model_dump(mode="json", include={"samples", "reference"}),
        "sampling": sampling_of(nodes.experiment, name),
        "evaluation": evaluation.model_dump(mode="json", include={"block", "seed", "precision", "labels"}),
        "classifiers": [node.digest for node in nodes.watchers],
        "runs": runs,
    }
    return Curve(storage, f"during/{runs[-1].removeprefix('runs/')}-{digest_of(identity)[:16]}.jsonl")


def track_curves(nodes: Nodes, storage: Storage) -> None:
    """Give the MLflow runs of all stages the points that they lack: those of trainings begun under another parent."""
    tracked = CurveLog(nodes.tracking)
    for name in nodes.experiment.names:
        tracked.add(name, *curve_of(nodes, storage, name).points())


class Watch:
    """Scores the stages ``names`` while the block of a ``with`` trains them; ``say`` is given lines for the person.

    Ray must be initialised. Leaving the block waits for the scores of the last steps, at most as long as the
    experiment's patience; an exception that leaves it ends everything. Nothing here fails what is in the block.
    Watches that share a ``turn`` score one moment at a time.
    """

    def __init__(
        self,
        nodes: Nodes,
        names: Sequence[str],
        storage: Storage,
        say: Callable[[str], None],
        turn: AbstractContextManager[Any] | None = None,
    ) -> None:
        experiment = nodes.experiment
        assert experiment.evaluation.during is not None
        self.experiment, self.during = experiment, experiment.evaluation.during
        self.last = {name: experiment.stages[name].training.steps for name in names}
        self.storage, self.say, self.turn = storage, say, turn or nullcontext()
        self.data = nodes.data
        self.classifiers = nodes.watchers
        self.curves = {name: curve_of(nodes, storage, name) for name in names}
        runs = {name: nodes.train(name).context["run"] for name in experiment.names}
        logs = {name: CommitLog(storage, run, owner="reader", clock=time.time) for name, run in runs.items()}
        self.weights = {name: WatchedWeights(commits, self.during.every) for name, commits in logs.items()}
        self.tracked = CurveLog(nodes.tracking)
        self.left_out: set[tuple[str, int]] = set()  # (stage, step): failed, or deleted before their turn
        self.over, self.broken = threading.Event(), threading.Event()
        self.deadline = float("inf")
        self.thread = threading.Thread(target=self._run, name="scores during training", daemon=True)

    @property
    def targets(self) -> list[Node]:
        """What must be computed beside the training. They wait for no CPU, nor does the training for theirs."""
        return [replace(node, cpus=0.0) for node in self.classifiers]

    @property
    def caveat(self) -> str | None:
        """What a person must know of the scores before there are any."""
        return self.during.caveat(features=sum(self.experiment.evaluation.classifier.channels))

    def __enter__(self) -> Watch:
        if self.caveat is not None:
            self.say(self.caveat)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.end(failed=error[0] is not None)
        self.wait()

    def end(self, *, failed: bool) -> None:
        """What is watched is over: only last steps are scored from now on, and nothing where it ``failed``."""
        self.deadline = time.monotonic() + self.during.patience
        if failed:
            self.broken.set()
        self.over.set()

    def wait(self) -> None:
        """Until the last scores are there, or time is up."""
        try:
            # Where what was watched failed, nobody waits for a store of metrics that does not answer.
            self.thread.join(5.0 if self.broken.is_set() else None)
        except KeyboardInterrupt:
            self.broken.set()
            raise

    def _run(self) -> None:
        try:
            for name, curve in self.curves.items():
                self.tracked.add(name, *curve.points())
                gone = [found.step for found in self._to_score(name) if not found.there]
                self.left_out |= {(name, step) for step in gone}
            self._watch()
        except Exception as error:
            log.warning("training goes on without scores: %s: %s", type(error).__name__, _last_line(error))

    def _watch(self) -> None:
        places: tuple[Place, ...] | None = None
        while not self.broken.is_set():
            ending = self.over.is_set()  # before the look: what was stored until then is seen
            if ending and time.monotonic() > self.deadline:
                log.warning("the scores of the last steps were given up after %g seconds", self.during.patience)
                return
            places = places or self._places()
            if places is not None and self._take_turn(places):
                continue
            if ending:
                return
            self.over.wait(POLL_SECONDS)

    def _take_turn(self, places: tuple[Place, ...]) -> bool:
        """Score what is due; whether there was something, or everything was called off.

        What is due is seen only now: while others had their turn weights came and went, and training may have ended.
        """
        with self.turn:
            if self._called_off():
                return True
            if (due := self.due(last_only=self.over.is_set())) is None:
                return False
            self._score(*due, places)
            return True

    def _called_off(self) -> bool:
        return self.broken.is_set() or time.monotonic() > self.deadline

    def _places(self) -> tuple[Place, ...] | None:
        """Where the data and the classifiers are; None until they are stored."""
        found: list[Place] = []
        for node in (*self.classifiers, self.data):  # the data last: it is large, and read through to see it is whole
            if (result := stored(node, self.storage)) is None:
                return None
            found.append(result.place)
        return tuple(found)

    def due(self, *, last_only: bool) -> tuple[str, Weights, dict[str, Weights]] | None:
        """The moment that has waited longest: stage, its weights, and the newest of the stages below by name.

        A stage whose stages below have no weights yet waits for them. At the end the last steps alone count.
        """
        waiting = []
        for name, last in self.last.items():
            for found in self._to_score(name):
                if not found.there:
                    self._leave_out(
                        name, found.step, "later weights came before its turn; raise evaluation.during.every"
                    )
                elif last_only and found.step != last:
                    self._leave_out(
                        name, found.step, "training was over before its turn; raise evaluation.during.every"
                    )
                else:
                    waiting.append((found.created, name, found))
        for _, name, found in sorted(waiting, key=lambda each: each[:2]):
            below = self._below(name)
            if all(weights is not None for weights in below.values()):
                return name, found, {stage: weights for stage, weights in below.items() if weights is not None}
        return None

    def _to_score(self, name: str) -> list[Weights]:
        """What is neither scored nor left out, be it there or not."""
        known = {point.step for point in self.curves[name].points()}
        known |= {step for stage, step in self.left_out if stage == name}
        return [found for found in self.weights[name].to_score(self.last[name]) if found.step not in known]

    def _below(self, name: str) -> dict[str, Weights | None]:
        """The newest weights of the stages below ``name``, base first."""
        last = {stage: self.experiment.stages[stage].training.steps for stage in self.experiment.chain(name)[:-1]}
        return {stage: self.weights[stage].newest(steps) for stage, steps in last.items()}

    def _leave_out(self, name: str, step: int, why: str) -> None:
        self.left_out.add((name, step))
        self.say(f"train/{name}: step {step} is not scored: {why}")

    def _score(self, name: str, weights: Weights, below: dict[str, Weights], places: tuple[Place, ...]) -> None:
        """Have one moment scored, and store and track its point."""
        job = job_of(self.experiment, name, (*(each.place for each in below.values()), weights.place), places)
        try:
            found = in_task(
                job,
                cpus=self.during.cpus,
                gpus=self.during.gpus,
                name=f"during/{name}",
                called_off=self._called_off,
            )
        except Exception as error:
            self.left_out.add((name, weights.step))
            log.warning("train/%s: step %d could not be scored: %s", name, weights.step, _last_line(error))
            return
        if found is None:
            return  # called off, or deleted meanwhile: the next look says so, or finds newer ones below
        steps = {stage: each.step for stage, each in below.items()}
        point = Point(weights.step, steps, samples=job.samples, **found)
        self.curves[name].add(point)
        self.tracked.add(name, point)
        figures = [f"FID {point.fid:.3f}"] if point.fid is not None else []
        figures += [f"KID {point.kid:.4f}"]
        told = f"{' and '.join(figures)} in the {point.features}'s features, accuracy {point.accuracy:.3f}"
        self.say(f"train/{name}: step {point.step}: {told}")


def _last_line(error: Exception) -> str:
    """What a person needs of an error: of a remote traceback its end."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
