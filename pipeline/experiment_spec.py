"""What an experiment is: frozen, validated descriptions, and the checks of stages against each other.

``pipeline.experiment`` reads one from YAML. Nothing here imports torch, Ray, MLflow or YAML.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.classifier_spec import ClassifierSpec
from stages.specs import PositiveInt, Spec, StageSamplingSpec, StageSettings, StageSpec, TrainingSpec


def first_message(error: ValidationError) -> str:
    """What is wrong first, without pydantic's frame."""
    first = error.errors()[0]
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


class ImageData(Spec):
    """A class-per-folder tree of images or a tar of one, ingested on first use."""

    kind: Literal["images"]
    source: Path
    size: PositiveInt
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="Held out when there is no val/ folder.")


class ShardData(Spec):
    """A folder that ``rayfall ingest`` wrote."""

    kind: Literal["shards"]
    path: Path


DataSpec = Annotated[DrawnData | ImageData | ShardData, Field(discriminator="kind")]


class StageConfig(StageSettings):
    """One stage as the YAML gives it; what its neighbours imply is filled in by ``Experiment.stage_spec``."""

    training: TrainingSpec
    sampling: StageSamplingSpec = StageSamplingSpec()

    @model_validator(mode="after")
    def _can_be_sampled(self) -> StageConfig:
        self.check_sampling(self.sampling)
        return self


class ClassifierScorer(Spec):
    """FID in the features of a classifier trained on the data set itself (its scale means nothing elsewhere)."""

    kind: Literal["classifier"] = "classifier"


class InceptionScorer(Spec):
    """FID in the features of Inception-v3, from a weights file in torch-fidelity's format."""

    kind: Literal["inception"]
    weights: Path


class EvaluationSpec(Spec):
    """How samples are drawn and judged."""

    samples: PositiveInt = Field(1000, description="Generated images per stage.")
    reference: PositiveInt = Field(5000, description="Real training images that make the reference statistics.")
    block: PositiveInt = Field(
        64, description="Images per canonical block; it changes the last bits, so it is digested."
    )
    seed: int = 0
    precision: Literal["f32", "bf16"] = "f32"
    neighbours: PositiveInt = Field(3, description="k of precision and recall.")
    scorer: Annotated[ClassifierScorer | InceptionScorer, Field(discriminator="kind")] = ClassifierScorer()
    classifier: ClassifierSpec = ClassifierSpec()


class Values(Spec):
    """A finite list to choose from; the only distribution that a grid can walk."""

    values: tuple[bool | int | float | str | tuple[float, ...], ...] = Field(min_length=1)


class Uniform(Spec):
    """A float, uniform on [low, high]."""

    uniform: tuple[float, float]


class LogUniform(Spec):
    """A positive float whose logarithm is uniform on [low, high]."""

    loguniform: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


Distribution = Values | Uniform | LogUniform


class SearchSpec(Spec):
    """What is searched. Paths are dotted, as for ``--set``; sampling settings cost no training.

    ``stagewise``: the stages in order, each with the best of those below it fixed, scored at its own prefix of the
    cascade. ``joint``: all paths at once, scored at the last stage.
    """

    mode: Literal["stagewise", "joint"] = "stagewise"
    algorithm: Literal["grid", "optuna"] = "grid"
    trials: PositiveInt = Field(20, description="Per stage (stagewise) or in all (joint); a grid ignores it.")
    samples: PositiveInt = 500
    seed: int = Field(
        1, description="Of the trials' noise; another than evaluation.seed, so that final scores are unselected."
    )
    concurrency: PositiveInt = 2
    metric: Literal["chained_fid", "chained_accuracy"] = "chained_fid"
    space: dict[str, Distribution] = Field(min_length=1)

    @model_validator(mode="after")
    def _grid_is_finite(self) -> SearchSpec:
        for path, distribution in self.space.items():
            if self.algorithm == "grid" and not isinstance(distribution, Values):
                raise ValueError(f"space {path}: a grid needs {{values: [...]}}; use algorithm: optuna for ranges")
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
    stages: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], StageConfig] = Field(min_length=1)
    evaluation: EvaluationSpec = EvaluationSpec()
    search: SearchSpec | None = None
    tracking: TrackingSpec = TrackingSpec()
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="after")
    def _stages_fit(self) -> Experiment:
        for number, name in enumerate(self.stages):
            self._check_stage(number, name)
            try:
                self.stage_spec(name, classes=1)
            except ValidationError as error:
                raise ValueError(f"stages.{name}: {first_message(error)}") from error
        return self

    def _check_stage(self, number: int, name: str) -> None:
        stage = self.stages[name]
        below = self.stages[self.names[number - 1]] if number else None
        if below is None and stage.low_res_size is not None:
            raise ValueError(f"stages.{name}: the first stage has no low-res input; remove low_res_size")
        if below is not None and stage.low_res_size != below.size:
            raise ValueError(
                f"stages.{name}: low_res_size is {stage.low_res_size}, but the stage below, "
                f"{self.names[number - 1]}, makes {below.size} px"
            )
        if not isinstance(self.data, ShardData) and self.data.size % stage.size:
            raise ValueError(f"stages.{name}: images of {self.data.size} px do not shrink evenly to {stage.size} px")
        if self.resources.workers and stage.training.batch_size % self.resources.workers:
            raise ValueError(
                f"stages.{name}.training.batch_size {stage.training.batch_size} does not divide among "
                f"{self.resources.workers} workers"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Stage names, base first."""
        return tuple(self.stages)

    def stage_spec(self, name: str, classes: int) -> StageSpec:
        """The spec of one stage, with the schedule of the stage below it filled in."""
        position = self.names.index(name)
        config = self.stages[name]
        fields = {key: getattr(config, key) for key in StageSettings.model_fields}
        below = self.stages[self.names[position - 1]].schedule if position else None
        return StageSpec(name=name, classes=classes, low_res_schedule=below, **fields)

    def kept_levels(self, name: str) -> tuple[float, ...]:
        """Truncation levels of stage ``name`` that anything in this experiment may ask for, ascending.

        All are kept in one pass, so that no trial of a search needs another base trajectory.
        """
        position = self.names.index(name) + 1
        if position == len(self.names):
            return ()
        above = self.names[position]
        levels = {self.stages[above].sampling.level}
        kinds = {self.stages[above].sampling.augmentation}
        space = self.search.space if self.search else {}
        for path, found in (
            (f"stages.{above}.sampling.level", levels),
            (f"stages.{above}.sampling.augmentation", kinds),
        ):
            distribution = space.get(path)
            if isinstance(distribution, Values):
                found.update(distribution.values)  # type: ignore[arg-type]
        return tuple(sorted(level for level in levels if level > 0)) if "truncated" in kinds else ()
