"""Which nodes an experiment consists of. Pure: no torch, no Ray; a graph is ready to print at once.

data -> train/<stage>                      one per stage, independent of each other
data -> classifier/features, classifier/judge
real/<split>/<size>                        real images, measured, at every size of the cascade
chained/<stage> <- train/<stage>, chained/<stage below>          the chain, drawn and measured
oracle/<stage>  <- train/<stage>, data                           on real low-res images instead
scores/<kind>/<stage>                      of each of them against the real ones of its size
scores/real/<size>                         real held-out images against the same reference, for all stages of a size
chain/<stage>                              drift along the chain: colours, power by frequency, consistency
memorisation/<stage>                       the training images nearest to samples of the last stage of a cascade
cas_samples/<cascade> <- train/..., cas/<stage>, cas/real/<size>     the classification accuracy score, if asked for
samples/<cascade>                          the samples themselves, as a data set, if they are to be kept
restoration/<stage>, bound/<stage>         PSNR and the like of super-resolution; the variational bound

Cascades that share stages share their nodes: a chain is followed from each stage to the one below it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.dag import Node
from pipeline.drawn_nodes import DrawnNodes
from pipeline.scoring.passport import StageMark
from pipeline.search.checks import retrains


@dataclass(frozen=True)
class Nodes(DrawnNodes):
    """All nodes of ``experiment``; inside a ``trial`` its scores are those of a search: other samples, no own tasks."""

    def scores(self, kind: str, name: str) -> Node:
        """Scores of "chained" or "oracle" images of stage ``name``."""
        judged = self.chained(name) if kind == "chained" else self.oracle(name)
        chain = self.experiment.chain(name) if kind == "chained" else (name,)
        stages = [self._stage_mark(stage, oracle=kind == "oracle") for stage in chain]
        return self._score(f"{kind}/{name}", self.experiment.stages[name].size, judged, {"stages": stages})

    def real_scores(self, name: str) -> Node:
        """Scores of real held-out images at the size of stage ``name``: one node for all stages of that size."""
        size = self.experiment.stages[name].size
        return self._score(f"real/{size}", size, self.real("val", size), {"stages": []})

    def _score(self, name: str, size: int, judged: Node, facts: Mapping[str, Any]) -> Node:
        evaluation = self.experiment.evaluation
        config = {"kind": name.split("/")[0], "size": size, "neighbours": evaluation.neighbours}
        config["scorers"] = self._measuring[0]["scorers"]
        inputs = {"data": self.data, "judged": judged, "reference": self.real("train", size)}
        if config["kind"] != "real" and not self.trial:
            inputs["validation"] = self.real("val", size)
        context = {
            **self._context,
            **facts,
            "labels": evaluation.labels if config["kind"] == "chained" else "histogram",
            "seed": None if config["kind"] == "real" else self._seed,
            "block": evaluation.block,
            "precision": evaluation.precision,
        }
        return self._node(f"scores/{name}", "pipeline.scores:score", config, inputs=inputs, context=context)

    def _stage_mark(self, name: str, *, oracle: bool = False) -> dict[str, Any]:
        """What a passport says of one stage of the chain: how it was sampled, the same words for the same images."""
        stage, sampling = self.experiment.stages[name], self._sampling(name, oracle=oracle)
        alone = self.experiment.below(name) is None
        mark = {key: sampling[key] for key in sorted(sampling.keys() & StageMark.model_fields.keys())}
        if mark["schedule"] is not None:
            mark["schedule"] = json.dumps(mark["schedule"], sort_keys=True)
        mark |= {"name": name, "size": stage.size, "weights": self.train(name).digest}
        return mark | ({"augmentation": None, "level": None} if alone else {})

    def chain(self, name: str) -> Node:
        """Drift of the images of stage ``name`` from real ones of its size."""
        inputs = {"chained": self.chained(name), "real": self.real("val", self.experiment.stages[name].size)}
        if self.experiment.below(name) is not None:
            inputs["oracle"] = self.oracle(name)
        config = {"size": self.experiment.stages[name].size}
        return self._node(f"chain/{name}", "pipeline.examining:examine_chain", config, inputs=inputs)

    def memorisation(self, name: str) -> Node:
        """The training images nearest to a few samples of stage ``name``."""
        size = self.experiment.stages[name].size
        inputs = {
            "drawn": self.chained(name),
            "reference": self.real("train", size),
            "real_val": self.real("val", size),
            "data": self.data,
        }
        evaluation = self.experiment.evaluation
        config = {"size": size, "scorer": evaluation.scorer.name, "count": evaluation.memorised}
        return self._node(f"memorisation/{name}", "pipeline.memorisation:nearest_training", config, inputs=inputs)

    def restoration(self, name: str) -> Node:
        """PSNR, SSIM and consistency of a super-resolution stage."""
        assert self.experiment.below(name) is not None, "a base stage restores nothing"
        inputs = {"oracle": self.oracle(name), "chained": self.chained(name)}
        return self._node(f"restoration/{name}", "pipeline.restoration:score_restoration", {}, inputs=inputs)

    def cas(self, trained_on: str, size: int, images: Node, chain: tuple[str, ...] = ()) -> Node:
        """The classification accuracy score of ``images``: the data set's, or at ``size`` px those of a ``chain``."""
        spec, workers = self.experiment.evaluation.cas, self.experiment.resources.workers
        assert spec is not None, "an experiment without a cas section has no such scores"
        assert isinstance(workers, int), "an elastic number of workers is refused with the experiment"
        config = {
            # What draws the samples does not train on them.
            "cas": spec.model_dump(mode="json", exclude={"shard_blocks"}),
            "size": size,
            "shuffle": self.experiment.data.shuffle.model_dump(mode="json"),
            "workers": workers,  # each normalises its own part of a batch
        }
        inputs = {"train": images, "data": self.data}
        function = "pipeline.cas.training:train_cas"
        context = {**self._workers, "stages": [self._stage_mark(stage) for stage in chain]}
        return self._node(f"cas/{trained_on}", function, config, inputs=inputs, context=context, cpus=0.0)

    def cas_scores(self) -> list[Node]:
        """The classification accuracy score of every stage, and of real images at every size: the ceiling."""
        found: dict[str, Node] = {}
        for cascade, chain in self.experiment.chains.items():
            for name in chain:
                below = self.experiment.chain(name)
                node = self.cas(name, self.experiment.stages[name].size, self.cas_samples(cascade), below)
                found.setdefault(node.name, node)
        sizes = sorted({stage.size for stage in self.experiment.stages.values()})
        return [*found.values(), *(self.cas(f"real/{size}", size, self.data) for size in sizes)]

    def bound(self, name: str) -> Node:
        """The variational bound of held-out real images under stage ``name``."""
        stage, evaluation = self.experiment.stages[name], self.experiment.evaluation
        assert evaluation.bound is not None, "an experiment without a bound section has no bound nodes"
        config = {
            "images": evaluation.bound.images,
            "steps": evaluation.bound.steps or self.experiment.bounded[name],
            "variance": "learned" if stage.learns_variance else stage.sampling.variance,
            "level": stage.sampling.level,
            "ema_length": stage.sampling.ema_length,
            "block": evaluation.block,
            "seed": evaluation.seed,
            "precision": evaluation.precision,
        }
        inputs = {"stage": self.train(name), "data": self.data}
        gpus = self._context["gpus_per_sampling_worker"]
        return self._node(f"bound/{name}", "pipeline.bounding:bound_stage", config, inputs=inputs, gpus=gpus)

    def evaluation(self) -> list[Node]:
        """Every score of the experiment: chained, oracle and real at each stage, restoration, bounds."""
        experiment = self.experiment
        upper = [name for name in experiment.names if experiment.below(name) is not None]
        nodes = [self.scores("chained", name) for name in experiment.names]
        nodes += [self.scores("oracle", name) for name in upper]
        nodes += {node.name: node for node in map(self.real_scores, experiment.names)}.values()
        nodes += [self.chain(name) for name in experiment.names]
        nodes += [self.restoration(name) for name in upper]
        if experiment.evaluation.memorised:
            nodes += [self.memorisation(name) for name in sorted({chain[-1] for chain in experiment.chains.values()})]
        nodes += self.cas_scores() if experiment.evaluation.cas else []
        if experiment.evaluation.keep_samples:
            nodes += [self.kept_samples(cascade) for cascade in experiment.chains]
        return nodes + ([self.bound(name) for name in experiment.bounded] if experiment.evaluation.bound else [])

    def trial_targets(self, stage: str) -> list[Node]:
        """What a trial computes: scores of the prefix that ends with ``stage``, chained and with the oracle."""
        assert self.trial, "trials have samples of their own"
        targets = [self.scores("chained", stage)]
        return targets if self.experiment.below(stage) is None else [*targets, self.scores("oracle", stage)]

    @property
    def searched_trainings(self) -> frozenset[str]:
        """The stages that a search trains itself: their own training is searched, or what they take from below."""
        experiment, search = self.experiment, self.experiment.search
        paths = list(search.space) if search else []
        return frozenset(name for name in experiment.names if any(retrains(experiment, path, name) for path in paths))

    def search(self) -> Node:
        """The search section. Its inputs are what a trial of sampling settings needs, so it comes after training;
        stages whose training is searched are trained by trials, and declared weights of theirs may never be read.

        Its settings are all that a trial reads: what it computes, by digest, and how the stages are sampled, of which
        some matters only beside what a trial changes. How many trials run at once is a setting of what Optuna proposes.
        """
        experiment, nodes = self.experiment, Nodes(self.experiment, trial=True)
        assert experiment.search is not None, "an experiment without a search section has no search node"
        search = experiment.search
        rounds = search.rounds(experiment.names, experiment.last)
        ends = [stage for stage, _ in rounds]
        read = [name for name in experiment.names if any(name in experiment.chain(end) for end in ends)]
        algorithms = {search.algorithm_of(paths) for _, paths in rounds}
        unread = {"concurrency", *(["trials"] if algorithms == {"grid"} else [])}
        config: dict[str, Any] = {
            "search": search.model_dump(mode="json", exclude=unread),
            "trials": {end: [node.digest for node in nodes.trial_targets(end)] for end in ends},
            "sampling": {name: experiment.stages[name].sampling.model_dump(mode="json") for name in read},
        }
        if "optuna" in algorithms:
            workers = experiment.resources.sampling_workers
            config["at_once"] = [search.trials_at_once(paths, workers) for _, paths in rounds]
        inputs = {f"train {name}": self.train(name) for name in read if name not in self.searched_trainings}
        sizes = {experiment.stages[end].size for end in ends}
        inputs |= {f"real {size}": nodes.real("train", size) for size in sizes}
        context = {**self._context, "experiment": experiment.model_dump(mode="json")}
        return self._node("search", "pipeline.search.run:search_stages", config, inputs=inputs, context=context, cpus=0)
