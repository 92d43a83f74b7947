"""What an experiment is: frozen, validated descriptions, and the checks of stages against each other.

Its sections on evaluation and search stand in files of their own; ``pipeline.experiment`` reads one from YAML.
Nothing here imports torch, Ray, MLflow or YAML.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.chains import Chains, below_in, check_chains
from pipeline.evaluation_spec import EvaluationSpec
from pipeline.search_spec import SearchSpec, Values
from stages.schedule_specs import steps_of
from stages.specs import PositiveInt, Spec, StageSamplingSpec, StageSettings, StageSpec, TrainingSpec

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def first_message(error: ValidationError) -> str:
    """What is wrong first, without pydantic's frame."""
    first = error.errors()[0]
    if first["type"] == "union_tag_not_found":
        return "there are several kinds of this; say which, as in `kind: ...`"
    if first["type"] == "union_tag_invalid":
        tag, known = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", ")
        nearest = difflib.get_close_matches(tag, known, n=1, cutoff=0.5)
        return f"there is no kind {tag!r}; " + (
            f"did you mean {nearest[0]!r}?" if nearest else f"kinds are {', '.join(known)}"
        )
    return str(first["msg"]).removeprefix("Value error, ")


class DrawnData(Spec):
    """The procedural data set that the product draws itself."""

    kind: Literal["drawn"]
    size: Annotated[int, Field(ge=8, le=64)] = 32
    train: PositiveInt = 20000
    val: PositiveInt = 4000
    seed: int = 0


class ExpectedData(Spec):
    """What a data set will hold that is not there yet: enough to plan with."""

    train: PositiveInt
    classes: PositiveInt


class ImageData(Spec):
    """A class-per-folder tree of images or a tar of one, ingested on first use."""

    kind: Literal["images"]
    source: Path
    size: PositiveInt
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="Held out when there is no val/ folder.")
    expects: ExpectedData | None = Field(None, description="For a plan made before the data set is there.")


class ShardData(Spec):
    """A folder that ``rayfall ingest`` wrote."""

    kind: Literal["shards"]
    path: Path
    expects: ExpectedData | None = Field(None, description="For a plan made before the data set is there.")


DataSpec = Annotated[DrawnData | ImageData | ShardData, Field(discriminator="kind")]


class StageConfig(StageSettings):
    """One stage as the YAML gives it; what its neighbours imply is filled in by ``Experiment.stage_spec``."""

    training: TrainingSpec
    sampling: StageSamplingSpec = StageSamplingSpec()

    @model_validator(mode="after")
    def _can_be_sampled(self) -> StageConfig:
        self.check_sampling(self.sampling)
        if self.sampling.ema_length is not None:
            self.training.check_ema_length(self.sampling.ema_length)
        return self


class TrackingSpec(Spec):
    """Where MLflow keeps runs; None is an SQLite file inside the store."""

    uri: str | None = None


class ResourcesSpec(Spec):
    """Where work runs. Nothing here changes a result, so nothing here is digested."""

    workers: PositiveInt = Field(1, description="Training workers per stage.")
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    sampling_workers: PositiveInt = 2
    threads: PositiveInt = Field(1, description="torch threads in every worker process.")
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    log_every: PositiveInt = 20
    address: str | None = Field(None, description="Ray cluster to join; None starts one here.")


