"""The ``rayfall`` command: argv -> load the experiment -> one call. The help texts here are the documentation.

Progress goes to standard error, results to standard output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jobs.ablating import ablate, print_ablation, report_ablation
from jobs.cluster_commands import register as register_cluster_commands
from jobs.doctoring import doctor
from jobs.ingest_command import ingest
from jobs.options import AsJson, Debug, DryRun, ExperimentFile, Settings
from jobs.plan_command import plan
from jobs.printing import print_figures
from jobs.scoring_command import evaluate
from jobs.serving import show_runs
from jobs.work import Manner, command_of, require_stage, towards, work
from pipeline.events import Events
from pipeline.experiment_spec import Experiment

SHIPPED = Path(__file__).parent / "experiments"

app = typer.Typer(
    name="rayfall",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 your input is wrong, 130 interrupted (the same command goes on).",
)


def main() -> None:
    """The console command."""
    app(prog_name="rayfall")


def _print_version(asked: bool) -> None:
    if asked:
        print(version("rayfall"))
        raise typer.Exit


@app.callback()
def describe(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, search and evaluate cascades of diffusion models: one YAML per experiment, one graph that remembers.

    Every command computes only what is missing. Kill it whenever you like; the same command goes on from there.
    """
    del show_version  # its callback has answered


app.command()(ingest)
app.command()(doctor)


@app.command()
def run(
    experiment: ExperimentFile,
    settings: Settings = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """The whole experiment: data, training, search, evaluation and the report.

    Example: [cyan]rayfall run jobs/experiments/demo.yaml --set seed=1[/cyan]
    """
    work(
        "run",
        experiment,
        settings,
        Manner(as_json, debug, dry_run),
        towards("report", command=command_of("run", experiment, settings)),
    )


app.command()(plan)


@app.command()
def train(
    experiment: ExperimentFile,
    settings: Settings = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Train this stage alone; may be repeated.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train the stages, at the same time where the machine has room; goes on from the last checkpoint.

    Example: [cyan]rayfall train jobs/experiments/demo.yaml --only sr16 --set stages.sr16.training.steps=2000[/cyan]
    """
    work("train", experiment, settings, Manner(as_json, debug), towards("train", only or ()))


@app.command()
def search(
    experiment: ExperimentFile, settings: Settings = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Walk the experiment's search section, training first what is not trained, and print what it chose.

    Example: [cyan]rayfall search jobs/experiments/demo.yaml --set search.samples=256[/cyan]
    """
    work("search", experiment, settings, Manner(as_json, debug), towards("search"))


app.command()(ablate)
app.command()(evaluate)


@app.command()
def sample(
    experiment: ExperimentFile,
    stage: Annotated[
        str | None, typer.Option(help="Its cascade up to here; all of the main one when left out.")
    ] = None,
    count: Annotated[int, typer.Option(help="How many images.", min=1)] = 16,
    label: Annotated[str | None, typer.Option(help="A class name; all classes in turn when left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed than the experiment's evaluation.seed.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files and their grid.png.")] = Path("outputs/samples"),
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw images from the trained cascade as PNG files and one grid.

    Example: [cyan]rayfall sample jobs/experiments/demo.yaml --stage sr32 --count 64 --out outputs/demo[/cyan]
    """

    def draw(resolved: Experiment, events: Events) -> Mapping[str, Any]:
        if stage is not None:
            require_stage(resolved, stage, "--stage")
        from pipeline import drawing

        return drawing.draw_samples(
            resolved, stage=stage, count=count, label=label, seed=seed, folder=out, events=events
        )

    work("sample", experiment, settings, Manner(as_json, debug), draw)


@app.command()
def report(
    experiment: ExperimentFile,
    out: Annotated[Path | None, typer.Option(help="The HTML file to write; inside the store when left out.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the report again from what the store holds; computes nothing.

    Of an experiment with an ablation section it is the ablation's, of as much as is there.
    Example: [cyan]rayfall report jobs/experiments/demo.yaml --out demo.html[/cyan]
    """

    def write(resolved: Experiment, events: Events) -> Mapping[str, Any]:
        del events  # nothing here takes long
        if resolved.ablation is not None:
            return report_ablation(resolved, experiment, settings, out)
        from pipeline import workflow

        return workflow.make_report(resolved, path=out, command=command_of("run", experiment, settings))

    def tell(console: Console, figures: Mapping[str, Any]) -> None:
        (print_ablation if "baseline" in figures else print_figures)(console, figures)

    work("report", experiment, settings, Manner(as_json, debug), write, tell)


@app.command()
def ui(
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="The experiment whose runs to show.", show_default="the demo")
    ] = SHIPPED / "demo.yaml",
    settings: Settings = None,
    port: Annotated[int, typer.Option(help="Port of the web page on this machine.", min=1, max=65535)] = 5000,
    debug: Debug = False,
) -> None:
    """Open MLflow's web page on the experiment's runs: metrics over steps, sample grids, the report.

    Experiments with the same store share one page. Example: [cyan]rayfall ui --port 5001[/cyan]
    """
    show_runs(experiment, settings, port, debug=debug)


register_cluster_commands(app)


@app.command()
def schema() -> None:
    """Print the JSON schema of an experiment, for editors that complete and check YAML.

    The experiments that ship name it in their first line: [cyan]# yaml-language-server: $schema=...[/cyan]
    """
    print(json.dumps(Experiment.model_json_schema(), indent=2))
