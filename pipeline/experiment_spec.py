"""What an experiment is: frozen, validated descriptions.

Its sections on data, evaluation and search stand in files of their own, as do the checks of its parts against each
other (``pipeline.agreement``); ``pipeline.experiment`` reads one from YAML.
Nothing here imports torch, Ray, MLflow or YAML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from pipeline.ablation.spec import AblationSpec
from pipeline.agreement import (
    check_bound,
    check_cas,
    check_counts,
    check_graphs,
    check_pipelining,
    check_recompute,
    check_search_samples,
    check_seeds,
    check_stage,
    check_truncation,
)
from pipeline.chains import Chains, below_in, check_chains
from pipeline.data.specs import DataSpec
from pipeline.evaluation_spec import EvaluationSpec
from pipeline.search.checks import check_pruning, check_screening
from pipeline.search.spec import SearchSpec, values_at
from pipeline.seeds import Seed
from pipeline.sentences import first_message
from stages.compilers import Asked
from stages.schedule_specs import steps_of
from stages.specs import PositiveInt, Spec, StageSamplingSpec, StageSettings, StageSpec, TrainingSpec

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


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


class WorkerRange(Spec):
    """As many training workers as there is room for: elastic, the number may change while a stage trains."""

    min: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"a range of workers is given as min <= max, not {self.min} and {self.max}")
        return self


def _number_or_range(value: Any) -> str:
    return "range" if isinstance(value, dict | WorkerRange) else "number"


Workers = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[WorkerRange, Tag("range")], Discriminator(_number_or_range)
]


def _flag_or_counts(value: Any) -> str:
    return "counts" if isinstance(value, dict) else "flag"


Pipelined = Annotated[
    Annotated[bool, Tag("flag")] | Annotated[dict[Name, PositiveInt], Tag("counts")], Discriminator(_flag_or_counts)
]


class ResourcesSpec(Spec):
    """Where work runs. Nothing here is digested but the number of workers behind a classification accuracy score, whose
    batch norms depend on it: what else it changes of a result is rounding.

    Without ``training.micro_batch`` the number of workers also changes which masks dropout draws. ``recompute`` is here
    and not in a stage's training because it changes no bit: what was trained without it is gone on with.
    """

    workers: Workers = Field(
        1, description="Training workers per stage: a number, or a range such as {min: 1, max: 4}."
    )
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    sampling_workers: PositiveInt = Field(2, description="Tasks that draw and score images at once, for each node.")
    gpus_per_sampling_worker: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Above 0 they run on a GPU; a fraction lets several share one."
    )
    pipelined_sampling: Pipelined = Field(
        False,
        description="How sets of samples of a cascade are drawn (evaluation.keep_samples, evaluation.cas). false: each "
        "of sampling_workers draws whole chains. true: each stage has actors of its own, which hold its weights alone, "
        "dealt out of sampling_workers by what the stages compute; {STAGE: ACTORS} says how many, 1 where it is "
        "silent. The images are the same.",
    )
    compiled_sampling: bool = Field(
        False,
        description="Draw what is evaluated, kept or printed with nets that torch compiles, anew in every worker "
        "process: for large sets on GPUs. Needs a C++ compiler on every node; images differ from those of plain nets "
        "by rounding. Looks during training, and bounds, have plain nets.",
    )
    threads: PositiveInt = Field(1, description="torch threads in every worker process.")
    recompute: PositiveInt | None = Field(
        None,
        description="Blocks that work on feature maps of this many px or more keep only their input in training, and "
        "are computed again in the backward pass: less memory, more time, and the same bits. None: all keep what the "
        "backward pass needs. `rayfall plan` shows both.",
    )
    compile: Asked = Field(
        False,
        description="Train with nets that torch compiles: faster on a GPU after a minute or more, and needs a C++ "
        "compiler on every node. Losses and weights differ from uncompiled ones by rounding, and a run that is resumed "
        "repeats itself bit for bit only where it stays compiled, on machines and under a torch of one kind. graphs: "
        "all kernels of a forward pass, and of a backward pass, are launched as one besides (CUDA graphs), for nets so "
        "small that a GPU waits for launches; takes more of its memory.",
    )
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    log_every: PositiveInt = 20
    loader_processes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Processes that decode ahead for each training worker; 0: the worker itself decodes. They run on "
        "the worker's CPUs: raise cpus_per_worker by as many.",
    )
    cache: Path = Field(
        Path("~/.cache/rayfall/shards"), description="Folder on each node for shards of an object store."
    )
    cache_gb: Annotated[float, Field(gt=0)] = Field(50.0, description="As much of it, at most, in 10^9 bytes.")
    address: str | None = Field(None, description="Ray cluster to join; None starts one here.")

    @property
    def fewest_workers(self) -> int:
        return self.workers.min if isinstance(self.workers, WorkerRange) else self.workers

    @property
    def most_workers(self) -> int:
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.workers


def _as_text(address: object) -> object:
    """A folder may be given as a path, from a program."""
    return str(address) if isinstance(address, Path) else address


class Experiment(Spec):
    """Everything one YAML says."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    description: str = ""
    seed: Seed = 0
    store: Annotated[str, BeforeValidator(_as_text), Field(min_length=1)] = Field(
        "rayfall-store", description="Where all results go: a folder that every worker sees, or s3://BUCKET/PREFIX."
    )
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
    ablation: AblationSpec | None = Field(
        None, description="What `rayfall ablate` compares; `report` and `plan` are of it, too, and others ignore it."
    )
    tracking: TrackingSpec = TrackingSpec()
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="after")
    def _stages_fit(self) -> Experiment:
        check_chains(self.chains, self.names)
        for name in self.stages:
            check_stage(self, name)
            try:
                self.stage_spec(name, classes=1)
            except ValidationError as error:
                raise ValueError(f"stages.{name}: {first_message(error)}") from error
            check_truncation(self, name)
        check_recompute(self)
        check_graphs(self)
        check_bound(self)
        check_cas(self)
        check_counts(self)
        check_pipelining(self)
        check_search_samples(self)
        check_screening(self)
        check_pruning(self)
        check_seeds(self)
        if self.search is not None and self.search.mode == "joint" and len(self.chains) > 1:
            raise ValueError(
                f"search.mode joint scores the end of one cascade, and there are {len(self.chains)}; use stagewise"
            )
        return self

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

    def drawn_with(self, name: str, *, oracle: bool = False) -> dict[str, Any]:
        """How stage ``name`` is sampled, as plain values: the same for the same images, chained or with the oracle."""
        sampling = self.stages[name].sampling.model_dump(mode="json")
        if sampling["level"] == 0 or oracle:
            # At s = 0 both kinds are the finished image, and of a real image both are its forward process.
            sampling["augmentation"] = "non_truncated"
        if sampling["guidance"] == 1.0:
            sampling["guidance_interval"] = None  # nothing acts inside it
        return sampling

    def kept_levels(self, name: str, *, searched: bool) -> tuple[float, ...]:
        """Truncation levels of stage ``name`` that the stages above it ask for, ascending.

        With ``searched`` all that a search lists are among them: they are kept in one pass, so that no trial needs
        another trajectory of the stage below. Without, a longer list leaves the final samples as they are.
        """
        return tuple(sorted({level for above in self.above(name) for level in self._truncations(above, searched)}))

    def _truncations(self, name: str, searched: bool) -> set[float]:
        """Levels above 0 at which stage ``name`` may cut short the chain of the stage below it."""
        sampling = self.stages[name].sampling
        levels, kinds = [sampling.level], [sampling.augmentation]
        if searched and self.search is not None:
            levels += values_at(self.search.space, f"stages.{name}.sampling.level")
            kinds += values_at(self.search.space, f"stages.{name}.sampling.augmentation")
        return {float(level) for level in levels if level > 0} if "truncated" in kinds else set()
