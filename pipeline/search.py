"""Search by Ray Tune: which settings of an experiment give the best score.

A trial is the experiment with some settings replaced, evaluated as a graph: so a trial whose nodes are stored already
is looked up, settings of sampling cost no training, and settings of training cost one. *Stagewise* goes up the
cascade: each stage's settings are chosen with those below it fixed, scored on the prefix of the cascade that ends
with it. Nodes that several trials of a grid share (the prefix below, the real images) are computed once, before them.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.dag import Node, Task, ancestry, missing
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search_spec import LogUniform, SearchSpec, Uniform, Values, grid_of, listed
from pipeline.storage import open_storage

Settings = dict[str, Any]


def search_stages(task: Task) -> dict[str, Any]:
    """Graph node: run the search section of an experiment; ``{"chosen": settings, "rounds": [...]}``."""
    experiment = Experiment.model_validate(task.context["experiment"])
    experiment = experiment.model_copy(update={"store": task.storage.root})
    assert experiment.search is not None, "a search node needs a search section"
    chosen: Settings = {}
    rounds = []
    for stage, paths in rounds_of(experiment):
        points = Round(experiment, stage, paths, chosen).run(task.progress)
        finished = [point for point in points if point["error"] is None]
        if not finished:
            raise RuntimeError(f"no trial of the search at {stage} finished: {points[0]['error']}")
        best = min(finished, key=lambda point: point["objective"])
        chosen |= best["settings"]
        rounds.append(
            {"stage": stage, "metric": experiment.search.metric, "points": points, "chosen": best["settings"]}
        )
    summary = {"chosen": chosen, "rounds": rounds}
    (task.out / "search.json").write_text(json.dumps(summary, indent=1))
    return summary


def rounds_of(experiment: Experiment) -> list[tuple[str, list[str]]]:
    """(stage whose score counts, paths searched) for each round, each after the rounds of the stages below it."""
    assert experiment.search is not None
    return experiment.search.rounds(experiment.names, experiment.last)


def targets_of(experiment: Experiment, stage: str) -> list[Node]:
    """What a trial computes: scores of the prefix that ends with ``stage``, chained and with the oracle."""
    return Nodes(experiment, trial=True).trial_targets(stage)


def shared_nodes(trials: Sequence[Sequence[Node]]) -> list[Node]:
    """Nodes that more than one trial needs: worth computing before any of them."""
    found = Counter(node.digest for targets in trials for node in ancestry(targets))
    nodes = {node.digest: node for targets in trials for node in ancestry(targets)}
    return [nodes[digest] for digest, uses in found.items() if uses > 1]


def run_trial(experiment: Experiment, stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One trial, here: its scores, its objective (lower is better) and its seconds. Errors become a field."""
    started = time.time()
    point: dict[str, Any] = {"settings": dict(settings), "error": None, "objective": math.inf}
    try:
        changed = with_settings(experiment, settings)
        storage = open_storage(experiment.store)
        found = execute(targets_of(changed, stage), storage, Silence(), use_ray=False)
    except Exception as error:
        return {**point, "error": f"{type(error).__name__}: {error}", "seconds": time.time() - started}
    chained = found[f"scores/chained/{stage}"].summary
    oracle = found.get(f"scores/oracle/{stage}")
    assert experiment.search is not None
    sign, figure = (1, "fid") if experiment.search.metric == "chained_fid" else (-1, "accuracy")
    if chained[figure] is None or not math.isfinite(chained[figure]):  # NaN could be chosen as the best
        told = f"the {experiment.search.metric} of this trial is {chained[figure]}, so its samples are of no use"
        return {**point, "error": told, "seconds": time.time() - started}
    return {
        **point,
        "objective": sign * chained[figure],
        "chained": dict(chained),
        "oracle": dict(oracle.summary) if oracle else None,
        "seconds": time.time() - started,
    }


