"""``rayfall ablate``: the arguments, and what is printed. What it does stands in ``pipeline.ablation``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.endings import FAILED, ending
from jobs.options import AsJson, Debug, DryRun, ExperimentFile, Settings
from jobs.progress import display, duration
from jobs.work import command_of, page
from pipeline.ablation import words
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.report.wording import estimate


def ablate(
    experiment: ExperimentFile,
    settings: Settings = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare the cells of the experiment's ablation section with its baseline, over several seeds.

    Every cell has the same seeds and noise; where budgets differ the report says so. A cell or a seed that is added
    later runs alone; a replicate that fails is shown as failed, is tried again by the next call, and makes the exit
    code 1.

    Example: [cyan]rayfall ablate jobs/experiments/ablations/augmentation.yaml[/cyan]
    """
    with ending("ablate", as_json=as_json, debug=debug) as end:
        resolved = load_experiment(experiment, settings or ())
        from pipeline.ablation import workflow

        if dry_run:
            end.figures = workflow.plan_ablation(resolved)
            tell = print_ablation_plan
        else:
            end.store = resolved.store
            with display(end.console) as events:
                end.figures = workflow.run_ablation(
                    resolved,
                    events=events,
                    command=command_of("ablate", experiment, settings),
                    program=_program(experiment, settings),
                )
            tell = print_ablation
        if not as_json:
            tell(page(), end.figures)
    if end.figures.get("failed"):
        raise typer.Exit(FAILED)


def report_ablation(
    resolved: Experiment, file: Path, settings: Sequence[str] | None, out: Path | None
) -> Mapping[str, Any]:
    """Write the report of an ablation from what is stored of it."""
    from pipeline.ablation import workflow

    command = command_of("ablate", file, settings)
    return workflow.report_ablation(resolved, path=out, command=command, program=_program(file, settings))


def _program(file: Path, settings: Sequence[str] | None) -> list[str]:
    """The beginning of the commands that run one cell alone."""
    return shlex.split(command_of("run", file, settings))


def print_ablation_plan(console: Console, figures: Mapping[str, Any]) -> None:
    """What ``plan_ablation`` found. A count that a search still to come may change has a ≈."""
    rows = figures["replicates"]
    failed = any(row["failed"] for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("cell", "seed", "stored", "to compute", "stages to train"):
        table.add_column(column, justify="right" if column in ("seed", "stored", "to compute") else "left")
    if failed:
        table.add_column("failed last time")
    for row in rows:
        stored = row["nodes"] - row["to_compute"] - row["shared"]
        shared = f" + {row['shared']} shared" if row["shared"] else ""
        about = "≈ " if row["estimated"] else ""
        told = [row["cell"], str(row["seed"]), str(stored), f"{about}{row['to_compute']}{shared}"]
        told += [", ".join(row["trains"]), *([row["failed"] or ""] if failed else [])]
        table.add_row(*map(escape, told))
    console.print(table)
    trained, computed = sum(len(row["trains"]) for row in rows), sum(row["to_compute"] for row in rows)
    estimated = any(row["estimated"] for row in rows)
    why = " ≈: a search is still to come, and what it chooses decides." if estimated else ""
    console.print(
        f"\n{len(rows)} replicates: {computed} results to compute, {trained} of them trainings.{why} "
        "Nothing was started.",
        highlight=False,
    )


def print_ablation(console: Console, figures: Mapping[str, Any]) -> None:
    """What ``run_ablation`` came to: a row for each cell, then sentences."""
    metrics = list(next(iter(figures["cells"].values()))["spread"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cell", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.replace("_", " ").replace("fid", "FID"), justify="right", no_wrap=True)
    table.add_column("chained FID - baseline", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    for name, cell in figures["cells"].items():
        marked = f"{name} (baseline)" if name == figures["baseline"] else name
        values = [_value(cell[metric], cell["spread"][metric]) for metric in metrics]
        difference = cell["differences"].get("chained_fid")
        table.add_row(marked, str(cell["n"]), *values, *_difference(difference))
    console.print(table)
    console.print("mean ± standard deviation over seeds; differences with simultaneous intervals", style="dim")
    for sentence in (*figures["verdict"], *figures["equalities"], figures["why"]):
        console.print(sentence, highlight=False, soft_wrap=True)
    for name, why in figures.get("failed", {}).items():
        console.print(f"{name} failed: {why}", style="red", markup=False, highlight=False, soft_wrap=True)
    sharing = figures["sharing"]
    console.print(
        f"{sharing['trainings_run']} trainings served {sharing['trainings_asked']}; computing took "
        f"{duration(sharing['spent_seconds'])} of {sharing['device']} time, separate experiments would have taken "
        f"{duration(sharing['separate_seconds'])}",
        highlight=False,
    )
    for key in ("report", "tracking"):
        if key in figures:
            console.print(f"{key}  {figures[key]}", markup=False, highlight=False, soft_wrap=True)
    if "seconds" in figures:
        console.print(f"took  {duration(figures['seconds'])}", highlight=False)


def _value(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.4g}" if spread is None else estimate(mean, spread)


def _difference(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None or found["low"] is None:
        return "–", "–"
    told = f"{found['mean']:+.3g} {words.interval('chained_fid', found['low'], found['high'])}"
    return told, words.probability(found["p"]).removeprefix("p ").removeprefix("= ")
