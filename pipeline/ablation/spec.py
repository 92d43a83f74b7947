"""What an ablation compares, as the YAML says it: named cells, seeds, a baseline. Imports no torch, Ray or NumPy.

A *cell* is the experiment with some settings replaced; a *replicate* is a cell under one seed. Under one seed all cells
have the same order of examples and noise, in training and in evaluation, the same initial weights where the net is the
same, and the stages that a cell leaves as they are stay one training for all of them: so differences between cells are
taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.seeds import Seed
from stages.spec_base import PositiveInt, Spec

CellName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
FactorName = CellName  # MLflow has a parameter of that name
Settings = dict[str, Any]
Metric = Literal["chained_fid", "oracle_fid", "gap", "accuracy", "recall"]

FEWEST_SEEDS = 3  # of two a spread says next to nothing
TAKEN = ("cell", "seed")  # what a replicate is called by in MLflow, so no factor of a grid can be


class EqualClaim(Spec):
    """Two cells are held to be equal: shown by two one-sided tests against a margin, never by a lack of significance.

    The margin is what a person would not mind; it belongs in the YAML before anything is seen.
    """

    cells: tuple[str, str]
    metric: Metric = "chained_fid"
    margin: Annotated[float, Field(gt=0)] | None = Field(None, description="In units of the metric.")
    relative_margin: Annotated[float, Field(gt=0)] | None = Field(
        None, description="As a share of the mean of the first cell."
    )

    @model_validator(mode="after")
    def _two_cells_and_one_margin(self) -> EqualClaim:
        if self.cells[0] == self.cells[1]:
            raise ValueError(f"a claim of equality is of two cells, and both of this one are {self.cells[0]}")
        if (self.margin is None) == (self.relative_margin is None):
            raise ValueError("a claim of equality has one margin: give margin or relative_margin")
        return self


class AblationSpec(Spec):
    """A grid of cells against a baseline, each under every seed."""

    baseline: str = Field(description="The cell that differences are taken from.")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=FEWEST_SEEDS)] = (0, 1, 2)
    cells: dict[CellName, Settings] = Field(
        {}, description="Cells by name: dotted paths, as for --set, to values. An empty one is the experiment itself."
    )
    grid: dict[FactorName, Annotated[dict[CellName, Settings], Field(min_length=1)]] = Field(
        {},
        description="Factors, each with named options that are settings: every combination is a cell too, called by "
        "its options joined with a hyphen.",
    )
    equal: tuple[EqualClaim, ...] = Field((), description="Claims of equality, each with its margin.")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    concurrency: PositiveInt = Field(2, description="Stages in training at once.")

    @model_validator(mode="after")
    def _names_are_known(self) -> AblationSpec:
        twice = [seed for number, seed in enumerate(self.seeds) if seed in self.seeds[:number]]
        if twice:
            raise ValueError(f"seeds names {twice[0]} twice; a replicate more needs another seed")
        if taken := [name for name in self.grid if name in TAKEN]:
            raise ValueError(f"grid: no factor can be called {taken[0]}, as every replicate has one; rename it")
        combined = self._combinations()
        if both := sorted(set(combined) & set(self.cells)):
            raise ValueError(f"cells.{both[0]} is a combination of the grid as well; give it another name")
        known = self.all_cells()
        if len(known) < 2:
            raise ValueError("an ablation compares at least two cells; give cells or a grid with several")
        asked = {"baseline": self.baseline}
        asked |= {f"equal[{number}].cells": cell for number, claim in enumerate(self.equal) for cell in claim.cells}
        for where, cell in asked.items():
            if cell not in known:
                raise ValueError(f"{where}: there is no cell {cell!r}; cells are {', '.join(known)}")
        return self

    def all_cells(self) -> dict[str, Settings]:
        """Settings of every cell by name: those that are named, then the combinations of the grid."""
        return {**self.cells, **self._combinations()}

    def _combinations(self) -> dict[str, Settings]:
        """Every combination of the grid's options, the last factor varying fastest; later factors win a setting.

        ValueError for two of one name: options may have hyphens of their own.
        """
        if not self.grid:
            return {}
        found: dict[str, Settings] = {}
        for options in product(*(factor.items() for factor in self.grid.values())):
            name = "-".join(option for option, _ in options)
            if name in found:
                raise ValueError(f"two combinations of the grid are called {name}; rename an option")
            found[name] = {path: value for _, settings in options for path, value in settings.items()}
        return found

    def options_of(self, cell: str) -> Mapping[str, str]:
        """The option of each factor that ``cell`` stands for; nothing for a cell that was named by itself."""
        for options in product(*self.grid.values()):
            if self.grid and "-".join(options) == cell:
                return dict(zip(self.grid, options, strict=True))
        return {}
