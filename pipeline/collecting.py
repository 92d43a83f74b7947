"""From stored results to the report: reads what the graph holds, computes nothing new."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.collecting_searches import search_notes, searches_of
from pipeline.data.datasets import data_place
from pipeline.data.manifest import Manifest, load_manifest
from pipeline.evaluation_spec import InceptionScorer
from pipeline.experiment_spec import Experiment
from pipeline.grids import class_grid
from pipeline.levels import DDPM_STEPS, facts_of_level
from pipeline.outcome import SCORES, Outcome, cascades_of, git_revision
from pipeline.report_parts import BoundScores, CascadeRow, NodeRow, Report, Restoration, Scores, StageSection


def collect(outcome: Outcome, computed: set[str], *, created: float, command: str) -> Report:
    """The report of ``outcome``, made by ``command``.

    ``computed`` names the nodes of this very run, ``created`` is seconds since 1970.
    """
    experiment, declared = outcome.experiment, outcome.declared
    manifest = load_manifest(data_place(outcome.results["data"].folder).address)
    moment = datetime.datetime.fromtimestamp(created, datetime.UTC).isoformat(timespec="seconds")
    return Report(
        title=declared.name if not declared.description else f"{declared.name}: {declared.description}",
        created=moment,
        revision=git_revision(),
        command=command,
        notes=_notes(experiment, manifest) + search_notes(outcome),
        dataset={
            "name": manifest.source.name,
            "image_size": manifest.image_size,
            "classes": list(manifest.classes),
            "train": manifest.splits["train"].examples,
            "val": manifest.splits["val"].examples,
            "resize": manifest.resize,
            "lossy": manifest.source.lossy,
        },
        scorer=_scorer(outcome),
        stages=[_stage(outcome, name, manifest) for name in experiment.names],
        cascades=[_cascade(name, row) for name, row in cascades_of(outcome).items()],
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
        settings=declared.model_dump(mode="json"),
    )


def _notes(experiment: Experiment, manifest: Manifest) -> list[str]:
    notes = []
    if manifest.source.lossy:
        notes.append(
            "The source images are lossy (JPEG or alike): no score here is comparable with published scores on the "
            "original data set."
        )
    if manifest.undecodable:
        notes.append(f"{len(manifest.undecodable)} files of the source could not be decoded; the manifest names them.")
    if not isinstance(experiment.evaluation.scorer, InceptionScorer):
        notes.append(
            "FID, precision and recall are taken in the features of a classifier trained on this data set: their "
            "scale means nothing on other data or beside Inception-based scores."
        )
    return notes


def _scorer(outcome: Outcome) -> str:
    def held_out(role: str) -> str:
        summary = outcome.results[f"classifier/{role}"].summary
        sizes = ", ".join(f"{float(share):.3f} at {size} px" for size, share in summary["accuracy"].items())
        return f"accuracy on {summary['held_out']} held-out real images: {sizes}"

    judge = f"Accuracy comes from a separately seeded classifier ({held_out('judge')})."
    scorer = outcome.experiment.evaluation.scorer
    if isinstance(scorer, InceptionScorer):
        return f"FID, precision and recall in the features of Inception-v3 ({scorer.weights.name}). {judge}"
    return (
        f"FID, precision and recall in the features of the data set's own classifier ({held_out('features')}). {judge}"
    )


def _cascade(name: str, row: dict[str, Any]) -> CascadeRow:
    chained = Scores(**{figure: row[figure] for figure in SCORES})
    return CascadeRow(name=name, chained=chained, **{key: row[key] for key in row if key not in SCORES})


def _scores(outcome: Outcome, kind: str, name: str) -> Scores | None:
    result = outcome.scores(kind, name)
    return None if result is None else Scores(**{figure: result.summary[figure] for figure in SCORES})


def _stage(outcome: Outcome, name: str, manifest: Manifest) -> StageSection:
    experiment, trained = outcome.experiment, outcome.results[f"train/{name}"]
    config = experiment.stages[name]
    history: list[dict[str, float]] = json.loads((trained.folder / "history.json").read_text())
    chained, real = _scores(outcome, "chained", name), _scores(outcome, "real", name)
    assert chained is not None, f"{name} was not scored"
    assert real is not None, f"{name} has no real scores to stand beside"
    per_class = outcome.results[f"scores/chained/{name}"].summary["per_class"]
    oracle, restored, bound = (outcome.results.get(f"{kind}/{name}") for kind in ("oracle", "restoration", "bound"))
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
        grid_png=_sample_grid(outcome.results[f"samples/{name}"].folder, manifest),
        oracle_png=_sample_grid(oracle.folder, manifest) if oracle else None,
        real_png=_real_grid(outcome.results[f"real/val/{config.size}"].folder, manifest),
        per_class={label: share for label, share in zip(manifest.classes, per_class, strict=True) if share is not None},
        restoration=Restoration(**restored.summary) if restored else None,
        bound=BoundScores(**bound.summary) if bound else None,
    )


def _sample_grid(folder: Path, manifest: Manifest) -> bytes:
    samples = np.load(folder / "images.npy", mmap_mode="r")[: 20 * len(manifest.classes)]
    pixels = ((np.clip(samples, -1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return _grid(pixels, np.load(folder / "labels.npy")[: len(pixels)], manifest)


def _real_grid(folder: Path, manifest: Manifest) -> bytes:
    pixels = np.load(folder / "images.npy")
    return _grid(pixels, np.load(folder / "labels.npy")[: len(pixels)], manifest)


def _grid(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], manifest: Manifest) -> bytes:
    return class_grid(pixels, labels, len(manifest.classes), columns=8)
