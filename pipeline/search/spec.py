"""What a search varies, as the YAML says it: dotted paths to distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from pipeline.seeds import Seed
from stages.specs import PositiveInt, Spec

Listed = bool | int | float | str | tuple[float, ...] | dict[str, Any] | None
Positive = Annotated[float, Field(gt=0)]
TRAINED_AT_ONCE = 2  # trials that train, where search.concurrency says nothing


class Values(Spec):
    """A finite list to choose from; the only distribution that a grid can walk. Values may be null, or mappings."""

    values: tuple[Listed, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: Any) -> Any:
        """One sentence; pydantic alone would say of each type in turn that this is another."""
        for value in values if isinstance(values, list | tuple) else ():
            if isinstance(value, list | tuple) and not all(type(item) in (int, float) for item in value):
                raise ValueError(f"a list among the values may hold numbers alone, as in [0.1, 0.3], not {value}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{value} among the values is no finite number")
        return values


class Uniform(Spec):
    """A float, uniform on [low, high]."""

    uniform: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        _check_range("uniform", *self.uniform)
        return self


class LogUniform(Spec):
    """A positive float whose logarithm is uniform on [low, high]."""

    loguniform: tuple[Positive, Positive]

    @model_validator(mode="after")
    def _ordered(self) -> LogUniform:
        _check_range("loguniform", *self.loguniform)
        return self


def _check_range(name: str, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"{name} [{low:g}, {high:g}] must be given as [low, high]")


def _shape_of(value: Any) -> str | None:
    """Which distribution: the one whose own key is there."""
    for shape in ("values", "uniform", "loguniform"):
        if shape in value if isinstance(value, dict) else hasattr(value, shape):
            return shape
    return None


Distribution = Annotated[
    Annotated[Values, Tag("values")] | Annotated[Uniform, Tag("uniform")] | Annotated[LogUniform, Tag("loguniform")],
    Discriminator(
        _shape_of,
        custom_error_type="distribution",
        custom_error_message="must be {values: [...]}, {uniform: [low, high]} or {loguniform: [low, high]}",
    ),
]


class ScreeningSpec(Spec):
    """A first look at trials of sampling settings: those that cannot win are dropped before they cost all samples.

    Trials share seeds and classes, so a difference has a paired error (delete-a-block jackknife) that is far below the
    error of either score. The first look's samples are the first of the full number: what goes on draws only the rest,
    unless the look was drawn in fewer steps.
    """

    samples: PositiveInt = Field(256, description="Samples of the first look: the first ones of search.samples.")
    errors: Positive = Field(
        3.0, description="A trial is dropped when it is worse than the best by more than so many paired errors."
    )
    sampling_steps: PositiveInt | None = Field(
        None,
        description="Fewer sampler steps for a first look, at every stage; what goes on is then drawn from its first "
        "sample on, and looks are compared where they were drawn in equally many steps. None: all steps.",
    )


class PruningSpec(Spec):
    """Early ends for trials that train: successive halving (ASHA) on a cheap chained FID of the stage in training."""

    first: PositiveInt = Field(description="Steps of the stage after which trials are first compared.")
    factor: Annotated[int, Field(ge=2)] = Field(
        3, description="One in so many goes on at each rung, and each rung is so many times as long as the one before."
    )
    samples: PositiveInt = Field(256, description="Chained samples of a look.")
    reference: PositiveInt = Field(2000, description="Real images that a look compares with.")
    sampling_steps: PositiveInt | None = Field(None, description="Fewer sampler steps for a look; None: all of them.")


class BudgetSpec(Spec):
    """What a search may spend in all its rounds, over all commands that work on it. What is looked up costs nothing.
    What has begun is finished; of trials that were looked at the best goes on, and others while the budget lasts."""

    gpu_hours: Positive | None = Field(
        None,
        description="No further trial begins after so many hours of a worker's GPU, or CPU where it has none: spent by "
        "those that trained and drew, or still to be spent by those that run. What is computed once before trials is "
        "not counted: declared weights, and what all trials of a round that trains share.",
    )
    hours: Positive | None = Field(None, description="No further trial begins after so many hours by the clock.")


Algorithm = Literal["grid", "optuna", "drawn"]


class SearchSpec(Spec):
    """What is searched. Paths are dotted, as for ``--set``; sampling settings cost no training.

    ``stagewise``: the stages in order, each with the best of those below it fixed, scored at its own prefix of the
    cascade. ``joint``: all paths at once, scored at the last stage.
    """

    mode: Literal["stagewise", "joint"] = "stagewise"
    algorithm: Algorithm | None = Field(
        None,
        description="grid: every combination. optuna: a model of what was seen proposes. drawn: a list drawn "
        "beforehand, the same however trials end. None: a grid for lists of sampling settings, Optuna for all else.",
    )
    trials: PositiveInt = Field(20, description="Per stage (stagewise) or in all (joint); a grid ignores it.")
    samples: PositiveInt = 500
    seed: Seed = Field(
        1, description="Of the trials' noise; another than evaluation.seed, so that final scores are unselected."
    )
    concurrency: PositiveInt | None = Field(
        None,
        description="Trials at once. None: as many as resources.sampling_workers in rounds of sampling settings alone, "
        "2 in rounds that train.",
    )
    metric: Literal["chained_fid", "chained_accuracy"] = "chained_fid"
    screening: ScreeningSpec | None = Field(None, description="Of trials that sample; None: all draw all samples.")
    pruning: PruningSpec | None = Field(None, description="Of trials that train; None: all train to the end.")
    budget: BudgetSpec = BudgetSpec()
    space: dict[str, Distribution] = Field(min_length=1)

    @model_validator(mode="after")
    def _grid_is_finite(self) -> SearchSpec:
        for path, distribution in self.space.items():
            if self.algorithm == "grid" and not isinstance(distribution, Values):
                raise ValueError(
                    f"space {path}: a grid needs {{values: [...]}}; for ranges leave algorithm out, or set it to drawn "
                    "or optuna"
                )
        return self

    @model_validator(mode="after")
    def _screening_is_a_part(self) -> SearchSpec:
        if self.screening is not None and self.screening.samples >= self.samples:
            raise ValueError(
                f"search.screening.samples {self.screening.samples} are the first of search.samples {self.samples}; "
                "lower them, or remove screening"
            )
        return self

    def first_look(self, block: int) -> int | None:
        """Samples of a screening's first look, rounded up to whole canonical blocks; None without screening."""
        return None if self.screening is None else math.ceil(self.screening.samples / block) * block

    def trials_at_once(self, paths: Sequence[str], sampling_workers: int) -> int:
        """How many trials of a round that searches ``paths`` run at once, where so many workers may draw samples."""
        if self.concurrency is not None:
            return self.concurrency
        return TRAINED_AT_ONCE if any(map(trains, paths)) else sampling_workers

    def algorithm_of(self, paths: Sequence[str]) -> Algorithm:
        """How a round that searches ``paths`` goes about it."""
        if self.algorithm is not None:
            return self.algorithm
        listed = all(isinstance(self.space[path], Values) for path in paths)
        return "grid" if listed and not any(map(trains, paths)) else "optuna"

    def rounds(self, stages: Sequence[str], last: str) -> list[tuple[str, list[str]]]:
        """(stage whose score counts, paths searched) for each round: the ``stages`` in order, or ``last`` alone."""
        if self.mode == "joint":
            return [(last, list(self.space))]
        mine = {name: [path for path in self.space if path.split(".")[1:2] == [name]] for name in stages}
        return [(name, paths) for name, paths in mine.items() if paths]


