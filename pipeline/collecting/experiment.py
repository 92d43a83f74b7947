"""From stored results to the report: reads what the graph holds, computes nothing new."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.addresses import without_secrets
from pipeline.collecting.memorisation import memorisation_of
from pipeline.collecting.searches import searches_of
from pipeline.data.datasets import MANIFEST_PART, data_place
from pipeline.data.manifest import Manifest, load_manifest
from pipeline.experiment_spec import Experiment
from pipeline.levels import DDPM_STEPS, facts_of_level
from pipeline.outcome import Outcome, cascades_of
from pipeline.previews import PREVIEW
from pipeline.published.rows import published_set
from pipeline.report.grids import class_grid
from pipeline.report.parts import CascadeRow, Dataset, NodeRow, Report, StageSection
from pipeline.report.score_tables import extractor_words
from pipeline.report.scores import (
    BoundScores,
    Chain,
    ClassificationScore,
    FeatureScores,
    Part,
    Restoration,
    Scores,
)
from pipeline.results import Result
from pipeline.revision import git_revision

# Parts of a stage's section that are the summaries of its nodes.
PARTS: Mapping[str, type[Part]] = {
    "chain": Chain,
    "restoration": Restoration,
    "cas": ClassificationScore,
    "cas_real": ClassificationScore,
    "bound": BoundScores,
}


def collect(outcome: Outcome, computed: set[str], *, created: float, command: str) -> Report:
    """The report of ``outcome``, made by ``command``.

    ``computed`` names the nodes of this very run, ``created`` is seconds since 1970.
    """
    experiment, declared = outcome.experiment, outcome.declared
    manifest = load_manifest(data_place(outcome.results["data"].part(*MANIFEST_PART)).address)
    moment = datetime.datetime.fromtimestamp(created, datetime.UTC).isoformat(timespec="seconds")
    return Report(
        title=declared.name if not declared.description else f"{declared.name}: {declared.description}",
        created=moment,
        revision=git_revision(),
        command=command,
        notes=data_notes(experiment, manifest),
        dataset=dataset_of(manifest),
        scorer=scorer_words(outcome),
        stages=[_stage(outcome, name, manifest) for name in experiment.names],
        cascades=[_cascade(outcome, name, row) for name, row in cascades_of(outcome).items()],
        searches=searches_of(outcome),
        nodes=[
            NodeRow(
                name=node.name,
                digest=node.digest[:12],
                seconds=outcome.results[node.name].seconds,
                reused=node.name not in computed,
                where=node.key,
            )
            for node in outcome.nodes
            if node.name in outcome.results
        ],
        settings=without_secrets(declared.model_dump(mode="json")),
    )


def dataset_of(manifest: Manifest) -> Dataset:
    """The data set as a report describes it."""
    return Dataset(
        name=manifest.source.name,
        image_size=manifest.image_size,
        classes=list(manifest.classes),
        train=manifest.splits["train"].examples,
        val=manifest.splits["val"].examples,
        resize=manifest.resize,
        lossy=manifest.source.lossy,
    )


def data_notes(experiment: Experiment, manifest: Manifest) -> list[str]:
    """Sentences on the data and on what scores them, that a reader must know."""
    notes = []
    # ImageNet's originals are JPEG; what keeps its scores from the published ones is told beside those.
    if manifest.source.lossy and published_set(manifest.source.name, manifest.classes) is None:
        notes.append(
            "The source images are lossy (JPEG or alike): no score here is comparable with published scores on the "
            "original data set."
        )
    if manifest.undecodable:
        notes.append(f"{len(manifest.undecodable)} files of the source could not be decoded; the manifest names them.")
    if experiment.evaluation.scorer.name == "classifier":
        notes.append(
            "FID, precision and recall are taken in the features of a classifier trained on this data set: their "
            "scale means nothing on other data or beside Inception-based scores."
        )
    return notes


def scorer_words(outcome: Outcome) -> str:
    """In whose features the scores are taken, and who judges accuracy."""

    def held_out(role: str) -> str:
        summary = outcome.results[f"classifier/{role}"].summary
        sizes = ", ".join(f"{float(share):.3f} at {size} px" for size, share in summary["accuracy"].items())
        return f"accuracy on {summary['held_out']} held-out real images: {sizes}"

    evaluation = outcome.experiment.evaluation
    judge = f"Accuracy comes from a separately seeded classifier, trained on real images ({held_out('judge')})."
    first = extractor_words(evaluation.scorer.name)
    if evaluation.scorer.name == "classifier":
        first += f" ({held_out('features')})"
    beside = "".join(f", beside them in those of {extractor_words(scorer.name)}" for scorer in evaluation.also)
    return f"FID, KID, precision and recall are taken in the features of {first}{beside}. {judge}"


def _cascade(outcome: Outcome, name: str, row: dict[str, Any]) -> CascadeRow:
    chained = _scores(outcome, "chained", row["stages"][-1])
    cost = {key: row[key] for key in ("stages", "size", "parameters", "training_seconds", "net_calls")}
    return CascadeRow(name=name, chained=chained, **cost)


def _known(kind: type[Part], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What of a summary a part of the report shows."""
    return {key: value for key, value in summary.items() if key in kind.model_fields}


