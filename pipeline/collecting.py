"""From stored results to the report: reads what the graph holds, computes nothing new."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import data_folder
from pipeline.experiment_spec import Experiment, InceptionScorer
from pipeline.grids import class_grid
from pipeline.manifest import Manifest, load_manifest
from pipeline.outcome import Outcome, git_revision
from pipeline.report_parts import NodeRow, Report, Scores, SearchPoint, SearchSection, StageSection

DDPM_STEPS = 1000


def collect(outcome: Outcome, computed: set[str], *, created: float) -> Report:
    """The report of ``outcome``. ``computed`` names the nodes of this very run, ``created`` is seconds since 1970."""
    experiment, declared = outcome.experiment, outcome.declared
    manifest = load_manifest(data_folder(outcome.results["data"].folder))
    moment = datetime.datetime.fromtimestamp(created, datetime.UTC).isoformat(timespec="seconds")
    return Report(
        title=declared.name if not declared.description else f"{declared.name}: {declared.description}",
        created=moment,
        revision=git_revision(),
        command=f"rayfall run jobs/experiments/{declared.name}.yaml",
        notes=_notes(experiment, manifest) + _search_notes(outcome),
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
        searches=_searches(outcome),
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


def _scores(outcome: Outcome, kind: str, name: str) -> Scores | None:
    result = outcome.results.get(f"scores/{kind}/{name}")
    if result is None:
        return None
    return Scores(**{key: result.summary[key] for key in ("samples", "fid", "accuracy", "precision", "recall")})


def _stage(outcome: Outcome, name: str, manifest: Manifest) -> StageSection:
    experiment, trained = outcome.experiment, outcome.results[f"train/{name}"]
    config = experiment.stages[name]
    history: list[dict[str, float]] = json.loads((trained.folder / "history.json").read_text())
    chained, real = _scores(outcome, "chained", name), _scores(outcome, "real", name)
    assert chained is not None, f"{name} was not scored"
    assert real is not None, f"{name} has no real scores to stand beside"
    per_class = outcome.results[f"scores/chained/{name}"].summary["per_class"]
    oracle = outcome.results.get(f"oracle/{name}")
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
        **({} if config.low_res_size is None else _level(experiment, name, config.sampling.level)),
        grid_png=_sample_grid(outcome.results[f"samples/{name}"].folder, manifest),
        oracle_png=_sample_grid(oracle.folder, manifest) if oracle else None,
        real_png=_real_grid(outcome.results[f"real/val/{config.size}"].folder, manifest),
        per_class={label: share for label, share in zip(manifest.classes, per_class, strict=True) if share is not None},
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


def _searches(outcome: Outcome) -> list[SearchSection]:
    if outcome.search is None:
        return []
    sections = []
    for found in outcome.search.summary["rounds"]:
        if not _is_of_levels(found):
            continue
        stage = found["stage"]
        points = [_point(outcome, stage, point) for point in found["points"] if point["error"] is None]
        chosen = _sampling(outcome, stage, found["chosen"])
        sections.append(SearchSection(stage=stage, metric=found["metric"], points=points, chosen=chosen))
    return sections


def _is_of_levels(found: Mapping[str, Any]) -> bool:
    """Whether a round of the search varied nothing but how the low-res image is handed over."""
    own = f"stages.{found['stage']}.sampling."
    return all(path in (f"{own}level", f"{own}augmentation") for path in _searched(found))


def _searched(found: Mapping[str, Any]) -> list[str]:
    """The paths that differ between the points of a round."""
    values: dict[str, set[str]] = {}
    for point in found["points"]:
        for path, value in point["settings"].items():
            values.setdefault(path, set()).add(json.dumps(value))
    return [path for path, seen in values.items() if len(seen) > 1]


def _search_notes(outcome: Outcome) -> list[str]:
    """A sentence for each round that has no figure against s."""
    rounds = outcome.search.summary["rounds"] if outcome.search else []
    return [
        f"The search at {found['stage']} chose "
        + ", ".join(f"{path} = {found['chosen'][path]}" for path in _searched(found))
        + f" of {len(found['points'])} trials by {found['metric']}."
        for found in rounds
        if not _is_of_levels(found)
    ]


def _sampling(outcome: Outcome, stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and level that a point of the search used at ``stage``."""
    sampling = outcome.experiment.stages[stage].sampling
    prefix = f"stages.{stage}.sampling."
    level = settings.get(f"{prefix}level", sampling.level)
    return {"kind": settings.get(f"{prefix}augmentation", sampling.augmentation), "level": float(level)}


def _point(outcome: Outcome, stage: str, point: Mapping[str, Any]) -> SearchPoint:
    place = _sampling(outcome, stage, point["settings"])
    return SearchPoint(
        **place,
        **_level(outcome.experiment, stage, place["level"]),
        chained_fid=point["chained"]["fid"],
        oracle_fid=point["oracle"]["fid"] if point["oracle"] else None,
        accuracy=point["chained"]["accuracy"],
        recall=point["chained"]["recall"],
        seconds=point["seconds"],
    )


def _level(experiment: Experiment, stage: str, level: float) -> dict[str, float]:
    """Level s of ``stage`` as log-SNR of the stage below, and as the paper's step index."""
    below = experiment.stages[experiment.names[max(0, experiment.names.index(stage) - 1)]].schedule
    logsnr = _cosine_logsnr(level, below.logsnr_min, below.logsnr_max, below.shift)
    return {"logsnr": logsnr, "ddpm_step": _ddpm_step(logsnr)}


def _cosine_logsnr(t: float, low: float, high: float, shift: float) -> float:
    """``stages.schedules.Cosine`` for one number, without torch."""
    t_min = math.atan(math.exp(-0.5 * (high - shift)))
    t_max = math.atan(math.exp(-0.5 * (low - shift)))
    return -2.0 * math.log(math.tan(t_min + t * (t_max - t_min))) + shift


def _ddpm_step(logsnr: float) -> float:
    """The step, out of 1000, at which the cosine schedule of Improved DDPM (offset 0.008) has this log-SNR."""
    angle = math.atan(math.exp(-0.5 * logsnr))  # tan(angle) = sigma / alpha
    start = 0.008 / 1.008 * math.pi / 2
    # alpha-bar = cos^2(angle_t) / cos^2(start): solve for angle_t.
    cosine = min(1.0, math.cos(angle) * math.cos(start))
    return max(0.0, DDPM_STEPS * (1.008 * math.acos(cosine) / (math.pi / 2) - 0.008))
