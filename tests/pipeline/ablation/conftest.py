"""A made-up ablation with everything in it, for the tests of how its report looks and what it says."""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.ablation.metrics import mean, spread
from pipeline.ablation.parts import (
    AblationReport,
    AblationSharing,
    CellRow,
    Compute,
    Difference,
    Equality,
    Replicate,
    StageScore,
    SweepPoint,
)
from pipeline.ablation.spec import Metric
from pipeline.data.drawn import CLASSES, draw
from pipeline.report.parts import Dataset
from pipeline.report.scores import Scores

SEEDS = [0, 1, 2]
ERROR = "TrainingFailedError: worker 0 of train/sr32 was lost 3 times: the loss is not finite at step 412 <nan & inf>"
TRAINED = "stages.sr32.augmentation"


class Cell(NamedTuple):
    """What is made up of a cell: mean FIDs and accuracy, noise and blur of its pictures, the levels it was swept at."""

    chained: float
    oracle: float
    accuracy: float
    noise: float
    blur: int
    settings: dict[str, Any]
    levels: tuple[float, ...] = ()


SWEPT = (0.0, 0.1, 0.2, 0.3, 0.5)
CELLS = {
    "none": Cell(18.2, 4.1, 0.846, 0.10, 1, {f"{TRAINED}.kind": "none"}, (0.0,)),
    "noise-small": Cell(13.9, 4.9, 0.871, 0.04, 1, {f"{TRAINED}.kind": "noise", f"{TRAINED}.max_level": 0.2}, SWEPT),
    "noise-large": Cell(15.1, 6.6, 0.882, 0.02, 2, {f"{TRAINED}.kind": "noise", f"{TRAINED}.max_level": 0.6}, SWEPT),
    "truncated": Cell(14.3, 4.9, 0.870, 0.05, 1, {
        f"{TRAINED}.kind": "noise", f"{TRAINED}.max_level": 0.2, "stages.sr32.sampling.augmentation": "truncated",
    }, SWEPT),
    "blur": Cell(16.4, 5.8, 0.851, 0.06, 4, {f"{TRAINED}.kind": "blur", f"{TRAINED}.sigma": [0.4, 0.6]}),
    "no-class": Cell(19.8, 4.4, 0.781, 0.08, 1, {"stages.sr32.net.labels": False}, (0.0, 0.1, 0.2, 0.3)),
}  # fmt: skip


