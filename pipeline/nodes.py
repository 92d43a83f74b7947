"""Which nodes an experiment consists of. Pure: no torch, no Ray; a graph is ready to print at once.

data -> train/<stage>                      one per stage, independent of each other
data -> classifier/features, classifier/judge
real/<split>/<size>                        features of real images at every size of the cascade
samples/<stage> <- train/<stage>, samples/<stage below>          the chain
oracle/<stage>  <- train/<stage>, data                           real low-res instead
features/..., scores/...                   of each of them against the real ones of its size
scores/real/<size>                         real held-out images against the same reference, for all stages of a size
restoration/<stage>, bound/<stage>         PSNR and the like of super-resolution; the variational bound

Cascades that share stages share their nodes: a chain is followed from each stage to the one below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.dag import Node
from pipeline.errors import UserError
from pipeline.evaluation_spec import InceptionScorer
from pipeline.storage import sha256_of
from pipeline.trained_nodes import FEATURE_SEED, TrainedNodes


def _digest_of_weights(path: Path) -> str:
    if not path.is_file():
        raise UserError(
            f"evaluation.scorer.weights: there is no file {path}; it is the Inception-v3 weights of torch-fidelity "
            "(weights-inception-2015-12-05-6726825d.pth of its releases), which are never downloaded here"
        )
    return sha256_of(path)


@dataclass(frozen=True)
class Nodes(TrainedNodes):
    """All nodes of ``experiment``; inside a ``trial`` its scores are those of a search: other samples, no own tasks."""

    @property
    def count(self) -> int:
        """Generated images per stage."""
        search = self.experiment.search
        return search.samples if self.trial and search else self.experiment.evaluation.samples

    @property
    def _seed(self) -> int:
        search = self.experiment.search
        return search.seed if self.trial and search else self.experiment.evaluation.seed

    @cached_property
    def _judging(self) -> tuple[dict[str, Any], dict[str, Node], dict[str, Any]]:
        """Settings, inputs and context of everything that extracts features."""
        evaluation = self.experiment.evaluation
        inputs = {"data": self.data, "judge": self.judge}
        context = self._context
        if isinstance(evaluation.scorer, InceptionScorer):
            scorer = {"kind": "inception", "sha256": _digest_of_weights(evaluation.scorer.weights)}
            context = {**context, "weights": str(evaluation.scorer.weights.resolve())}
        else:
            scorer = {"kind": "classifier"}
            inputs["feature_classifier"] = self.classifier("features", FEATURE_SEED)
        return {"scorer": scorer, "block": evaluation.block}, inputs, context

    def real(self, split: str, size: int) -> Node:
        """Features of real images of ``split`` ("train": the reference; "val": as many as are generated)."""
        config, inputs, context = self._judging
        count = self.experiment.evaluation.reference if split == "train" else self.count
        return self._node(
            f"real/{split}/{size}",
            "pipeline.judging:real_features",
            {**config, "split": split, "size": size, "count": count},
            inputs=inputs,
            context=context,
        )

    def _sampling(self, name: str, *, oracle: bool) -> dict[str, Any]:
        evaluation = self.experiment.evaluation
        sampling = self.experiment.stages[name].sampling.model_dump(mode="json")
        if sampling["level"] == 0 or oracle:
            # At s = 0 both kinds are the finished image, and of a real image both are its forward process.
            sampling["augmentation"] = "non_truncated"
        if sampling["guidance"] == 1.0:
            sampling["guidance_interval"] = None  # nothing acts inside it
        return {
            "sampling": sampling,
            "count": self.count,
            "block": evaluation.block,
            "seed": self._seed,
            "precision": evaluation.precision,
            "keep": [] if oracle else list(self.experiment.kept_levels(name, searched=self.trial)),
        }

    def chained(self, name: str) -> Node:
        """Samples of the prefix of the cascade that ends with stage ``name``."""
        inputs = {"stage": self.train(name)}
        if (below := self.experiment.below(name)) is not None:
            inputs["below"] = self.chained(below)
        config = self._sampling(name, oracle=False)
        return self._node(f"samples/{name}", "pipeline.sampling:sample_prefix", config, inputs=inputs, cpus=self._wait)

    def oracle(self, name: str) -> Node:
        """Samples of a super-resolution stage on real low-res images."""
        inputs = {"stage": self.train(name), "data": self.data}
        config = self._sampling(name, oracle=True)
        return self._node(f"oracle/{name}", "pipeline.sampling:sample_prefix", config, inputs=inputs, cpus=self._wait)

    @property
    def _wait(self) -> float:
        """CPUs of a node that hands its work to tasks of its own: none, or they would wait for it for ever."""
        return 0.0 if self._context["sampling_workers"] > 1 else 1.0

    def scores(self, kind: str, name: str) -> Node:
        """Scores of "chained" or "oracle" images of stage ``name``."""
        samples = self.chained(name) if kind == "chained" else self.oracle(name)
        config, judging, context = self._judging
        judged = self._node(
            f"features/{kind}/{name}",
            "pipeline.judging:sample_features",
            config,
            inputs={**judging, "samples": samples},
            context=context,
        )
        reference = self.real("train", self.experiment.stages[name].size)
        return self._score(f"{kind}/{name}", {"reference": reference, "samples": samples, "judged": judged})

    def real_scores(self, name: str) -> Node:
        """Scores of real held-out images at the size of stage ``name``: one node for all stages of that size."""
        size = self.experiment.stages[name].size
        return self._score(f"real/{size}", {"reference": self.real("train", size), "judged": self.real("val", size)})

    def _score(self, name: str, inputs: Mapping[str, Node]) -> Node:
        evaluation = self.experiment.evaluation
        config = {"block": evaluation.block, "neighbours": evaluation.neighbours}
        return self._node(f"scores/{name}", "pipeline.judging:score", config, inputs=inputs)

    def restoration(self, name: str) -> Node:
        """PSNR, SSIM and consistency of a super-resolution stage."""
        stage, below = self.experiment.stages[name], self.experiment.below(name)
        assert below is not None, "a base stage restores nothing"
        inputs = {
            "data": self.data,
            "oracle": self.oracle(name),
            "chained": self.chained(name),
            "below": self.chained(below),
        }
        config = {"size": stage.size, "low_res_size": stage.low_res_size, "block": self.experiment.evaluation.block}
        return self._node(f"restoration/{name}", "pipeline.restoration:score_restoration", config, inputs=inputs)

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
        return self._node(f"bound/{name}", "pipeline.bounding:bound_stage", config, inputs=inputs)

    def evaluation(self) -> list[Node]:
        """Every score of the experiment: chained, oracle and real at each stage, restoration, bounds."""
        experiment = self.experiment
        upper = [name for name in experiment.names if experiment.below(name) is not None]
        nodes = [self.scores("chained", name) for name in experiment.names]
        nodes += [self.scores("oracle", name) for name in upper]
        nodes += {node.name: node for node in map(self.real_scores, experiment.names)}.values()
        nodes += [self.restoration(name) for name in upper]
        return nodes + ([self.bound(name) for name in experiment.bounded] if experiment.evaluation.bound else [])

    def trial_targets(self, stage: str) -> list[Node]:
        """What a trial computes: scores of the prefix that ends with ``stage``, chained and with the oracle."""
        assert self.trial, "trials have samples of their own"
        targets = [self.scores("chained", stage)]
        return targets if self.experiment.below(stage) is None else [*targets, self.scores("oracle", stage)]

    def search(self) -> Node:
        """The search section. Its inputs are what a trial of sampling settings needs, so it comes after training.

        Its settings are all that a trial reads: what it computes, by digest, and how the stages are sampled, of which
        some matters only beside what a trial changes.
        """
        experiment, nodes = self.experiment, Nodes(self.experiment, trial=True)
        assert experiment.search is not None, "an experiment without a search section has no search node"
        search = experiment.search
        ends = [stage for stage, _ in search.rounds(experiment.names, experiment.last)]
        read = [name for name in experiment.names if any(name in experiment.chain(end) for end in ends)]
        unread = {"concurrency", *(["trials"] if search.algorithm == "grid" else [])}
        config = {
            "search": search.model_dump(mode="json", exclude=unread),
            "trials": {end: [node.digest for node in nodes.trial_targets(end)] for end in ends},
            "sampling": {name: experiment.stages[name].sampling.model_dump(mode="json") for name in read},
        }
        inputs = {f"train {name}": self.train(name) for name in read}
        sizes = {experiment.stages[end].size for end in ends}
        inputs |= {f"real {size}": nodes.real("train", size) for size in sizes}
        context = {**self._context, "experiment": experiment.model_dump(mode="json")}
        return self._node("search", "pipeline.search:search_stages", config, inputs=inputs, context=context, cpus=0)
