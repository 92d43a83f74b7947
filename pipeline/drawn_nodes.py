"""The nodes that draw images and measure them, and those that measure real ones in the same way. No scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pipeline.dag import Node
from pipeline.errors import UserError
from pipeline.scorer_specs import ClassifierScorer, DinoScorer, InceptionScorer
from pipeline.scoring.weights import WeightsFile, resolve_scorer_weights
from pipeline.storage import open_storage
from pipeline.trained_nodes import FEATURE_SEED, TrainedNodes

KEPT_BLOCKS = 16  # canonical blocks in a shard of samples
FEATURES_KEPT = 50_000  # of the reference, where there are so many: what KID, precision and recall look at


@dataclass(frozen=True)
class DrawnNodes(TrainedNodes):
    """Images of ``experiment``; inside a ``trial`` they are other samples, drawn without tasks of their own.

    With ``look`` a trial has that many of its samples, the first ones: what is drawn of all takes them over, unless the
    screening has them drawn in fewer steps.
    """

    look: int | None = None

    @property
    def count(self) -> int:
        """Generated images per stage."""
        if self.look is not None:
            return self.look
        search = self.experiment.search
        return search.samples if self.trial and search else self.experiment.evaluation.samples

    @property
    def held_out(self) -> int:
        """Real images of the split "val" that are measured, and oracle samples."""
        return self.count if self.trial else self.experiment.evaluation.held_out_images

    @property
    def _seed(self) -> int:
        search = self.experiment.search
        return search.seed if self.trial and search else self.experiment.evaluation.seed

    @cached_property
    def _measuring(self) -> tuple[dict[str, Any], dict[str, Node], dict[str, Any]]:
        """Settings, inputs and context of everything that measures images."""
        evaluation, store = self.experiment.evaluation, self.experiment.store
        inputs, weights, scorers = {"data": self.data}, {}, []
        for scorer in evaluation.scorers:
            settings: dict[str, Any] = {"kind": scorer.name}
            if isinstance(scorer, ClassifierScorer):
                inputs["feature_classifier"] = self.classifier("features", FEATURE_SEED)
            else:
                found = _weights(scorer, store)
                settings |= scorer.model_dump(mode="json", include={"model"}) | {"sha256": found.sha256}
                weights[scorer.name] = {"path": str(found.path), "scorer": scorer.model_dump(mode="json")}
            scorers.append(settings)
        config = {"scorers": scorers, "block": evaluation.block}
        return config, inputs, {**self._context, "weights": weights}

    def real(self, split: str, size: int) -> Node:
        """Real images of ``split`` as measured ("train": the reference; "val": held out, judged as samples are)."""
        config, inputs, context = self._measuring
        reference = self.experiment.evaluation.reference
        count = reference if split == "train" else self.held_out
        kept = count if split == "val" else min(count, FEATURES_KEPT)
        if split == "val":
            inputs = {**inputs, "judge": self.judge}
        return self._node(
            f"real/{split}/{size}",
            "pipeline.judging:real_images",
            {**config, "split": split, "size": size, "count": count, "kept": kept},
            inputs=inputs,
            context=context,
            **self._room,
        )

    def _sampling(self, name: str, *, oracle: bool = False) -> dict[str, Any]:
        """How a stage is sampled, the same settings for the same images."""
        sampling = self.experiment.drawn_with(name, oracle=oracle)
        return sampling if self.look is None else {**sampling, "steps": self._look_steps(name)}

    def _look_steps(self, name: str) -> int:
        """Sampler steps of stage ``name`` in a first look."""
        search, own = self.experiment.search, self.experiment.stages[name].sampling.steps
        screening = search.screening if search else None
        return min(own, screening.sampling_steps or own) if screening else own

    def _drawing(self, name: str, *, oracle: bool) -> dict[str, Any]:
        evaluation = self.experiment.evaluation
        return {
            "sampling": self._sampling(name, oracle=oracle),
            "oracle": oracle,
            "labels": "held_out" if oracle else evaluation.labels,
            "count": self.held_out if oracle else self.count,
            "seed": self._seed,
            "precision": evaluation.precision,
            "handed": not oracle and bool(self.experiment.above(name)),
            "keep": [] if oracle else list(self.experiment.kept_levels(name, searched=self.trial)),
        }

    def chained(self, name: str) -> Node:
        """Samples of the prefix of the cascade that ends with stage ``name``."""
        return self._draw(name, oracle=False)

    def oracle(self, name: str) -> Node:
        """Samples of a super-resolution stage on real low-res images."""
        return self._draw(name, oracle=True)

    def _draw(self, name: str, *, oracle: bool) -> Node:
        config, inputs, context = self._measuring
        inputs = {**inputs, "judge": self.judge, "stage": self.train(name)}
        if not oracle:
            if self.experiment.evaluation.labels == "uniform":
                del inputs["data"]  # nothing of it is read
            if (below := self.experiment.below(name)) is not None:
                inputs["below"] = self.chained(below)
        node = self._node(
            f"{'oracle' if oracle else 'chained'}/{name}",
            "pipeline.sampling:draw",
            {**config, **self._drawing(name, oracle=oracle)},
            inputs=inputs,
            context={**context, **({} if oracle else self._begun(name))},
            **self._room,
        )
        return replace(node, content=_without_levels(node).digest) if self.trial else node

    def _begun(self, name: str) -> dict[str, Any]:
        """Context of a draw that begins where the first look of a search ended, or that another one goes on from.

        A look in fewer steps, at this stage or below it, is the beginning of nothing.
        """
        search, stages = self.experiment.search, self.experiment.chain(name)
        look = search.first_look(self.experiment.evaluation.block) if self.trial and search else None
        if look is None or any(self._look_steps(one) < self.experiment.stages[one].sampling.steps for one in stages):
            return {}
        if self.look is not None:
            return {"continued": True}
        return {"earlier": replace(self, look=look)._draw(name, oracle=False).key}

    @property
    def _room(self) -> dict[str, float]:
        """CPUs and GPUs of a node that draws or measures. None where it hands its work to tasks of its own, which
        would wait for it for ever."""
        alone = self._context["sampling_workers"] == 1
        return {"cpus": 1.0, "gpus": self._context["gpus_per_sampling_worker"]} if alone else {"cpus": 0.0, "gpus": 0.0}

    def cas_samples(self, cascade: str) -> Node:
        """Samples of a cascade to train a classifier on: one for every training image, of its class."""
        cas = self.experiment.evaluation.cas
        assert cas is not None, "an experiment without a cas section draws no such samples"
        settings = cas.model_dump(mode="json", include={"images", "seed", "shard_blocks"})
        return self._sample_set(f"cas_samples/{cascade}", cascade, {"labels": "histogram", **settings})

    def kept_samples(self, cascade: str) -> Node:
        """The samples that the evaluation scores, of a whole cascade, as a data set for others to look at."""
        settings = {"labels": self.experiment.evaluation.labels, "images": self.count, "seed": self._seed}
        return self._sample_set(f"samples/{cascade}", cascade, {**settings, "shard_blocks": KEPT_BLOCKS})

    def _sample_set(self, node: str, cascade: str, settings: Mapping[str, Any]) -> Node:
        evaluation, chain = self.experiment.evaluation, self.experiment.chains[cascade]
        config = {
            "stages": [{"name": name, "sampling": self._sampling(name)} for name in chain],
            "block": evaluation.block,
            "precision": evaluation.precision,
            **settings,
        }
        inputs = {"data": self.data} | {f"train {name}": self.train(name) for name in chain}
        function = "pipeline.cas.sample_sets:draw_sample_set"
        resources = self.experiment.resources
        # Whether the cluster may grow: one that is started here, for this experiment, will not.
        grows = resources.address is not None
        context = {**self._context, "pipelined": not self.trial and resources.pipelined_sampling, "grows": grows}
        return self._node(node, function, config, inputs=inputs, context=context, **self._room)


def _without_levels(node: Node) -> Node:
    """What the nodes above a trial's draw depend on: its images, which are the same whatever levels it keeps.

    Which of these they read stands in their own settings. So a search that lists one level more draws this node again,
    and nothing above it that was there.
    """
    return replace(node, config={key: value for key, value in node.config.items() if key != "keep"})


@lru_cache(maxsize=8)
def _weights(scorer: InceptionScorer | DinoScorer, store: str) -> WeightsFile:
    """The weights file of a scorer. A URL is fetched into the store, where all workers see it, or to this machine where
    the store is a bucket; then each machine that measures fetches its own.

    UserError without the file; where its sha256 is given what was made with it can be looked at without it.
    """
    try:
        return resolve_scorer_weights(scorer, open_storage(store).cache_folder("weights"))
    except UserError:
        if scorer.sha256 is None or "://" in scorer.weights or Path(scorer.weights).exists():
            raise
        return WeightsFile(Path(scorer.weights), scorer.sha256)
