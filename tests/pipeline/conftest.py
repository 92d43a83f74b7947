"""A made-up report with everything in it, for the tests of how a report looks and what it says."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.data.drawn import CLASSES, draw
from pipeline.report.grids import class_grid
from pipeline.report.parts import (
    CascadeRow,
    Dataset,
    NodeRow,
    Report,
    StageSection,
)
from pipeline.report.scores import (
    BoundScores,
    Chain,
    ClassificationScore,
    FeatureScores,
    Memorisation,
    Near,
    NearestRow,
    Restoration,
    Scores,
)
from pipeline.report.search_parts import Kind, Place, SearchPoint, SearchSection
from pipeline.scoring.passport import ExtractorMark, Passport, ReferenceMark, SourceKind, SourceMark, StageMark

SAMPLES = 1024
FLAGGED = "FID of 1,024 samples is flagged: 160 features ask for 3,200 or more."
REFUSED = "FD-DINOv2 of 1,024 samples is refused: it needs more than the 1,024 dimensions of the feature."


@functools.cache
def _drawn(seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    drawn = [draw(seed, index, 32) for index in range(8 * len(CLASSES))]
    return np.stack([image for image, _ in drawn]).astype(float), np.array([label for _, label in drawn])


def _images(size: int, seed: int, noise: float) -> npt.NDArray[np.uint8]:
    images, _ = _drawn(seed)
    images = images.reshape(len(images), size, 32 // size, size, 32 // size, 3).mean((2, 4))
    images = images + np.random.default_rng(seed).normal(0, 255 * noise, images.shape)
    return images.clip(0, 255).astype(np.uint8)


def _grid(size: int, seed: int, noise: float) -> bytes:
    return class_grid(_images(size, seed, noise), _drawn(seed)[1], len(CLASSES), columns=8)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def _passport(kind: SourceKind, size: int, extractor: str = "classifier") -> Passport:
    mark = StageMark(
        name=f"sr{size}", size=size, weights="ab" * 32, sampler="ddim", steps=20, guidance=1.5,
        guidance_interval=None, augmentation="truncated", level=0.1, ema_length=0.1,
    )  # fmt: skip
    return Passport(
        samples=SAMPLES,
        indices=(0, SAMPLES),
        source=SourceMark(kind=kind),
        reference=ReferenceMark(name="drawn", split="train", images=12_000, near=10_000, digest="cd" * 32, lossy=False),
        extractor=ExtractorMark(name=extractor, layer="all levels", sha256="ef" * 32),
        size=32,
        resize=f"box mean of 32 px; box mean to {size} px; bilinear to 32 px, 8 bits",
        stages=() if kind == "real" else (mark,),
        labels="histogram",
        seed=None if kind == "real" else 0,
        precision="f32",
        block=64,
        device="cpu",
        revision="368107b2f6b1c0ffee5e5b8f9d8c7a6b5a493827",
    )


def _scores(kind: SourceKind, size: int, fid: float, accuracy: float, precision: float, recall: float) -> Scores:
    dino = FeatureScores(
        fid=None, kid=fid / 90, kid_std=0.004, precision=0.9 * precision, recall=0.8 * recall, flags=[REFUSED],
        passport=_passport(kind, size, "dinov2"),
    )  # fmt: skip
    return Scores(
        samples=SAMPLES,
        fid=fid,
        fid_error=0.04 * fid,
        fid_infinity=0.8 * fid,
        fid_infinity_error=0.05 * fid,
        fid_curve=[(n, fid * (0.8 + 0.2 * SAMPLES / n)) for n in (256, 384, 512, 768, 1024)],
        fid_val=None if kind == "real" else 1.04 * fid,
        kid=fid / 400,
        kid_std=0.0007,
        inception_score=1 + 8 * accuracy,
        inception_score_std=0.09,
        accuracy=accuracy,
        accuracy_top5=min(1.0, accuracy + 0.08),
        precision=precision,
        recall=recall,
        flags=[FLAGGED],
        passport=_passport(kind, size),
        also={"dinov2": dino},
    )


def _chain(size: int, oracle: bool) -> Chain:
    frequencies = np.geomspace(0.5 / size, 0.5, 12)
    real = 0.02 / (frequencies * 16) ** 2
    blurred = real * np.exp(-3 * frequencies)
    return Chain(
        size=size,
        colour={"chained": [0.51, 0.47, 0.5], "oracle": [0.5, 0.48, 0.5] if oracle else None, "real": [0.5, 0.49, 0.5]},
        frequencies=list(frequencies),
        power={
            "chained": list(blurred),
            "oracle": list((real + blurred) / 2) if oracle else None,
            "real": list(real),
        },
        colour_drift=3.3,
        colour_noise=0.9,
        high_frequency_ratio={"chained": 0.42, "oracle": 0.7 if oracle else None},
        consistency={"chained": 3.4e-5, "oracle": 2.9e-5} if oracle else None,
    )


def _memorisation(size: int) -> Memorisation:
    images, labels = _images(size, 4, 0.02), _drawn(4)[1]
    rows = [
        NearestRow(
            index=row,
            label=CLASSES[labels[row]],
            png=_png(images[row]),
            nearest=[
                Near(index=60 + rank, distance=0.3 + row / 8 + rank / 9, png=_png(images[60 + rank]))
                for rank in range(3)
            ],
        )
        for row in range(8)
    ]
    return Memorisation(
        rows=rows, reference=10_000, of=12_000, scorer="the data set's own classifier", compared=1024, median=1.2,
        real_median=1.3, real_near=0.4, nearer=0.013,
    )  # fmt: skip


def _cas(size: int, top1: float) -> ClassificationScore:
    return ClassificationScore(
        cas_top1=top1, cas_top5=min(1.0, top1 + 0.15), net="small classifier", images=12_000, epochs=30, steps=2800,
        seconds=91.0, size=size,
    )  # fmt: skip


def make_stage(
    name: str, size: int, low: int | None, fids: tuple[float, float | None, float], accuracy: float
) -> StageSection:
    """A stage of ``size`` px with everything, whose chained, oracle and real FID are ``fids``."""
    dice = np.random.default_rng(size)
    steps = np.arange(0, 1000, 20)
    loss = 0.06 + 0.9 * np.exp(-steps / 90) * dice.uniform(0.85, 1.15, len(steps)) + dice.normal(0, 0.004, len(steps))
    chained, oracle, real = fids
    return StageSection(
        name=name,
        size=size,
        low_res_size=low,
        parameters=1_250_000 // (1 + size // 16),
        steps=1000,
        training_seconds=143.0 + size,
        images_per_second=4096.0 / size,
        loss=[(int(step), float(value)) for step, value in zip(steps, loss, strict=True)],
        chained=_scores("chained", size, chained, accuracy, 0.71, 0.52),
        oracle=None if oracle is None else _scores("oracle", size, oracle, 0.95, 0.8, 0.6),
        real=_scores("real", size, real, 0.985, 0.86, 0.85),
        level=0.1 if low else 0.0,
        kind="truncated",
        grid_png=_grid(size, 1, 0.04),
        oracle_png=_grid(size, 2, 0.02) if low else None,
        real_png=_grid(size, 3, 0.0),
        per_class={label: min(1.0, accuracy - 0.25 + 0.05 * rank) for rank, label in enumerate(CLASSES)},
        chain=_chain(size, oracle is not None),
        memorisation=_memorisation(size) if size == 32 else None,
        cas=_cas(size, accuracy - 0.2),
        cas_real=_cas(size, 0.97),
        during=[(step, chained * (1 + 6 * np.exp(-step / 250))) for step in range(100, 1001, 100)],
    )


def plain(stage: StageSection, **changes: Any) -> StageSection:
    """``stage`` without what takes long to draw."""
    nothing: dict[str, Any] = {"chain": None, "memorisation": None, "during": [], "loss": []}
    rows = {kind: row.model_copy(update={"fid_curve": []}) for kind, row in stage.rows.items()}
    return stage.model_copy(update={**nothing, **rows, **changes})


def _search(stage: str) -> SearchSection:
    points, own = [], f"stages.{stage}.sampling."
    kinds: tuple[tuple[Kind, float], ...] = (("truncated", 0.0), ("non_truncated", 3.0))
    for kind, cost in kinds:
        for level, logsnr, step in (
            (0.0, 15.0, 0),
            (0.05, 5.08, 50),
            (0.1, 3.69, 100),
            (0.2, 2.25, 200),
            (0.3, 1.35, 300),
        ):
            if kind == "non_truncated" and level == 0.0:
                continue
            fid = 14.0 + 900 * (level - 0.12) ** 2 + cost * level * 5
            oracle, accuracy = 6.0 + 40 * level, 0.88 - 2 * (level - 0.1) ** 2 - cost * level / 40
            place = Place(kind=kind, level=level, logsnr=logsnr, ddpm_step=step)
            figures: dict[str, Any] = {"chained_fid": fid, "oracle_fid": oracle, "accuracy": accuracy}
            figures |= {"recall": 0.55 - (0.4 + cost / 20) * level, "seconds": 21.0 + level, "objective": fid}
            points.append(
                SearchPoint(
                    settings={f"{own}level": level, f"{own}augmentation": kind}, places={stage: place}, **figures
                )
            )
    return SearchSection(stage=stage, metric="chained_fid", varied=[f"{own}level", f"{own}augmentation"],
                         points=points, chosen=2)  # fmt: skip


@pytest.fixture(scope="session")
def report() -> Report:
    """Three stages, 8 -> 16 -> 32 px, with two searches."""
    names = ("data", "real/16", "classifier/judge", "train/base8", "train/sr16", "train/sr32", "chained/sr32", "search")
    return Report(
        title="demo: 8 -> 16 -> 32 px on drawn shapes <& more>",
        created="2026-11-21T10:53:56+00:00",
        revision="368107b2f6b1c0ffee5e5b8f9d8c7a6b5a493827",
        command="rayfall run jobs/experiments/demo.yaml --set seed=1",
        notes=["The source images are lossy (JPEG): no score here is comparable with published scores."],
        dataset=Dataset(
            name="drawn",
            image_size=32,
            classes=list(CLASSES),
            train=12000,
            val=3000,
            resize="box averages",
            lossy=False,
        ),
        scorer="Accuracy comes from a separately seeded classifier (0.985 on held-out real images at 32 px).",
        stages=[
            make_stage("base8", 8, None, (4.1, None, 0.9), 0.93),
            make_stage("sr16", 16, 8, (9.7, 3.2, 1.0), 0.9),
            make_stage("sr32", 32, 16, (14.4, 6.1, 1.1), 0.874),
        ],
        searches=[_search("sr16"), _search("sr32")],
        nodes=[
            NodeRow(name=name, digest=f"{7**number:012x}"[:12], seconds=3.0**number / 9, reused=number % 3 == 0,
                    where=f"results/{name}")
            for number, name in enumerate(names)
        ],
        settings={
            "name": "demo",
            "seed": 0,
            "stages": {"base8": {"size": 8, "net": {"kind": "unet", "multipliers": [1, 2]}, "flip": False}},
            "search": None,
        },
    )  # fmt: skip


@pytest.fixture(scope="session")
def compared_report(report: Report) -> Report:
    """A stage of 32 px beside the cascade, super-resolution scored against real images, a bound; and little else."""
    restored = Restoration(
        samples=1024, psnr=18.3, bicubic_psnr=21.5, ssim=None, bicubic_ssim=0.71, consistency=3.4e-5,
        chained_consistency=None,
    )  # fmt: skip
    bound = BoundScores(
        images=256, steps=1000, variance="learned", bits_per_dim=3.456, error=0.012, prior=1e-5, decoder=0.21
    )
    base, sr16, sr32 = report.stages
    alone = make_stage("single32", 32, None, (20.1, None, 1.1), 0.7).model_copy(update={"bound": bound})
    stages = [plain(base), plain(sr16, restoration=restored), plain(sr32), plain(alone)]
    cost: dict[str, Any] = {"size": 32, "parameters": 3_400_000, "training_seconds": 700.0}
    rows = [
        CascadeRow(name="main", stages=["base8", "sr16", "sr32"], net_calls=36, chained=sr32.chained, **cost),
        CascadeRow(name="alone", stages=["single32"], net_calls=64, chained=alone.chained, **cost),
    ]
    return report.model_copy(update={"stages": stages, "cascades": rows, "searches": []})


@pytest.fixture(scope="session")
def bare_report(report: Report) -> Report:
    """The least there can be: one stage, no scores, no grids, nothing searched, nothing examined."""
    stage = report.stages[0]
    needed = {name for name, field in StageSection.model_fields.items() if field.is_required()}
    kept = {name: getattr(stage, name) for name in needed}
    nothing: dict[str, Any] = {"chained": Scores(), "real": Scores(), "loss": [], "per_class": {}}
    least = StageSection(**kept | nothing | {"grid_png": None, "oracle_png": None, "real_png": None})
    return report.model_copy(update={"stages": [least], "searches": [], "nodes": [], "settings": {}, "notes": []})