def _grid(noise: float, blur: int, seed: int = 5, size: int = 32) -> bytes:
    """A PNG of 8 drawn images of each class at their native size, one row per class."""
    shown: dict[str, list[npt.NDArray[np.uint8]]] = {name: [] for name in CLASSES}
    index = 0
    while any(len(row) < 8 for row in shown.values()):
        image, label = draw(seed, index, 32)
        shown[CLASSES[label]].append(image)
        index += 1
    sheet = np.stack([image for row in shown.values() for image in row[:8]]).astype(float)
    sheet = sheet.reshape(-1, size // blur, 32 * blur // size, size // blur, 32 * blur // size, 3).mean((2, 4))
    sheet = sheet.repeat(blur, 1).repeat(blur, 2) + np.random.default_rng(seed).normal(
        0, 255 * noise, (1, size, size, 3)
    )
    flat = sheet.clip(0, 255).astype(np.uint8).reshape(-1, 8, size, size, 3)
    out = io.BytesIO()
    Image.fromarray(flat.transpose(0, 2, 1, 3, 4).reshape(-1, 8 * size, 3)).save(out, "PNG")
    return out.getvalue()


def _scores(fid: float, accuracy: float) -> Scores:
    return Scores(samples=2000, fid=fid, fid_error=0.03 * fid, accuracy=accuracy, recall=accuracy - 0.3)


def _sweep(cell: Cell, fid: float, accuracy: float) -> list[SweepPoint]:
    def cost(level: float) -> float:
        return 90 * (level - 0.15) ** 2

    best = min(cell.levels, key=cost, default=0.0)
    points = []
    for level in cell.levels:
        for kind in ("truncated", "non_truncated") if level else ("non_truncated",):
            worse = cost(level) - cost(best) + (6 * level * level if kind == "truncated" else 0)
            points.append(SweepPoint(
                kind=kind, level=level, logsnr=-2 * math.log(math.tan(math.pi / 2 * max(level, 0.001))),
                ddpm_step=1000 * level, chained_fid=fid + worse, chained_fid_error=0.4, oracle_fid=4 + 9 * level,
                accuracy=accuracy - 0.01 * worse, chosen=level == best and (kind == "non_truncated"),
            ))  # fmt: skip
    return points


def _replicate(name: str, cell: Cell, seed: int) -> Replicate:
    dice = np.random.default_rng(100 * seed)  # seeds are paired: what a seed adds, it adds to every cell
    mine = np.random.default_rng([seed, *name.encode()])
    fid, accuracy = cell.chained + dice.normal(0, 0.9) + mine.normal(0, 0.2), cell.accuracy + mine.normal(0, 0.004)
    steps = np.arange(0, 1200, 10)
    loss = 0.05 + cell.oracle / 150 + 0.8 * np.exp(-steps / 110) + mine.normal(0, 0.004, len(steps))
    if name == "noise-large" and seed == 2:
        return Replicate(seed=seed, status="failed", error=ERROR)
    chained, oracle = _scores(fid, accuracy), _scores(cell.oracle + mine.normal(0, 0.2), 0.93)
    base = _scores(3.1 + dice.normal(0, 0.1), 0.95)
    level = 0.1 if len(cell.levels) > 1 else 0.0
    return Replicate(
        seed=seed,
        status="finished",
        chained=chained,
        oracle=oracle,
        level=level,
        kind="non_truncated",
        stages=[
            StageScore(stage="base8", size=8, chained=base, oracle=None),
            StageScore(stage="sr16", size=16, chained=_scores(7.7, 0.9), oracle=_scores(3.2, 0.94)),
            StageScore(stage="sr32", size=32, chained=chained, oracle=oracle),
        ],
        sweep=_sweep(cell, fid, accuracy),
        loss=[(int(a), float(b)) for a, b in zip(steps, loss, strict=True)],
        compute=Compute(parameters=1_200_000, drawn_gflop=2.0 + 0.1 * len(name), trained_pflop=0.031),
        training_seconds=210.0 + 9 * seed,
        start_seconds=11.2 + mine.uniform(0, 4),
        seconds=305.0 + 7 * seed,
        device_seconds=4 * (305.0 + 7 * seed),
    )


def difference(cell: CellRow, base: CellRow, metric: Metric) -> Difference | None:
    """A plausible one: the interval is four standard errors wide either way."""
    mine, theirs = cell.values(metric), base.values(metric)
    apart = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    if len(apart) < 2:
        return None
    centre, error = mean(apart) or 0.0, (spread(apart) or 0.0) / math.sqrt(len(apart))
    return Difference(
        mean=centre, error=error, low=centre - 6 * error, high=centre + 6 * error, n=len(apart), detectable=9 * error,
        p=min(1.0, 5 * math.exp(-abs(centre) / (error or 1.0) / 2)),
    )  # fmt: skip


def make_cell(name: str, cell: Cell, seeds: list[int], metrics: list[Metric]) -> CellRow:
    """A cell with everything but its differences."""
    rows = [_replicate(name, cell, seed) for seed in seeds]
    return CellRow(
        name=name,
        settings=cell.settings,
        shares_training_with={"truncated": "noise-small", "noise-small": "truncated"}.get(name),
        replicates=rows,
        grid_png=_grid(cell.noise, cell.blur),
        oracle_png=_grid(cell.noise / 3, cell.blur, seed=9),
        gpu_seconds=sum(row.seconds for row in rows) / (4 if name == "truncated" else 1),
        reused_seconds=420.0 + (600 if name == "truncated" else 0),
        commands=[f"rayfall run jobs/experiments/ablations/augmentation.yaml --set ablation=null --set seed={seed} "
                  + " ".join(f"--set {path}={value}" for path, value in cell.settings.items()) for seed in seeds],
    )  # fmt: skip


def make_report(cells: dict[str, Cell], seeds: list[int]) -> AblationReport:
    """An ablation of ``cells`` against the first of them."""
    metrics: list[Metric] = ["chained_fid", "oracle_fid", "gap", "accuracy"]
    rows = [make_cell(name, cell, seeds, metrics) for name, cell in cells.items()]
    found = {row.name: {metric: difference(row, rows[0], metric) for metric in metrics} for row in rows[1:]}
    rows[1:] = [
        row.model_copy(update={"differences": {name: one for name, one in found[row.name].items() if one is not None}})
        for row in rows[1:]
    ]
    return AblationReport(
        title="augmentation: what noise, blur and the class do for 16 → 32 px <& more>",
        created="2026-11-21T10:53:56+00:00",
        revision="368107b2f6b1c0ffee5e5b8f9d8c7a6b5a493827",
        command="rayfall ablate jobs/experiments/ablations/augmentation.yaml",
        question="Does noise on the low-res image make the samples of a cascade better, and how much of it?",
        verdict=[
            "noise-small has a lower chained FID than none, by 4.31, which is better: the simultaneous 95 % interval "
            "of the difference is [-4.43, -4.19] over 3 seeds (Holm-adjusted p < 0.001).",
            "no-class has a higher chained FID than none, by 1.61, which is worse: the simultaneous 95 % interval of "
            "the difference is [1.05, 2.17] over 3 seeds (Holm-adjusted p < 0.001).",
            *(f"Sentence {number} of what was found." for number in range(3, 9)),
        ],
        notes=["The source images are lossy (JPEG): no score here is comparable with published scores."],
        dataset=Dataset(
            name="drawn", image_size=32, classes=list(CLASSES), train=12000, val=3000, resize="box averages",
            lossy=False,
        ),
        scorer="FID in the features of the data set's own classifier; accuracy under a separately seeded one.",
        stage="sr32",
        size=32,
        baseline=rows[0].name,
        seeds=seeds,
        metrics=metrics,
        cells=rows,
        equalities=[
            Equality(cells=("noise-small", "truncated"), metric="chained_fid", margin=1.0, low=-0.41, high=0.63,
                     p=0.011, equal=True, sentence="noise-small and truncated are equal in chained FID within ±1.00: "
                     "the 90 % interval of truncated minus noise-small, [-0.41, 0.63] over 3 seeds, lies inside."),
            Equality(cells=("none", "no-class"), metric="accuracy", margin=0.02, low=-0.091, high=-0.038, p=0.97,
                     equal=False, sentence="none and no-class differ in accuracy by more than ±2.00 points."),
        ] if {"noise-small", "truncated", "none", "no-class"} <= set(cells) else [],
        front=[name for name in ("noise-small", "truncated") if name in cells],
        chosen=rows[1].name,
        why="It has the lowest mean chained FID, and its accuracy is within one point of the best.",
        sharing=AblationSharing(
            spent_seconds=5620.0, separate_seconds=11240.0, saved_seconds=5620.0, wall_seconds=3480.0, trainings_run=21,
            trainings_asked=54, device="GPU",
        ),
        real=_scores(1.1, 0.985),
        grid_seed=0,
        pictures={"real, held out": _grid(0.0, 1, seed=11)},
        settings={
            "name": "augmentation",
            "seed": 0,
            "stages": {"sr32": {
                "size": 32, "augmentation": {"kind": "noise", "max_level": 0.3}, "net": {"labels": True},
                "sampling": {"augmentation": "non_truncated"},
            }},
        },
    )  # fmt: skip


@pytest.fixture(scope="session")
def ablation() -> AblationReport:
    """Six cells, three seeds, one of the eighteen replicates failed."""
    return make_report(CELLS, SEEDS)


@pytest.fixture(scope="session")
def large_ablation() -> AblationReport:
    """Fourteen cells with long names under ten seeds, most with a sweep."""
    cells = {
        f"noise-up-to-{n / 20:g}-blurred": CELLS["noise-small"]._replace(chained=18 - n % 7, accuracy=0.8 + n / 200)
        for n in range(14)
    }
    return make_report(cells, list(range(10)))


@pytest.fixture(scope="session")
def bare_ablation(ablation: AblationReport) -> AblationReport:
    """The least there can be: two cells, one seed, of which one failed; nothing else."""
    lost = Replicate(seed=0, status="failed", error="lost", kind=None)
    made = Replicate(seed=0, status="finished", chained=Scores(samples=10, fid=3.0))
    cells = [CellRow(name=name, settings={}, replicates=[row]) for name, row in (("a", made), ("b", lost))]
    nothing: dict[str, Any] = {"equalities": [], "front": [], "chosen": None, "why": "", "settings": {}, "notes": []}
    nothing |= {"sharing": AblationSharing(), "pictures": {}, "real": None, "grid_seed": None, "question": ""}
    return ablation.model_copy(update={"cells": cells, "baseline": "a", "seeds": [0], **nothing})


LEVELS = {"clean": (0.0, None), "s0.1-truncated": (0.1, "truncated"), "s0.1-non_truncated": (0.1, "non_truncated"),
          "s0.3-truncated": (0.3, "truncated"), "s0.3-non_truncated": (0.3, "non_truncated")}  # fmt: skip


@pytest.fixture(scope="session")
def fixed_ablation(ablation: AblationReport) -> AblationReport:
    """Cells that are fixed levels and kinds of the last stage's sampling, without any search; one seed failed."""
    own, rows = "stages.sr32.sampling", []
    for number, (name, (level, kind)) in enumerate(LEVELS.items()):
        replicates = [
            Replicate(
                seed=seed, status="finished", chained=_scores(20.0 - number + 0.1 * seed * number, 0.8 + number / 100),
                oracle=_scores(4.0 + level, 0.9), level=level, kind=kind or "non_truncated",
                logsnr=9.0 - 20 * level, ddpm_step=1000 * level,
            )
            for seed in SEEDS
        ]  # fmt: skip
        if name == "s0.3-truncated":
            replicates[2] = Replicate(seed=2, status="failed", error="lost")
        settings = {f"{own}.level": level, f"{own}.augmentation": kind} if kind else {}
        rows.append(CellRow(name=name, settings=settings, replicates=replicates))
    found = {"cells": rows, "baseline": "clean", "equalities": [], "front": [], "chosen": "s0.3-non_truncated"}
    return ablation.model_copy(update=found)