def _scores(outcome: Outcome, kind: str, name: str) -> Scores | None:
    result = outcome.scores(kind, name)
    return None if result is None else scores_in(result.summary)


def scores_in(summary: Mapping[str, Any]) -> Scores:
    """The row of a score node's summary, which may say more than a report shows."""
    further = {name: FeatureScores(**_known(FeatureScores, found)) for name, found in summary["also"].items()}
    return Scores(**{**_known(Scores, summary), "also": further})


def _stage(outcome: Outcome, name: str, manifest: Manifest) -> StageSection:
    experiment, trained = outcome.experiment, outcome.results[f"train/{name}"]
    config = experiment.stages[name]
    history: list[dict[str, float]] = json.loads(trained.file("history.json").read_text())
    chained, real = _scores(outcome, "chained", name), _scores(outcome, "real", name)
    assert chained is not None, f"{name} was not scored"
    assert real is not None, f"{name} has no real scores to stand beside"
    oracle = outcome.results.get(f"oracle/{name}")
    facts = None if config.low_res_size is None else facts_of_level(experiment, name, config.sampling.level)
    return StageSection(
        name=name,
        size=config.size,
        low_res_size=config.low_res_size,
        parameters=trained.summary["parameters"],
        steps=trained.summary["step"],
        training_seconds=trained.summary["seconds"],
        images_per_second=trained.summary["step"] * config.training.batch_size / max(trained.summary["seconds"], 1e-9),
        loss=[(int(entry["step"]), entry["loss"]) for entry in history],
        chained=chained,
        oracle=_scores(outcome, "oracle", name),
        real=real,
        level=config.sampling.level,
        kind=config.sampling.augmentation,
        logsnr=facts.logsnr if facts else None,
        ddpm_step=facts.step if facts else None,
        ddpm_steps=facts.of_steps if facts else DDPM_STEPS,
        grid_png=preview_grid(outcome.results[f"chained/{name}"], manifest),
        oracle_png=preview_grid(oracle, manifest) if oracle else None,
        real_png=preview_grid(outcome.results[f"real/val/{config.size}"], manifest),
        **_by_class(outcome.results[f"scores/chained/{name}"].summary, manifest),
        memorisation=memorisation_of(outcome.results.get(f"memorisation/{name}"), manifest),
        during=outcome.during.get(name, []),
        **_beside(outcome, name),
    )


def _by_class(summary: Mapping[str, Any], manifest: Manifest) -> dict[str, dict[str, float]]:
    """Accuracy and FID of the classes that have any."""

    def named(figures: Sequence[float | None]) -> dict[str, float]:
        return {label: one for label, one in zip(manifest.classes, figures, strict=True) if one is not None}

    return {figure: named(summary[figure]) for figure in ("per_class", "per_class_fid")}


def _beside(outcome: Outcome, name: str) -> dict[str, Part | None]:
    """What was examined of a stage beside its scores; None where it was not."""
    found: dict[str, Part | None] = {}
    for kind, part in PARTS.items():
        result = outcome.cas_real(name) if kind == "cas_real" else outcome.results.get(f"{kind}/{name}")
        found[kind] = None if result is None else part(**_known(part, result.summary))
    return found


def preview_grid(result: Result, manifest: Manifest) -> bytes:
    """The preview that a node left, a row per class."""
    folder = result.part(*PREVIEW)
    pixels, labels = np.load(folder / "preview.npy"), np.load(folder / "preview_labels.npy")
    return class_grid(pixels, labels, len(manifest.classes), columns=8)
