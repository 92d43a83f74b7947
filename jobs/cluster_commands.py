"""The commands of `jobs.cli` that speak to a cluster elsewhere: their options and their help, nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.job_status import show_status
from jobs.options import AsJson, Debug, ExperimentFile, Settings
from jobs.submitting import list_jobs, show_log, stop_job, submit_experiment
from jobs.work import Manner

Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The dashboard of the cluster's head, http://HEAD:8265; a token comes from RAY_AUTH_TOKEN.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or as much of its beginning as is its alone.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show the log until the job ends; Ctrl-C leaves it be.")]
Command = Annotated[str, typer.Option(help="What it does: run, train, search, ablate or evaluate.")]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="STAGE", help="With [cyan]--command train[/cyan]: this stage alone; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (submit, jobs, logs, stop, status):
        app.command()(command)


def submit(
    experiment: ExperimentFile,
    address: Address = None,
    settings: Settings = None,
    follow: Follow = False,
    command: Command = "run",
    only: Only = None,
    pass_env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Hand this variable of the shell over to the job, unseen by others, for example [cyan]'AWS_*'[/cyan]; "
            "may be repeated. Without, the job has the cluster's own credentials.",
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also when it was done before.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run an experiment as a job of a Ray cluster elsewhere. The same one is not started twice at a time.

    Carries this source tree without data, and goes on from what the store has. Exits as the job does.

    Example: [cyan]rayfall submit jobs/experiments/demo.yaml --address http://127.0.0.1:8265 --set
    store=/mnt/rayfall/store --follow[/cyan]
    """
    manner = Manner(as_json, debug)
    submit_experiment(
        experiment, settings, address, command, pass_env, manner, only=only or (), follow=follow, again=again
    )


def jobs(address: Address = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the jobs that were submitted to a cluster, oldest first.

    Example: [cyan]rayfall jobs --address http://127.0.0.1:8265[/cyan]
    """
    list_jobs(address, Manner(as_json, debug))


def logs(job: JobId, address: Address = None, follow: Follow = False, debug: Debug = False) -> None:
    """Print what a job printed; with --follow until it ends, and exit as it does.

    Example: [cyan]rayfall logs demo-run --follow --address http://127.0.0.1:8265[/cyan]
    """
    show_log(job, address, follow=follow, debug=debug)


def stop(job: JobId, address: Address = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Stop a job. What it stored stays; submitting it again goes on from there.

    Example: [cyan]rayfall stop demo-run --address http://127.0.0.1:8265[/cyan]
    """
    stop_job(job, address, Manner(as_json, debug))


def status(
    what: Annotated[str, typer.Argument(metavar="EXPERIMENT|ID", help="A YAML file, or the id of a job of a cluster.")],
    address: Address = None,
    settings: Settings = None,
    command: Command = "run",
    only: Only = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Which nodes of an experiment are done, running (and how long still), waiting or failed, and who is at work.

    Of a file that is read from its store, without any cluster; with --address also its last job there is told.
    Example: [cyan]rayfall status jobs/experiments/demo.yaml --set store=s3://bucket/prefix[/cyan]
    """
    show_status(what, settings, address, command, only, Manner(as_json, debug))
