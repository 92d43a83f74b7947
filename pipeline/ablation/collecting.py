"""From the stored results of an ablation to its report. Reads what the graph holds and compares it; draws nothing.

A replicate that is not stored whole stands in the report as failed, with why, or as missing: so a report can be written
at any time.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.ablation.cells import ablation_of, budget_notes
from pipeline.ablation.comparisons import compare, equalities
from pipeline.ablation.compute import Counted
from pipeline.ablation.costs import Costs
from pipeline.ablation.findings import chosen, front_of, verdicts
from pipeline.ablation.metrics import METRICS
from pipeline.ablation.parts import (
    AblationReport,
    CellRow,
    Difference,
    Equality,
    Replicate,
    StageScore,
)
from pipeline.ablation.run import Ablation, Cell
from pipeline.ablation.spec import Metric
from pipeline.ablation.sweeps import sweep_of
from pipeline.addresses import without_secrets
from pipeline.collecting.experiment import data_notes, dataset_of, preview_grid, scorer_words, scores_in
from pipeline.comparing import gap_refusal
from pipeline.dag import ancestry, stored
from pipeline.data.datasets import MANIFEST_PART, data_place
from pipeline.data.manifest import Manifest, load_manifest
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.levels import DDPM_STEPS, facts_of_level
from pipeline.outcome import Outcome, outcome_of
from pipeline.report.scores import Scores
from pipeline.revision import git_revision


def collect_ablation(
    ablation: Ablation, *, created: float, command: str, program: Sequence[str], wall_seconds: float | None = None
) -> AblationReport:
    """The report of what is stored of ``ablation``, made by ``command``; ``program`` begins the commands of cells.

    ``created`` is seconds since 1970. Raises UserError while no replicate is whole.
    """
    experiment, spec = ablation.experiment, ablation_of(ablation.experiment)
    outcomes = {
        cell.replicate.name: outcome_of(cell.replicate.experiment, cell.storage)
        for cell in ablation.cells
        if cell.finished()
    }
    if not outcomes:
        raise UserError(
            f"nothing of the ablation {experiment.name} is whole in {ablation.storage.address}; "
            "run `rayfall ablate` first"
        )
    first = next(iter(outcomes.values()))
    manifest = load_manifest(data_place(first.results["data"].part(*MANIFEST_PART)).address)
    costs, pictured = Costs.of(ablation), _grid_seed(ablation, outcomes)
    rows = _Rows(ablation, outcomes, manifest, program, costs, pictured).rows()
    values = {
        row.name: {
            one.seed: {metric: value for metric in METRICS if (value := one.value(metric)) is not None}
            for one in row.finished
        }
        for row in rows
    }
    compared = compare(values, spec.baseline, confidence=spec.confidence)
    rows = [
        row.model_copy(update={"differences": _differences(compared.differences.get(row.name, {}))}) for row in rows
    ]
    claims = equalities(values, spec.equal, confidence=spec.confidence)
    best, why = chosen(values, confidence=spec.confidence)
    revision, told = _revision(ablation)
    moment = datetime.datetime.fromtimestamp(created, datetime.UTC).isoformat(timespec="seconds")
    return AblationReport(
        title=experiment.name,
        question=experiment.description,
        created=moment,
        revision=revision,
        command=command,
        verdict=verdicts(compared),
        notes=[*data_notes(experiment, manifest), *_notes(experiment, first), *compared.notes, *told],
        dataset=dataset_of(manifest),
        scorer=scorer_words(first),
        stage=experiment.last,
        size=experiment.stages[experiment.last].size,
        ddpm_steps=_ddpm_steps(ablation),
        confidence=spec.confidence,
        baseline=spec.baseline,
        seeds=list(spec.seeds),
        metrics=compared.metrics,
        cells=rows,
        equalities=[Equality(**claim._asdict()) for claim in claims],
        front=front_of(values),
        chosen=best,
        why=why,
        sharing=costs.sharing(wall_seconds),
        real=_scores(first, "real", experiment.last),
        grid_seed=pictured,
        pictures=_pictures(ablation, outcomes, manifest, pictured),
        settings=without_secrets(experiment.model_dump(mode="json", exclude={"ablation"})),
    )


class _Rows:
    """The cells of the report, in the order in which they are declared."""

    def __init__(
        self,
        ablation: Ablation,
        outcomes: Mapping[str, Outcome],
        manifest: Manifest,
        program: Sequence[str],
        costs: Costs,
        pictured: int,
    ) -> None:
        self.outcomes, self.manifest, self.program = outcomes, manifest, program
        self.costs, self.pictured, self.counted = costs, pictured, Counted(len(manifest.classes))
        self.spec, self.stage = ablation_of(ablation.experiment), ablation.experiment.last
        self.by_cell: dict[str, list[Cell]] = defaultdict(list)
        for cell in ablation.cells:  # the baseline first
            self.by_cell[cell.replicate.cell].append(cell)
        self.trained = {  # nothing of a cell whose search trains too: what it chose is its own
            name: [] if mine[0].declared.searched_trainings else [node.digest for node in mine[0].trainings()]
            for name, mine in self.by_cell.items()
        }

    def rows(self) -> list[CellRow]:
        return [self._row(name, settings) for name, settings in self.spec.all_cells().items()]

    def _row(self, name: str, settings: Mapping[str, Any]) -> CellRow:
        mine = self.by_cell[name]
        shown = next((self.outcomes.get(c.replicate.name) for c in mine if c.replicate.seed == self.pictured), None)
        own, shared = self.costs.of_cell(name)
        alike = (other for other, its in self.trained.items() if other != name and its and its == self.trained[name])
        return CellRow(
            name=name,
            settings=dict(settings),
            shares_training_with=next(alike, None),
            replicates=[self._replicate(cell) for cell in mine],
            grid_png=_picture(shown, f"chained/{self.stage}", self.manifest),
            oracle_png=_picture(shown, f"oracle/{self.stage}", self.manifest),
            gpu_seconds=own,
            reused_seconds=shared,
            commands=[cell.replicate.command(self.program) for cell in mine],
        )

    def _replicate(self, cell: Cell) -> Replicate:
        outcome, seed = self.outcomes.get(cell.replicate.name), cell.replicate.seed
        if outcome is None:
            return Replicate(seed=seed, status="failed" if cell.failure else "missing", error=cell.failure)
        trained = outcome.results[f"train/{self.stage}"]
        history = json.loads(trained.file("history.json").read_text())
        made, sampling = outcome.experiment, outcome.experiment.stages[self.stage].sampling
        facts = None if made.below(self.stage) is None else facts_of_level(made, self.stage, sampling.level)
        return Replicate(
            seed=seed,
            status="finished",
            chained=_scores(outcome, "chained", self.stage),
            oracle=_scores(outcome, "oracle", self.stage),
            level=sampling.level,
            kind=sampling.augmentation,
            logsnr=facts.logsnr if facts else None,
            ddpm_step=facts.step if facts else None,
            stages=[_stage_score(outcome, name) for name in made.chain(self.stage)],
            sweep=sweep_of(outcome, self.stage),
            loss=[(int(entry["step"]), entry["loss"]) for entry in history],
            during=outcome.during.get(self.stage, []),
            compute=self.counted.of(made),
            training_seconds=trained.summary["seconds"],
            start_seconds=trained.summary.get("start_seconds"),
            seconds=self.costs.clock_of_replicate(cell.replicate.cell, seed),
            device_seconds=self.costs.of_replicate(cell.replicate.cell, seed),
        )


def _stage_score(outcome: Outcome, name: str) -> StageScore:
    size = outcome.experiment.stages[name].size
    chained, oracle = _scores(outcome, "chained", name), _scores(outcome, "oracle", name)
    return StageScore(stage=name, size=size, chained=chained, oracle=oracle)


def _scores(outcome: Outcome, kind: str, name: str) -> Scores | None:
    result = outcome.scores(kind, name)
    return None if result is None else scores_in(result.summary)


def _notes(experiment: Experiment, outcome: Outcome) -> Iterator[str]:
    """Where budgets differ; and why no cell has a gap, which is the same for all, by the scores of one."""
    yield from budget_notes(experiment)
    chained, oracle = (_scores(outcome, kind, experiment.last) for kind in ("chained", "oracle"))
    if chained and oracle and (refusal := gap_refusal(chained.passport, oracle.passport)):
        yield f"No gap is told: chained and oracle scores differ in {refusal}."


def _differences(found: Mapping[Metric, Any]) -> dict[Metric, Difference]:
    return {metric: Difference(**one._asdict()) for metric, one in found.items()}


def _picture(outcome: Outcome | None, node: str, manifest: Manifest) -> bytes | None:
    if outcome is None or node not in outcome.results:
        return None
    return preview_grid(outcome.results[node], manifest)


def _grid_seed(ablation: Ablation, outcomes: Mapping[str, Outcome]) -> int:
    """The seed whose samples are shown: the one that most cells finished, of these the first."""
    finished = [cell.replicate.seed for cell in ablation.cells if cell.replicate.name in outcomes]
    return max(ablation_of(ablation.experiment).seeds, key=finished.count)


def _pictures(ablation: Ablation, outcomes: Mapping[str, Outcome], manifest: Manifest, seed: int) -> dict[str, bytes]:
    """Real images, and the samples of each lower stage where all cells were given the same."""
    last = ablation.experiment.last
    shown = [
        outcomes[c.replicate.name] for c in ablation.cells if c.replicate.seed == seed and c.replicate.name in outcomes
    ]
    found = {}
    for name in ablation.experiment.chain(last)[:-1]:
        drawn = [outcome.results.get(f"chained/{name}") for outcome in shown]  # none by a cell without that stage
        addresses = {result and result.address for result in drawn}
        if len(addresses) == 1 and (png := _picture(shown[0], f"chained/{name}", manifest)):
            found[f"{name}, which all cells were given"] = png
    size = ablation.experiment.stages[last].size
    if png := _picture(shown[0], f"real/val/{size}", manifest):
        found["real images, held out"] = png
    return found


def _revision(ablation: Ablation) -> tuple[str, list[str]]:
    """The revision of the source tree behind the results, this one where they do not agree; and a sentence if it is not
    theirs."""
    found: dict[str, str] = {}
    for cell in ablation.cells:
        for node in ancestry(cell.targets()):
            if node.digest not in found and (result := stored(node, cell.storage)) is not None:
                found[node.digest] = result.revision
    behind = Counter(found.values())
    if len(behind) == 1:
        return next(iter(behind)), []
    told = ", ".join(
        f"{count} at {revision[:12]}{' with changes' if revision.endswith('+changes') else ''}"
        for revision, count in behind.most_common()
    )
    return git_revision(), [f"Results were computed at several revisions of the code: {told}."]


def _ddpm_steps(ablation: Ablation) -> int:
    experiment = ablation.experiment
    if experiment.below(experiment.last) is None:
        return DDPM_STEPS
    return facts_of_level(experiment, experiment.last, 0.0).of_steps
