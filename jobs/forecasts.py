"""The forecast of ``rayfall plan --gpus`` for people: a table for each stage, and what it is reckoned with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "gpus": ("GPUs", lambda v: f"{v:,}"),
    "share": ("images each", lambda v: f"{v:,}"),
    "compute": ("compute ms", lambda v: f"{1e3 * v:,.1f}"),
    "all_reduce": ("all-reduce ms", lambda v: f"{1e3 * v:,.1f}"),
    "exposed": ("exposed ms", lambda v: f"{1e3 * v:,.1f}"),
    "data": ("data ms", lambda v: f"{1e3 * v:,.2f}"),
    "step": ("step ms", lambda v: f"{1e3 * v:,.1f}"),
    "images_per_second": ("images/s", lambda v: f"{v:,.0f}"),
    "efficiency": ("efficiency", lambda v: f"{v:.1%}"),
    "hours": ("hours", lambda v: f"{v:,.1f}"),
    "gpu_hours": ("GPU-hours", lambda v: f"{v:,.0f}"),
    "bound": ("bound by", str),
}


def print_forecast(console: Console, figures: Mapping[str, Any]) -> None:
    """What ``pipeline.forecasting.forecast`` returned."""
    for name, stage in figures["stages"].items():
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading, _ in COLUMNS.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for row in stage["rows"]:
            if "impossible" not in row:
                table.add_row(*(show(row[key]) for key, (_, show) in COLUMNS.items()))
        _say(console, f"\nForecast of {name}, a batch of {stage['batch']:,}, {_share_of_peak(figures, stage)}")
        if table.row_count:
            console.print(table)
        for row in stage["rows"]:
            if "impossible" in row:
                _say(console, f"{row['gpus']:,} GPUs: {row['impossible']}.")
    loop = "Of the loop around a step nothing was measured: it adds nothing, and all that may be hidden is."
    if figures["loop"] is not None:
        loop = f"Measured of the loop around a step: {figures['loop']}."
    _say(
        console,
        f"\nNodes of {figures['gpus_per_node']:,} {figures['gpu']}: {figures['link_gb']:g} GB/s from GPU to GPU, "
        f"{figures['network_gbit']:g} Gbit/s a node, each way; {figures['read_mb']:g} MB/s of the data set a node. "
        f"Links and memory count as on their data sheets.\n{loop}\n"
        "A forecast, not a measurement; docs/speed.md has the equations. Efficiency is against one GPU, whether or not "
        "the batch fits there.",
    )


def _share_of_peak(figures: Mapping[str, Any], stage: Mapping[str, Any]) -> str:
    """Where the share of the peak comes from, and what it is worth where it is another machine's."""
    share = f"{stage['utilisation']:.0%} of the peak"
    if stage["none_fits"]:
        return f"{share} as stated; what was measured is of another precision, or compiled where this is not."
    if stage["calibration"] is None:
        return f"{share} as stated; nothing was measured."
    gpu = figures["gpu"]
    other = "" if stage["calibrated_on"] == gpu else f" That was no {gpu}; that it reaches the same share is assumed."
    return f"{share} as measured: {stage['calibration']}.{other}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
