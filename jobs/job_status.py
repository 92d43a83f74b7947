"""``rayfall status``: how far an experiment is by its store, or a job by what it logs, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jobs.endings import ending
from jobs.job_states import NodeState, states_of
from jobs.progress import duration
from jobs.standing import print_standing, standing_in_store
from jobs.submitting import connect, last_words
from jobs.work import Manner, page, require_stage
from pipeline.addresses import without_secret
from pipeline.errors import UserError
from pipeline.experiment import load_experiment

if TYPE_CHECKING:
    from pipeline.experiment_spec import Experiment
    from pipeline.submission.client import Client, Job


def show_status(
    what: str,
    settings: Sequence[str] | None,
    address: str | None,
    command: str,
    only: Sequence[str] | None,
    manner: Manner,
) -> None:
    """How far an experiment is, by its store and by its job on the cluster at ``address``; or the job with an id."""
    with ending("status", as_json=manner.as_json, debug=manner.debug) as end:
        experiment = None
        if what.endswith((".yaml", ".yml")) or Path(what).is_file():
            experiment = load_experiment(what, settings or ())
            for name in only or ():
                require_stage(experiment, name, "--only")
        elif settings or only:
            raise UserError(f"{what} is a job, which has its settings; --set and --only are for an experiment's file")
        if experiment is None and address is None:
            raise UserError(
                f"there is no file {what}; for a job of that id name its cluster: --address http://HEAD:8265"
            )
        figures: dict[str, Any] = {}
        if address is not None:
            try:
                figures |= _job_figures(connect(address), what, experiment, settings, command, only, manner)
            except UserError as error:
                if experiment is None or not _is_reachable(experiment):
                    raise
                end.say(str(error), "yellow")  # the store knows more than nothing
        if experiment is not None and (address is None or _is_reachable(experiment)):
            found = standing_in_store(experiment)
            figures["standing"] = {"store": without_secret(experiment.store), **found.figures()}
            if not manner.as_json:
                print_standing(page(), experiment, found)
        end.figures = figures


def _is_reachable(experiment: Experiment) -> bool:
    """Whether its store may be asked from here; a folder of the cluster need not be a folder here."""
    return "://" in experiment.store or Path(experiment.store).expanduser().is_dir()


def _job_figures(
    client: Client,
    what: str,
    experiment: Experiment | None,
    settings: Sequence[str] | None,
    command: str,
    only: Sequence[str] | None,
    manner: Manner,
) -> dict[str, Any]:
    """The job and what its log says of nodes, which is printed where no store can be asked."""
    job = client.find(what) if experiment is None else _last_job(client, what, settings, command, only, experiment)
    nodes = states_of(client.get_job_logs(job.id))
    if job.over:  # what ran then runs no more
        ended = "waiting" if job.state == "STOPPED" else "failed"
        nodes = {
            name: NodeState(ended) if node.state == "running" else node  # type: ignore[arg-type]
            for name, node in nodes.items()
        }
    if not manner.as_json:
        shown = {} if experiment is not None and _is_reachable(experiment) else nodes
        _print_status(page(), job, shown, "" if job.state == "SUCCEEDED" else job.message)
    return {"job": job.figures(), "nodes": {name: asdict(node) for name, node in nodes.items()}}


def _last_job(
    client: Client,
    what: str,
    settings: Sequence[str] | None,
    command: str,
    only: Sequence[str] | None,
    experiment: Experiment,
) -> Job:
    """The last attempt at the experiment in the file ``what``."""
    from pipeline.submission.client import attempts
    from pipeline.submission.order import Order, command_of

    order = Order(Path(what), settings or (), command_of(command), {}, experiment, only=tuple(only or ()))
    found = attempts(client.jobs(), order.digest)
    if not found:
        raise UserError(
            f"{client.head.told} has no job of {what} with these settings; `rayfall jobs` lists those that it has"
        )
    return found[-1]


def _print_status(console: Console, job: Job, nodes: Mapping[str, NodeState], message: str) -> None:
    taken = duration((job.ended or time.time()) - job.began)
    console.print(f"{job.id}: {job.state.lower()}, {taken}, attempt {job.attempt}", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "state", "done", "time"):
        table.add_column(name, no_wrap=True)
    for name, node in nodes.items():
        amount = "" if node.done is None else f"{node.done} of {node.total}" if node.total else f"{node.done}"
        told = f"{node.left} left" if node.left else node.took or ""
        table.add_row(name, node.state, amount, told)
    if nodes:
        console.print(table)
    if job.over and (said := last_words(message)):
        console.print(said, markup=False, highlight=False, soft_wrap=True)
