"""The nodes that stand before any sampling: the data set, the stages trained on it, the classifiers that judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.dag import Node
from pipeline.data.forms import RESIZE, Reduction, form_for
from pipeline.data.manifest import Manifest, load_manifest
from pipeline.data.sources import identify
from pipeline.data.specs import SHARD_SIZE, DrawnData, ImageData, ShardData, absolute
from pipeline.errors import UserError
from pipeline.experiment import digest_of
from pipeline.experiment_spec import Experiment

# Raise a number when the function gives another result for the same settings.
VERSIONS = {
    "pipeline.data.datasets:make_data": 2,
    "pipeline.data.datasets:link_data": 2,
    "pipeline.judging:make_classifier": 3,
    "pipeline.judging:real_images": 1,
    "pipeline.sampling:draw": 2,
    "pipeline.scores:score": 1,
    "pipeline.restoration:score_restoration": 3,
    "pipeline.examining:examine_chain": 1,
    "pipeline.memorisation:nearest_training": 2,
    "pipeline.cas.sample_sets:draw_sample_set": 1,
    "pipeline.cas.training:train_cas": 1,
    "pipeline.bounding:bound_stage": 2,
    "pipeline.training:train_stage": 4,
    "pipeline.search.run:search_stages": 2,
}
FEATURE_SEED, JUDGE_SEED = 101, 202


def run_prefix(node: str, config: Mapping[str, Any], data_digest: str) -> str:
    """Where the commit log of a training run lies. The number of steps is left out: asking for more continues it."""
    training = {key: value for key, value in config["training"].items() if key != "steps"}
    version = VERSIONS["pipeline.training:train_stage"]
    return f"runs/{node.replace('/', '-')}-{digest_of([version, {**config, 'training': training}, data_digest])[:16]}"


@dataclass(frozen=True)
class Tracking:
    """Where the metrics of trainings go: an MLflow address, which only the driver knows, and a run for each stage that
    is to have one. It changes no result."""

    uri: str
    runs: Mapping[str, str]


@dataclass(frozen=True)
class TrainedNodes:
    """Data, training and classifiers of ``experiment``; what runs inside a ``trial`` starts no tasks of its own."""

    experiment: Experiment
    tracking: Tracking | None = None
    trial: bool = False

    @property
    def _context(self) -> dict[str, Any]:
        resources = self.experiment.resources
        return {
            "cache": absolute(str(resources.cache)),
            "cache_gb": resources.cache_gb,
            "threads": resources.threads,
            "sampling_workers": 1 if self.trial else resources.sampling_workers,
            "gpus_per_sampling_worker": resources.gpus_per_sampling_worker,
            "compiled_sampling": resources.compiled_sampling,
        }

    @property
    def _workers(self) -> dict[str, Any]:
        """Context of what is trained by workers of its own."""
        resources = self.experiment.resources
        placing = {
            "compile",
            "recompute",
            "workers",
            "cpus_per_worker",
            "gpus_per_worker",
            "loader_processes",
            "log_every",
        }
        return {
            **self._context,
            **resources.model_dump(mode="json", include=placing | {"checkpoint_seconds"}),
            "cache_users": len(self.experiment.stages),
        }

    def _node(self, name: str, function: str, config: Mapping[str, Any], **fields: Any) -> Node:
        fields.setdefault("context", self._context)
        return Node(name, function, VERSIONS[function], config, **fields)

    @cached_property
    def _manifest(self) -> Manifest | None:
        """Of a data set that is there already; None where the data node makes it."""
        data = self.experiment.data
        return load_manifest(data.path) if isinstance(data, ShardData) else None

    @cached_property
    def data(self) -> Node:
        """The data set. Raises UserError when its source or folder cannot be used."""
        data = self.experiment.data
        if isinstance(data, DrawnData):
            config = {**data.model_dump(mode="json", exclude={"shuffle"}), "encoding": "raw", "shard_size": SHARD_SIZE}
            return self._node("data", "pipeline.data.datasets:make_data", config)
        if isinstance(data, ShardData):
            assert self._manifest is not None, "shards have a manifest"
            self._check_sizes(self._manifest, data.reduction)
            content = {"digest": self._manifest.digest, "reduction": data.reduction}
            config = {**content, "path": absolute(data.path)}
            return self._node("data", "pipeline.data.datasets:link_data", config, content=digest_of(content))
        assert isinstance(data, ImageData)
        identity = identify(data.source)
        config = {
            "kind": "images",
            "fingerprint": identity.fingerprint,
            **data.model_dump(mode="json", include={"size", "encoding", "val_fraction"}),
            "resize": RESIZE,
            "shard_size": SHARD_SIZE,
        }
        context = {**self._context, "source": absolute(data.source), "max_undecodable": data.max_undecodable}
        return self._node("data", "pipeline.data.datasets:make_data", config, context=context)

    def _check_sizes(self, manifest: Manifest, reduction: Reduction) -> None:
        """Raise UserError when a stage, or a classifier at the size of the data, cannot have its images."""
        for name, stage in self.experiment.stages.items():
            try:
                form_for(manifest, stage.size, reduction)
            except UserError as error:
                raise UserError(f"stages.{name}: {error}") from None
        form_for(manifest, manifest.image_size, reduction)

    def _held_out(self, otherwise: str) -> int | None:
        """Held-out images of a data set that is there, None where the data node makes it.

        Raises UserError where there are none: what can be done then is told ``otherwise``.
        """
        if self._manifest is None:
            return None
        there = self._manifest.splits["val"].examples
        if not there:
            assert isinstance(self.experiment.data, ShardData), "a data set that is there"
            raise UserError(
                f"{self.experiment.data.path} has no held-out images, as samples of a cascade never have, and there "
                f"are no scores without; {otherwise}"
            )
        return there

    def _check_held_out(self) -> None:
        """Raise UserError when a data set that is there has fewer held-out images than scores are asked of."""
        data, evaluation, search = self.experiment.data, self.experiment.evaluation, self.experiment.search
        if (there := self._held_out("`rayfall train` needs none")) is None:
            return
        assert isinstance(data, ShardData), "a data set that is there"
        asked = {"evaluation.held_out": evaluation.held_out_images}
        asked |= {"search.samples": search.samples} if search else {}
        asked |= {"evaluation.bound.images": evaluation.bound.images} if evaluation.bound else {}
        for path, count in asked.items():
            if count > there:
                raise UserError(
                    f"scores are asked of {count} held-out images, and {data.path} has {there}; set {path} to at most "
                    "that"
                )

    def train(self, name: str) -> Node:
        """Training of stage ``name``; the number of classes comes with the data."""
        config = self.experiment.stages[name]
        during = self.experiment.evaluation.during
        stage = self.experiment.stage_spec(name, classes=1).model_dump(mode="json", exclude={"classes"})
        settings = {
            "stage": stage,
            "training": config.training.model_dump(mode="json"),
            "seed": self.experiment.seed,
            "shuffle": self.experiment.data.shuffle.model_dump(mode="json"),
        }
        node = f"train/{name}"
        context = {
            **self._workers,
            "run": run_prefix(node, settings, self.data.identity),
            "watch_every": None if self.trial or during is None else during.every,
        }
        if self.tracking is not None and name in self.tracking.runs:
            context |= {"tracking_run": self.tracking.runs[name]}
        # One worker is the node's own process. Where there are more, the node only waits: they hold the resources.
        resources = self.experiment.resources
        alone = resources.workers == 1
        context["in_place"] = alone
        return self._node(
            node,
            "pipeline.training:train_stage",
            settings,
            inputs={"data": self.data},
            context=context,
            cpus=resources.cpus_per_worker if alone else 0.0,
            gpus=resources.gpus_per_worker if alone else 0.0,
        )

    def classifier(self, role: str, seed: int) -> Node:
        """The classifier called ``role``, trained at all sizes of the stages; ``seed`` tells roles apart."""
        classifier = self.experiment.evaluation.classifier
        own = self.experiment.seed if classifier.seed is None else classifier.seed
        config = {
            "classifier": classifier.model_dump(mode="json", exclude={"seed"}),
            "sizes": sorted({stage.size for stage in self.experiment.stages.values()}),
            "seed": (own * 1000 + seed) % 2**63,
            "held_out": 5000,
        }
        return self._node(f"classifier/{role}", "pipeline.judging:make_classifier", config, inputs={"data": self.data})

    @cached_property
    def judge(self) -> Node:
        """The classifier behind accuracy. Raises UserError where there are too few held-out images to judge by."""
        self._check_held_out()
        return self.classifier("judge", JUDGE_SEED)

    @property
    def watchers(self) -> list[Node]:
        """The classifiers of scores while stages train, those of features and of accuracy: they are measured on the
        held-out images that there are. Raises UserError where there are none."""
        self._held_out("remove evaluation.during to train")
        return [self.classifier("features", FEATURE_SEED), self.classifier("judge", JUDGE_SEED)]
