"""``rayfall plan`` for people: one table, a column for each stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "size": ("image", lambda v: f"{v} px"),
    "parameters": ("parameters", lambda v: f"{v:,}"),
    "forward_gflops": ("forward, GFLOP an image", lambda v: f"{v:,.4g}"),
    "training_gflops": ("training, GFLOP an image", lambda v: f"{v:,.4g}"),
    "batch_per_worker": ("batch of a worker", lambda v: f"{v:,}"),
    "activation_gib": ("activations of a worker, GiB", lambda v: f"{v:.3g}"),
    "state_gib": ("weights, gradients, AdamW, averages, GiB", lambda v: f"{v:.3g}"),
    "checkpoint_gib": ("checkpoint, GiB", lambda v: f"{v:.3g}"),
    "epochs": ("epochs", lambda v: f"{v:,.4g}"),
    "gpu_hours": ("training, GPU-hours", lambda v: f"{v:,.4g}"),
    "hours": ("training, hours on all workers", lambda v: f"{v:,.4g}"),
    "read_mb_per_second": ("read by a worker, MB/s", lambda v: f"{v:.3g}"),
    "net_calls": ("net calls to draw an image", lambda v: f"{v:,}"),
    "sampling_gpu_hours": ("drawing the evaluation's samples, GPU-hours", lambda v: f"{v:,.3g}"),
}


def print_reckoning(console: Console, figures: Mapping[str, Any]) -> None:
    """What ``pipeline.planning.reckon`` returned, and ``reckon_ablation`` where there is one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    for name in figures["plan"]:
        table.add_column(name, justify="right", no_wrap=True)
    for key, (heading, show) in ROWS.items():
        table.add_row(heading, *(show(row[key]) for row in figures["plan"].values()))
    console.print(table)
    data = figures["data"]
    size = f"{data['bytes_per_image'] / 1e3:.3g} kB an image"
    if not data["exact"]:
        size = f"at most {size} (raw pixels: the data set is not there yet)"
    console.print(
        f"\n{figures['workers']} workers of {figures['gpu']}: {figures['training_gpu_hours']:,.4g} GPU-hours of "
        f"training, {figures['sampling_gpu_hours']:,.3g} of sampling.\n{data['train']:,} images of {data['classes']:,} "
        f"classes in {data['shards']:,} shards, {size}.{_of_ablation(figures.get('ablation'))}\n"
        "A multiply-add counts as two FLOP. Nothing was started.",
        highlight=False,
        soft_wrap=True,
    )


def _of_ablation(figures: Mapping[str, Any] | None) -> str:
    """The line on an ablation, nothing without one."""
    if figures is None:
        return ""
    searches = ""
    if figures["searches"]:
        searches = f"; the trainings and draws of {figures['searches']:,} searches come on top"
    return (
        f"\nThe ablation, {figures['cells']:,} cells x {figures['seeds']:,} seeds: {figures['trainings']:,} trainings "
        f"(of {figures['trainings_asked']:,} asked for, the others are shared) in {figures['training_gpu_hours']:,.4g} "
        f"GPU-hours, and {figures['sampling_gpu_hours']:,.3g} of sampling{searches}."
    )
