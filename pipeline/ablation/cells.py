"""The experiments behind an ablation: one for every cell and seed. Pure, and as light as reading an experiment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.ablation.spec import AblationSpec
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.sentences import placed_message

# From one replicate's evaluation seed to the next's: noise that no other replicate, and no search, has.
SEED_STRIDE = 1_000_003
ABLATED = ("stages", "search")  # sections that a cell may change; all else is the same for every cell


@dataclass(frozen=True, eq=False)
class Replicate:
    """One cell under one seed. ``settings`` are those that make it of the experiment as it was declared."""

    cell: str
    seed: int
    settings: Mapping[str, Any]
    experiment: Experiment

    @property
    def name(self) -> str:
        return f"{self.cell}, seed {self.seed}"

    def command(self, program: Sequence[str]) -> str:
        """What a person types to have this replicate alone, as an experiment: same digests, so nothing runs twice.

        ``program`` is the beginning, such as ``rayfall run FILE``.
        """
        paths = {"ablation": None, **self.settings}
        given = [part for path, value in paths.items() for part in ("--set", f"{path}={_yaml(value)}")]
        return shlex.join([*program, *given])


def replicates_of(experiment: Experiment) -> list[Replicate]:
    """Every cell under every seed, seed by seed, the baseline first: so that a first comparison is there early.

    Raises UserError for a cell that is no experiment.
    """
    ablation = ablation_of(experiment)
    cells = ablation.all_cells()
    ordered = [ablation.baseline, *(cell for cell in cells if cell != ablation.baseline)]
    return [_replicate(experiment, cell, cells[cell], seed) for seed in ablation.seeds for cell in ordered]


def ablation_of(experiment: Experiment) -> AblationSpec:
    """The section. Raises UserError where there is none."""
    if experiment.ablation is None:
        raise UserError(
            f"experiment {experiment.name} has no ablation section; add one, with a baseline and cells, such as those "
            "in jobs/experiments/ablations"
        )
    return experiment.ablation


def check_cells(experiment: Experiment) -> None:
    """Refuse an ablation with an impossible cell before anything takes a GPU. Raises UserError naming the cell."""
    if experiment.ablation is None:
        return
    cells = experiment.ablation.all_cells()
    for cell, settings in cells.items():
        for path in settings:
            if path.split(".")[0] not in ABLATED:
                raise UserError(
                    f"ablation cell {cell}: {path} is the same for every cell, or their scores would not compare; a "
                    f"cell changes paths that begin with {' or '.join(ABLATED)}"
                )
        for seed in experiment.ablation.seeds:
            _replicate(experiment, cell, settings, seed)
    same: dict[str, str] = {}
    for cell, settings in cells.items():
        made = _replicate(experiment, cell, settings, experiment.ablation.seeds[0]).experiment
        told = json.dumps(made.model_dump(mode="json", include={"stages", "search"}), sort_keys=True)
        if told in same:
            raise UserError(f"ablation cell {cell} has the same settings as {same[told]}; remove one of them")
        same[told] = cell


def _replicate(experiment: Experiment, cell: str, settings: Mapping[str, Any], seed: int) -> Replicate:
    from pipeline.experiment import with_settings

    try:
        changed = with_settings(experiment, {**settings, "ablation": None})
        shared = _shared(changed, seed)
        return Replicate(cell, seed, {**settings, **shared}, with_settings(changed, shared))
    except ValidationError as error:
        told = placed_message(_nested(settings), error)
        raise UserError(f"ablation cell {cell}: {told}") from error


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted ``settings`` as nested mappings, for the place of a mistake in them."""
    found: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, last = path.split(".")
        inner = found
        for key in parents:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return found


def _shared(changed: Experiment, seed: int) -> dict[str, Any]:
    """Settings that all cells have under ``seed``. What judges them, classifiers, is the same under every seed."""
    evaluation, judge = changed.evaluation, changed.evaluation.classifier.seed
    found: dict[str, Any] = {
        "seed": seed,
        "evaluation.seed": evaluation.seed + seed * SEED_STRIDE,
        "evaluation.classifier.seed": changed.seed if judge is None else judge,
    }
    if changed.search is not None:
        found["search.seed"] = changed.search.seed + seed * SEED_STRIDE
    return found


def differing(replicates: Sequence[Replicate]) -> list[str]:
    """Paths, in order of appearance, that some cells set and not all set to the same."""
    paths = list(dict.fromkeys(path for one in replicates for path in one.settings))
    by_cell = {one.cell: one for one in replicates}  # seeds differ by design
    return [path for path in paths if not path.endswith("seed") and len(_values(by_cell, path)) > 1]


def _values(by_cell: Mapping[str, Replicate], path: str) -> set[str]:
    return {json.dumps(one.settings.get(path, "(as declared)"), sort_keys=True) for one in by_cell.values()}


def budget_notes(experiment: Experiment) -> Iterator[str]:
    """A sentence for each cell whose stages train on another number of images than the baseline's."""
    ablation = ablation_of(experiment)
    cells = ablation.all_cells()

    def images(cell: str) -> dict[str, int]:
        made = _replicate(experiment, cell, cells[cell], ablation.seeds[0]).experiment
        return {name: stage.training.steps * stage.training.batch_size for name, stage in made.stages.items()}

    expected = images(ablation.baseline)
    for cell in cells:
        for name, count in images(cell).items():
            if name in expected and count != expected[name]:
                yield f"{cell} trains {name} on {count:,} images, the baseline on {expected[name]:,}: budgets differ."


def _yaml(value: Any) -> str:
    """A value as ``--set`` reads it back: JSON is YAML."""
    return value if isinstance(value, str) else json.dumps(value)