class Experiment(Spec):
    """Everything one YAML says."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    description: str = ""
    seed: int = 0
    store: Path = Path("rayfall-store")
    data: DataSpec
    stages: dict[Name, StageConfig] = Field(min_length=1)
    cascades: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] | None = Field(
        None,
        min_length=1,
        description="Chains of stages, base first, the main one first; they may share stages. None: all stages in "
        "order are one cascade.",
    )
    evaluation: EvaluationSpec = EvaluationSpec()
    search: SearchSpec | None = None
    tracking: TrackingSpec = TrackingSpec()
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="after")
    def _stages_fit(self) -> Experiment:
        check_chains(self.chains, self.names)
        for name in self.stages:
            self._check_stage(name)
            try:
                self.stage_spec(name, classes=1)
            except ValidationError as error:
                raise ValueError(f"stages.{name}: {first_message(error)}") from error
        self._check_bound()
        if self.search is not None and self.search.mode == "joint" and len(self.chains) > 1:
            raise ValueError(
                f"search.mode joint scores the end of one cascade, and there are {len(self.chains)}; use stagewise"
            )
        return self

    def _check_stage(self, name: str) -> None:
        stage = self.stages[name]
        below = self.below(name)
        if below is None and stage.low_res_size is not None:
            raise ValueError(f"stages.{name}: the first stage has no low-res input; remove low_res_size")
        if below is not None and stage.low_res_size != self.stages[below].size:
            raise ValueError(
                f"stages.{name}: low_res_size is {stage.low_res_size}, but the stage below, "
                f"{below}, makes {self.stages[below].size} px"
            )
        if not isinstance(self.data, ShardData) and self.data.size % stage.size:
            raise ValueError(f"stages.{name}: images of {self.data.size} px do not shrink evenly to {stage.size} px")
        if self.resources.workers and stage.training.batch_size % self.resources.workers:
            raise ValueError(
                f"stages.{name}.training.batch_size {stage.training.batch_size} does not divide among "
                f"{self.resources.workers} workers"
            )

    def _check_bound(self) -> None:
        bound = self.evaluation.bound
        if bound is None:
            return
        if not self.bounded:
            raise ValueError(
                "evaluation.bound needs a stage whose schedule has T steps (linear_beta or cosine_beta), and no stage "
                "has one; remove bound"
            )
        for name, steps in self.bounded.items():
            if bound.steps is not None and bound.steps > steps:
                raise ValueError(
                    f"evaluation.bound.steps {bound.steps} is more than the {steps} steps of stages.{name}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Stage names, in the order of the YAML: each after the stage below it."""
        return tuple(self.stages)

    @property
    def chains(self) -> Chains:
        """The stages of each cascade, base first; the main cascade first."""
        return self.cascades or {"cascade": self.names}

    @property
    def last(self) -> str:
        """The last stage of the main cascade."""
        return next(iter(self.chains.values()))[-1]

    def chain(self, name: str) -> tuple[str, ...]:
        """The prefix of the cascade that ends with stage ``name``, base first."""
        chain = next(chain for chain in self.chains.values() if name in chain)
        return chain[: chain.index(name) + 1]

    def below(self, name: str) -> str | None:
        """The stage whose images stage ``name`` is given, None for a base stage."""
        return below_in(self.chain(name), name)

    def above(self, name: str) -> tuple[str, ...]:
        """The stages that are given the images of stage ``name``; several where cascades part."""
        return tuple(other for other in self.names if self.below(other) == name)

    @property
    def bounded(self) -> dict[str, int]:
        """The stages that have a variational bound, and the steps T of their schedules."""
        steps = {name: steps_of(stage.schedule) for name, stage in self.stages.items()}
        return {name: count for name, count in steps.items() if count is not None}

    def stage_spec(self, name: str, classes: int) -> StageSpec:
        """The spec of one stage, with the schedule of the stage below it filled in."""
        config, below = self.stages[name], self.below(name)
        fields = {key: getattr(config, key) for key in StageSettings.model_fields}
        low = None if below is None else self.stages[below].schedule
        return StageSpec(name=name, classes=classes, low_res_schedule=low, **fields)

    def kept_levels(self, name: str) -> tuple[float, ...]:
        """Truncation levels of stage ``name`` that anything in this experiment may ask for, ascending.

        All are kept in one pass, so that no trial of a search needs another base trajectory.
        """
        return tuple(sorted({level for above in self.above(name) for level in self._truncations(above)}))

    def _truncations(self, name: str) -> set[float]:
        """Levels above 0 at which stage ``name`` may cut short the chain of the stage below it."""
        sampling = self.stages[name].sampling
        levels, kinds = {sampling.level}, {sampling.augmentation}
        space = self.search.space if self.search else {}
        for path, found in (("level", levels), ("augmentation", kinds)):
            distribution = space.get(f"stages.{name}.sampling.{path}")
            if isinstance(distribution, Values):
                found.update(distribution.values)  # type: ignore[arg-type]
        return {level for level in levels if level > 0} if "truncated" in kinds else set()
