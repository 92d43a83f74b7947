"""Which nodes an experiment consists of. Pure: no torch, no Ray; a graph is ready to print at once.

data -> train/<stage>                      one per stage, independent of each other
data -> classifier/features, classifier/judge
real/<split>/<size>                        features of real images at every size of the cascade
samples/<stage> <- train/<stage>, samples/<stage below>          the chain
oracle/<stage>  <- train/<stage>, data                           real low-res instead
features/..., scores/...                   of each of them against the real ones of its size
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.dag import Node
from pipeline.errors import UserError
from pipeline.experiment import digest_of
from pipeline.experiment_spec import DrawnData, Experiment, ImageData, InceptionScorer, ShardData
from pipeline.manifest import load_manifest
from pipeline.sources import identify
from pipeline.storage import sha256_of

# Raise a number when the function gives another result for the same settings.
VERSIONS = {
    "pipeline.datasets:make_data": 1,
    "pipeline.datasets:link_data": 1,
    "pipeline.judging:make_classifier": 1,
    "pipeline.judging:real_features": 1,
    "pipeline.sampling:sample_prefix": 1,
    "pipeline.judging:sample_features": 1,
    "pipeline.judging:score": 1,
    "pipeline.training:train_stage": 1,
    "pipeline.search:search_stages": 1,
}
FEATURE_SEED, JUDGE_SEED = 101, 202


def run_prefix(node: str, config: Mapping[str, Any], data_digest: str) -> str:
    """Where the commit log of a training run lies. The number of steps is left out: asking for more continues it."""
    training = {key: value for key, value in config["training"].items() if key != "steps"}
    version = VERSIONS["pipeline.training:train_stage"]
    return f"runs/{node.replace('/', '-')}-{digest_of([version, {**config, 'training': training}, data_digest])[:16]}"


def _digest_of_weights(path: Path) -> str:
    if not path.is_file():
        raise UserError(
            f"evaluation.scorer.weights: there is no file {path}; it is the Inception-v3 weights of torch-fidelity "
            "(weights-inception-2015-12-05-6726825d.pth of its releases), which are never downloaded here"
        )
    return sha256_of(path)


@dataclass(frozen=True)
class Tracking:
    """Where training logs live metrics: an MLflow address, and a run for each stage. It changes no result."""

    uri: str
    runs: Mapping[str, str]


@dataclass(frozen=True)
class Nodes:
    """The nodes of ``experiment``; inside a ``trial`` its scores are those of a search: other samples, no own tasks."""

    experiment: Experiment
    tracking: Tracking | None = None
    trial: bool = False

    @property
    def count(self) -> int:
        """Generated images per stage."""
        search = self.experiment.search
        return search.samples if self.trial and search else self.experiment.evaluation.samples

    @property
    def _seed(self) -> int:
        search = self.experiment.search
        return search.seed if self.trial and search else self.experiment.evaluation.seed

    @property
    def _context(self) -> dict[str, Any]:
        resources = self.experiment.resources
        return {
            "threads": resources.threads,
            "sampling_workers": 1 if self.trial else resources.sampling_workers,
        }

    def _node(self, name: str, function: str, config: Mapping[str, Any], **fields: Any) -> Node:
        fields.setdefault("context", self._context)
        return Node(name, function, VERSIONS[function], config, **fields)

    @cached_property
    def data(self) -> Node:
        """The data set. Raises UserError when its source or folder cannot be used."""
        data = self.experiment.data
        if isinstance(data, DrawnData):
            return self._node("data", "pipeline.datasets:make_data", data.model_dump(mode="json"))
        if isinstance(data, ShardData):
            manifest = load_manifest(data.path)
            context = {**self._context, "path": str(data.path.resolve())}
            return self._node("data", "pipeline.datasets:link_data", {"digest": manifest.digest}, context=context)
        assert isinstance(data, ImageData)
        identity = identify(data.source)
        config = {
            "kind": "images",
            "fingerprint": identity.fingerprint,
            "size": data.size,
            "val_fraction": data.val_fraction,
        }
        context = {**self._context, "source": str(data.source.resolve())}
        return self._node("data", "pipeline.datasets:make_data", config, context=context)

    def train(self, name: str) -> Node:
        """Training of stage ``name``; the number of classes comes with the data."""
        config, resources = self.experiment.stages[name], self.experiment.resources
        stage = self.experiment.stage_spec(name, classes=1).model_dump(mode="json", exclude={"classes"})
        settings = {
            "stage": stage,
            "training": config.training.model_dump(mode="json"),
            "seed": self.experiment.seed,
        }
        node = f"train/{name}"
        context = {
            **self._context,
            **resources.model_dump(
                include={"workers", "cpus_per_worker", "gpus_per_worker", "log_every", "checkpoint_seconds"}
            ),
            "run": run_prefix(node, settings, self.data.digest),
        }
        if self.tracking is not None:
            context |= {"tracking_uri": self.tracking.uri, "tracking_run": self.tracking.runs[name]}
        # The node itself only waits: Ray Train's workers hold the resources.
        return self._node(
            node, "pipeline.training:train_stage", settings, inputs={"data": self.data}, context=context, cpus=0
        )

    def classifier(self, role: str, seed: int) -> Node:
        evaluation = self.experiment.evaluation
        config = {
            "classifier": evaluation.classifier.model_dump(mode="json"),
            "sizes": sorted({stage.size for stage in self.experiment.stages.values()}),
            "seed": self.experiment.seed * 1000 + seed,
            "held_out": 5000,
        }
        return self._node(f"classifier/{role}", "pipeline.judging:make_classifier", config, inputs={"data": self.data})

    @cached_property
    def judge(self) -> Node:
        """The classifier behind accuracy."""
        return self.classifier("judge", JUDGE_SEED)

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
        return {
            "sampling": sampling,
            "count": self.count,
            "block": evaluation.block,
            "seed": self._seed,
            "precision": evaluation.precision,
            "keep": [] if oracle else list(self.experiment.kept_levels(name)),
        }

    def chained(self, name: str) -> Node:
        """Samples of the prefix of the cascade that ends with stage ``name``."""
        inputs = {"stage": self.train(name)}
        position = self.experiment.names.index(name)
        if position:
            inputs["below"] = self.chained(self.experiment.names[position - 1])
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
        """Scores of "chained", "oracle" or "real" images at the size of stage ``name``."""
        size = self.experiment.stages[name].size
        inputs = {"reference": self.real("train", size)}
        if kind == "real":
            inputs["judged"] = self.real("val", size)
        else:
            samples = self.chained(name) if kind == "chained" else self.oracle(name)
            config, judging, context = self._judging
            inputs["samples"] = samples
            inputs["judged"] = self._node(
                f"features/{kind}/{name}",
                "pipeline.judging:sample_features",
                config,
                inputs={**judging, "samples": samples},
                context=context,
            )
        evaluation = self.experiment.evaluation
        config = {"block": evaluation.block, "neighbours": evaluation.neighbours}
        return self._node(f"scores/{kind}/{name}", "pipeline.judging:score", config, inputs=inputs)

    def evaluation(self) -> list[Node]:
        """Every score of the experiment: chained, oracle and real at each stage."""
        names = self.experiment.names
        kinds = [("chained", name) for name in names]
        kinds += [("oracle", name) for name in names[1:]] + [("real", name) for name in names]
        return [self.scores(kind, name) for kind, name in kinds]

    def search(self) -> Node:
        """The search section. Its inputs are what a trial of sampling settings needs, so it comes after training."""
        experiment = self.experiment
        assert experiment.search is not None, "an experiment without a search section has no search node"
        config = experiment.model_dump(
            mode="json", include={"seed": True, "stages": True, "search": True, "evaluation": {"samples", "seed"}}
        )
        nodes = Nodes(experiment, trial=True)
        inputs = {f"train {name}": self.train(name) for name in experiment.names}
        inputs |= {f"real {name}": nodes.scores("real", name) for name in experiment.names}
        context = {**self._context, "experiment": experiment.model_dump(mode="json")}
        return self._node("search", "pipeline.search:search_stages", config, inputs=inputs, context=context, cpus=0)