def trains(path: str) -> bool:
    """Whether another value at ``path`` needs another training: all settings of a stage but those of sampling."""
    return path.split(".")[2:3] != ["sampling"]


def combinations(space: Mapping[str, Distribution], limit: int) -> Iterator[dict[str, Any]]:
    """Settings that a search of ``space`` may try, at most ``limit`` and one for each listed value.

    Of a range these are its ends. Where the combinations are more than ``limit``: every value beside the first of all
    others, then combinations of first and last values.
    """
    lists = {path: listed(distribution) for path, distribution in space.items()}
    if math.prod(map(len, lists.values())) <= limit:
        yield from _products(lists)
        return
    first = {path: values[0] for path, values in lists.items()}
    for path, values in lists.items():
        yield from ({**first, path: value} for value in values)
    yield from islice(_products({path: [values[0], values[-1]] for path, values in lists.items()}), limit)


def listed(distribution: Distribution) -> list[Any]:
    """The values of a list as JSON has them, so that a setting reads the same before and after storing; or two ends."""
    if isinstance(distribution, Values):
        return [list(value) if isinstance(value, tuple) else value for value in distribution.values]
    return list(distribution.uniform if isinstance(distribution, Uniform) else distribution.loguniform)


def values_at(space: Mapping[str, Distribution], path: str) -> list[Any]:
    """The values that a search of ``space`` lists for the setting ``path``, or inside mappings above it; no nulls."""
    found = []
    for searched, distribution in space.items():
        if not isinstance(distribution, Values) or not f"{path}.".startswith(f"{searched}."):
            continue
        keys = path.removeprefix(searched).split(".")[1:]
        for value in distribution.values:
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                found.append(value)
    return found


def _products(lists: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last path varying fastest."""
    return (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))


def grid_of(search: SearchSpec, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of the listed values of ``paths``, the last path varying fastest."""
    assert all(isinstance(search.space[path], Values) for path in paths), "a grid has lists of values"
    return list(_products({path: listed(search.space[path]) for path in paths}))
