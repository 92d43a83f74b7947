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


class SearchSpec(Spec):
    """What is searched. Paths are dotted, as for ``--set``; sampling settings cost no training.

    ``stagewise``: the stages in order, each with the best of those below it fixed, scored at its own prefix of the
    cascade. ``joint``: all paths at once, scored at the last stage.
    """

    mode: Literal["stagewise", "joint"] = "stagewise"
    algorithm: Literal["grid", "optuna"] = "grid"
    trials: PositiveInt = Field(20, description="Per stage (stagewise) or in all (joint); a grid ignores it.")
    samples: PositiveInt = 500
    seed: Seed = Field(
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

    def rounds(self, stages: Sequence[str], last: str) -> list[tuple[str, list[str]]]:
        """(stage whose score counts, paths searched) for each round: the ``stages`` in order, or ``last`` alone."""
        if self.mode == "joint":
            return [(last, list(self.space))]
        mine = {name: [path for path in self.space if path.split(".")[1] == name] for name in stages}
        return [(name, paths) for name, paths in mine.items() if paths]


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
