"""The experiments behind an ablation: one for every cell and seed. Pure, and as light as reading an experiment."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.ablation.spec import AblationSpec
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.search.spec import listed
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

    @property
    def own_name(self) -> str:
        """What the replicate is called as an experiment: cells may have dots in their names, experiments may not."""
        return f"{self.experiment.name}-{self.cell}-seed{self.seed}".replace(".", "_")

    def command(self, program: Sequence[str]) -> str:
        """What a person types to have this replicate alone, as an experiment: same digests, so nothing runs twice.

        Of another name, so that it leaves the report, the runs and the registered weights of the ablation alone.
        ``program`` is the beginning, such as ``rayfall run FILE``.
        """
        paths = {"name": self.own_name, "ablation": None, **self.settings}
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
    """Refuse an ablation with an impossible cell, or a cell with an impossible search, before anything takes a GPU.

    Raises UserError naming the cell.
    """
    if experiment.ablation is None:
        return
    same: dict[str, str] = {}
    for cell, settings in experiment.ablation.all_cells().items():
        for path in settings:
            if path.split(".")[0] not in ABLATED:
                raise UserError(
                    f"ablation cell {cell}: {path} is the same for every cell, or their scores would not compare; a "
                    f"cell changes paths that begin with {' or '.join(ABLATED)}"
                )
        made = [_replicate(experiment, cell, settings, seed).experiment for seed in experiment.ablation.seeds]
        _check_last(cell, made[0], experiment)
        _check_search(cell, made[0])
        told = json.dumps(_computed(made[0]), sort_keys=True)
        if told in same:
            raise UserError(f"ablation cell {cell} has the same settings as {same[told]}; remove one of them")
        same[told] = cell


def _check_last(cell: str, made: Experiment, declared: Experiment) -> None:
    """Scores are of the last stage: without it there is nothing to compare, and at another size nothing that compares.

    Stages below it may be others, or none.
    """
    own, asked = ((one.last, one.stages[one.last].size) for one in (made, declared))
    if own != asked:
        raise UserError(
            f"ablation cell {cell} ends with stage {own[0]} at {own[1]} px, and what is compared are scores of "
            f"{asked[0]} at {asked[1]} px; let its last stage be that"
        )


def _computed(made: Experiment) -> dict[str, Any]:
    """What tells one cell from another: its settings, without those that change no image.

    Of a cell with a search all of them: what it chooses may give them a meaning.
    """
    told = made.model_dump(mode="json", include=set(ABLATED))
    if made.search is None:
        for name in made.names:
            told["stages"][name]["sampling"] = made.drawn_with(name)
    return told


def _check_search(cell: str, made: Experiment) -> None:
    from pipeline.experiment import check_search

    try:
        check_search(made)
    except UserError as error:
        raise UserError(f"ablation cell {cell}: {error}") from error


def _replicate(experiment: Experiment, cell: str, settings: Mapping[str, Any], seed: int) -> Replicate:
    changed = _made(experiment, {**settings, "ablation": None}, f"ablation cell {cell}")
    shared = _shared(changed, seed)
    made = _made(changed, shared, f"ablation cell {cell}, seed {seed}")
    return Replicate(cell, seed, {**settings, **shared}, made)


def _made(experiment: Experiment, settings: Mapping[str, Any], where: str) -> Experiment:
    """``experiment`` with ``settings``. Raises UserError with the place of the mistake in it, after ``where``."""
    from pipeline.experiment import applied

    try:
        data = applied(experiment, settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {placed_message(data, error)}") from error


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


def budget_notes(experiment: Experiment) -> Iterator[str]:
    """A sentence for each cell whose training, stages or search are another effort than the baseline's.

    What a step costs is not looked at: a larger net has the budget of a small one in images.
    """
    ablation = ablation_of(experiment)
    cells = ablation.all_cells()
    made = {cell: _replicate(experiment, cell, cells[cell], ablation.seeds[0]).experiment for cell in cells}
    expected, tried = _images(made[ablation.baseline]), _tried(made[ablation.baseline])
    for cell in cells:
        own = _images(made[cell])
        for name in dict.fromkeys([*expected, *own]):
            if own.get(name) != expected.get(name):
                yield f"{_apart(cell, name, own.get(name), expected.get(name))}: budgets differ."
        if (count := _tried(made[cell])) != tried:
            yield (
                f"{cell} searches {count or 'no'} setting{'' if count == 1 else 's'}, the baseline {tried or 'none'}: "
                "budgets differ."
            )


def _apart(cell: str, name: str, own: int | None, expected: int | None) -> str:
    """How many images ``cell`` and the baseline train a stage on, None for who does not have it."""
    if own is None:
        return f"{cell} has no stage {name}, which the baseline trains on {expected:,} images"
    other = "has no such stage" if expected is None else f"on {expected:,}"
    return f"{cell} trains {name} on {own:,} images, the baseline {other}"


def _images(made: Experiment) -> dict[str, int]:
    """How many images each stage is trained on."""
    return {name: stage.training.steps * stage.training.batch_size for name, stage in made.stages.items()}


def _tried(made: Experiment) -> int:
    """How many settings its search tries, at most."""
    search = made.search
    if search is None:
        return 0
    rounds = [paths for _, paths in search.rounds(made.names, made.last)]
    return sum(
        math.prod(len(listed(search.space[path])) for path in paths)
        if search.algorithm_of(paths) == "grid"
        else search.trials
        for paths in rounds
    )


def _yaml(value: Any) -> str:
    """A value as ``--set`` reads it back: JSON is YAML."""
    return value if isinstance(value, str) else json.dumps(value)
