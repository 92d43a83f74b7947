"""``rayfall plan``: what an experiment would cost, and how its trainings would scale. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.forecasts import print_forecast
from jobs.options import AsJson, Debug, ExperimentFile, Settings
from jobs.plans import print_reckoning
from jobs.work import Manner, work
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment

if TYPE_CHECKING:
    from pipeline.events import Events
    from pipeline.machines import Cluster

FORECAST = "Forecast"  # a panel of the help


def plan(
    experiment: ExperimentFile,
    gpu: Annotated[
        str, typer.Option(help="Whose peak to reckon with: a100, a10g, b200, h100, h200, l4, l40s, v100.")
    ] = ("h100"),
    utilisation: Annotated[float, typer.Option(help="Share of that peak which training reaches, above 0 to 1.")] = 0.4,
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Forecast the time of a step on so many GPUs, such as 8,64,512; the batch stays what it is.",
            rich_help_panel=FORECAST,
        ),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="What [cyan]python -m stages.benchmark --json FILE[/cyan] or [cyan]python -m pipeline.benchmark "
            "training --json FILE[/cyan] wrote, to calibrate the forecast with; may be repeated.",
            rich_help_panel=FORECAST,
        ),
    ] = None,
    network_gbit: Annotated[
        float | None,
        typer.Option(
            help="Gbit/s of a node, each way.",
            show_default="that of AWS's node of eight such GPUs",
            rich_help_panel=FORECAST,
        ),
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(help="GPUs of a node.", show_default="8", rich_help_panel=FORECAST)
    ] = None,
    read_mb: Annotated[
        float | None,
        typer.Option(help="MB/s of the data set that a node reads.", show_default="1000", rich_help_panel=FORECAST),
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What every stage would cost: parameters, FLOPs, memory, GPU-hours, reading. Starts nothing, needs no data.

    Example: [cyan]rayfall plan jobs/experiments/cdm_256.yaml --gpu h200 --utilisation 0.45[/cyan]

    With a forecast: [cyan]rayfall plan jobs/experiments/cdm_64.yaml --gpus 8,64,512 --network-gbit 400[/cyan]
    """
    told = {"network_gbit": network_gbit, "gpus_per_node": gpus_per_node, "read_mb": read_mb}
    given = {name: value for name, value in told.items() if value is not None}

    def reckon(resolved: Experiment, events: Events) -> Mapping[str, Any]:
        del events  # seconds
        from pipeline.calibration import read_measured
        from pipeline.machines import Machine

        machine, cluster = Machine(gpu, utilisation), _cluster(gpus, given, measured or ())
        found = read_measured(measured or ())
        from pipeline import planning  # brings numpy, which no mistake in an option waits for

        figures = planning.reckon(resolved, machine)
        if resolved.ablation is not None:
            from pipeline.ablation.planning import reckon_ablation

            figures["ablation"] = reckon_ablation(resolved, machine)
        if cluster is not None:
            from pipeline.forecasting import forecast

            figures["forecast"] = forecast(resolved, figures, machine, cluster, found)
        return figures

    work("plan", experiment, settings, Manner(as_json, debug), reckon, _print)


def _cluster(gpus: str | None, given: Mapping[str, Any], measured: Sequence[Path]) -> Cluster | None:
    """What a forecast is asked for; None without ``--gpus``, which the other options of a forecast need."""
    from pipeline.machines import Cluster, numbers_of_gpus

    if gpus is not None:
        return Cluster(numbers_of_gpus(gpus), **given)
    if given or measured:
        option = next(iter(given), "measured").replace("_", "-")
        raise UserError(f"--{option} is of a forecast; say for how many GPUs, as in --gpus 8,64,512")
    return None


def _print(console: Console, figures: Mapping[str, Any]) -> None:
    print_reckoning(console, figures)
    if "forecast" in figures:
        print_forecast(console, figures["forecast"])
