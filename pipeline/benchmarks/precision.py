"""``python -m pipeline.benchmark precision``: the loss curve in bf16 beside that in float32, and what is noise in it.

The same stage is trained in both precisions under several seeds on drawn images. Runs of a seed have the same weights
to begin with, the same examples, times and noise, so their difference is what the precision does; what is noise is the
spread over seeds in float32. Beside the training loss stands that of the averaged weights on held-out images, with the
same times and noise for all, evaluated in float32.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline.data.drawn import CLASSES, draw
from stages.images import to_float
from stages.processor import prepare_processor
from stages.randomness import KeyedDraws
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, train_step

PRECISIONS = ("f32", "bf16")
TRAINED, HELD_OUT = 4096, 512  # images
STAGE = {
    "name": "base",
    "size": 16,
    "classes": len(CLASSES),
    "net": {"kind": "unet", "channels": 32, "multipliers": [1, 2], "blocks": 1, "attention": [8]},
}


class Curve(NamedTuple):
    """One training: the mean loss of each window of steps, and the loss on held-out images at the end."""

    windows: list[float]
    held_out: float


def add_precision_options(parser: argparse.ArgumentParser) -> None:
    """What the command line may say about this part."""
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=250, help="steps of a window, whose mean loss is compared")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)


def measure_precision(chosen: argparse.Namespace) -> dict[str, Any]:
    """All curves, printed when the last is done."""
    prepare_processor(1)
    console = Console(width=140)
    seeds = range(chosen.seeds)
    images = _images(TRAINED + HELD_OUT)
    curves: dict[str, list[Curve]] = {precision: [] for precision in PRECISIONS}
    for seed in seeds:
        for precision, found in curves.items():
            found.append(_train(images, precision, seed, chosen))
            console.print(f"seed {seed}, {precision}: held out {found[-1].held_out:.5f}", highlight=False)
    rows = _compared(curves, chosen.every)
    _print(console, rows, chosen)
    return {
        "curves": {name: [one._asdict() for one in found] for name, found in curves.items()},
        "rows": rows,
    }


def _images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawn images uint8 (count, S, S, 3) and their labels (count,)."""
    drawn = [draw(0, index, STAGE["size"]) for index in range(count)]  # type: ignore[arg-type]
    return torch.from_numpy(np.stack([image for image, _ in drawn])), torch.tensor([label for _, label in drawn])


def _train(images: tuple[torch.Tensor, torch.Tensor], precision: str, seed: int, chosen: argparse.Namespace) -> Curve:
    training = TrainingSpec.model_validate(
        {"steps": chosen.steps, "batch_size": chosen.batch, "learning_rate": 1e-3, "ema": 0.995, "precision": precision}
    )
    stage = Stage.build(StageSpec.model_validate(STAGE))
    state, positions = TrainState.start(stage, training, seed), torch.arange(chosen.batch)
    order, losses = KeyedDraws(seed, "order"), []
    while state.step < chosen.steps:
        taken = (order.uniform("examples", state.step, positions) * TRAINED).long()
        batch = Batch(to_float(images[0][taken]), images[1][taken], positions)
        losses.append(float(train_step(stage, state, batch, training=training, seed=seed).loss))
    windows = [statistics.fmean(losses[first : first + chosen.every]) for first in range(0, chosen.steps, chosen.every)]
    return Curve(windows, _held_out_loss(stage, state, images))


@torch.inference_mode()
def _held_out_loss(stage: Stage, state: TrainState, images: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Of the averaged weights, in float32, at times and noise that are the same for every training."""
    pixels, labels, draws = images[0][TRAINED:], images[1][TRAINED:], KeyedDraws(0, "held out")
    found = []
    for places in torch.arange(HELD_OUT).split(64):
        batch = to_float(pixels[places]), labels[places]
        found.append(stage.loss(state.ema, *batch, draws, 0, places, HELD_OUT))
    return float(torch.cat(found).mean())


def _compared(curves: Mapping[str, Sequence[Curve]], every: int) -> list[dict[str, Any]]:
    """A row for each window, and one for the images held out: float32, its spread, and what bf16 differs by."""
    plain, short = (curves[name] for name in PRECISIONS)
    columns = [
        (f"{number * every + 1} to {(number + 1) * every}", [one.windows[number] for one in plain],
         [one.windows[number] for one in short])
        for number in range(len(plain[0].windows))
    ]  # fmt: skip
    columns.append(("held out, averaged weights", [one.held_out for one in plain], [one.held_out for one in short]))
    rows = []
    for name, exact, rounded in columns:
        apart = [ours - theirs for ours, theirs in zip(rounded, exact, strict=True)]
        rows.append(
            {
                "steps": name,
                "f32": statistics.fmean(exact),
                "noise": statistics.stdev(exact) if len(exact) > 1 else None,
                "bf16_less_f32": statistics.fmean(apart),
                "least": min(apart),
                "most": max(apart),
            }
        )
    return rows


def _print(console: Console, rows: Sequence[Mapping[str, Any]], chosen: argparse.Namespace) -> None:
    table = Table(
        "loss of steps", "f32", "spread over seeds", "bf16 − f32, same seed", "least to most",
        title=f"{chosen.seeds} seeds, {chosen.steps} steps of {chosen.batch} images",
    )  # fmt: skip
    for row in rows:
        noise = "" if row["noise"] is None else f"{row['noise']:.5f}"
        between = f"{row['least']:+.5f} to {row['most']:+.5f}"
        table.add_row(row["steps"], f"{row['f32']:.5f}", noise, f"{row['bf16_less_f32']:+.5f}", between)
    console.print(table)