class Round:
    """The trials of one round: ``paths`` are searched, ``fixed`` settings stay, ``stage`` is scored."""

    def __init__(self, experiment: Experiment, stage: str, paths: list[str], fixed: Settings) -> None:
        assert experiment.search is not None
        self.experiment, self.stage, self.paths = experiment, stage, paths
        self.search, self.fixed = experiment.search, fixed

    def run(self, progress: Any) -> list[dict[str, Any]]:
        """All points of the round, each with its settings and scores."""
        if self.search.algorithm == "optuna":
            space = {path: _tune_domain(self.search, path) for path in self.paths}
            return self._tune(space, self.search.trials, progress)
        trials = self._distinct(grid_of(self.search, self.paths))
        storage = open_storage(self.experiment.store)
        targets = [self._targets(trial) for trial in trials]
        if todo := missing(shared_nodes(targets), storage):
            execute(todo, storage, Silence(), use_ray=True)
        if not any(missing(nodes, storage) for nodes in targets):
            return [run_trial(self.experiment, self.stage, self.fixed | trial) for trial in trials]
        from ray import tune

        return self._tune({"grid": tune.grid_search(trials)}, 1, progress)

    def _distinct(self, trials: list[Settings]) -> list[Settings]:
        """Trials whose settings mean the same (both kinds of augmentation at s = 0) are one trial."""
        unique: dict[str, Settings] = {}
        for trial in trials:
            nodes = self._targets(trial)
            unique.setdefault(nodes[0].digest if nodes else json.dumps(trial), trial)
        return list(unique.values())

    def _targets(self, trial: Settings) -> list[Node]:
        """What ``trial`` computes; nothing where it cannot go with what was chosen below: running it says why."""
        try:
            changed = with_settings(self.experiment, self.fixed | trial)
        except ValidationError:
            return []
        return targets_of(changed, self.stage)

    def _trial_resources(self) -> dict[str, float]:
        """What a trial reserves: a CPU (and a GPU) to sample with, or next to nothing where it waits for training.

        Trials that held all CPUs or GPUs while their own workers asked for some would wait for ever.
        """
        if not all(path.split(".")[2:3] == ["sampling"] for path in self.paths):
            return {"CPU": 0.01}
        gpus = self.experiment.resources.gpus_per_sampling_worker
        return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})

    def _tune(self, space: Mapping[str, Any], samples: int, progress: Any) -> list[dict[str, Any]]:
        """Run trials under Ray Tune on reused actors; a failed trial is a point with an error."""
        from ray import tune

        searcher = None
        if self.search.algorithm == "optuna":
            from ray.tune.search.optuna import OptunaSearch

            searcher = OptunaSearch(metric="objective", mode="min", seed=self.search.seed)
        store = Path(self.experiment.store)
        trainable = tune.with_parameters(
            _trial_class(), experiment=self.experiment.model_dump(mode="json"), stage=self.stage, fixed=self.fixed
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, self._trial_resources()),
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                num_samples=samples,
                search_alg=searcher,
                max_concurrent_trials=self.search.concurrency,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"search-{self.stage}-{int(time.time())}",
                storage_path=str(store / "ray-tune"),
                verbose=0,
                callbacks=[_count_trials(progress)],
            ),
        )
        results = tuner.fit()
        found = [results[number].metrics or {} for number in range(len(results))]
        points = [metrics["point"] for metrics in found if "point" in metrics]
        return sorted(points, key=lambda point: json.dumps(point["settings"], sort_keys=True))


def _tune_domain(search: SearchSpec, path: str) -> Any:
    from ray import tune

    distribution = search.space[path]
    if isinstance(distribution, Values):
        return tune.choice(listed(distribution))
    if isinstance(distribution, Uniform):
        return tune.uniform(*distribution.uniform)
    assert isinstance(distribution, LogUniform)
    return tune.loguniform(*distribution.loguniform)


def _trial_class() -> type:
    """The Tune trainable. Made on demand, so that importing this module does not import Ray."""
    from ray import tune

    class Trial(tune.Trainable):
        """One step is one trial; actors are reused, so weights and libraries load once."""

        def setup(self, config: Settings, experiment: Any = None, stage: str = "", fixed: Any = None) -> None:
            import torch

            self.experiment = Experiment.model_validate(experiment)
            self.stage, self.fixed = stage, fixed
            torch.set_num_threads(self.experiment.resources.threads)
            self.reset_config(config)

        def reset_config(self, new_config: Settings) -> bool:
            self.settings = {**self.fixed, **new_config.get("grid", new_config)}
            return True

        def step(self) -> dict[str, Any]:
            point = run_trial(self.experiment, self.stage, self.settings)
            return {"point": point, "objective": float(point["objective"]), "done": True}

        # Tune asks for these when it reuses an actor; a trial has no state of its own.
        def save_checkpoint(self, checkpoint_dir: str) -> None:
            del checkpoint_dir

        def load_checkpoint(self, checkpoint: Any) -> None:
            del checkpoint

    return Trial


def _count_trials(progress: Any) -> Any:
    from ray.tune import Callback

    class Count(Callback):
        """Reports how many trials are finished."""

        done = 0

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            del iteration, trial, info
            self.done += 1
            progress(self.done, len(trials))

    return Count()
