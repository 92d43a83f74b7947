"""``submit``, ``jobs``, ``logs`` and ``stop``: what they do. Their options are in `jobs.cluster_commands`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from jobs.endings import FAILED, INTERRUPTED, WRONG_INPUT, Ending, ending
from jobs.progress import duration
from jobs.work import Manner, page
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.submission.client import Client, Job
    from pipeline.submission.order import Order
    from pipeline.submission.submit import Submission

START = 90.0  # seconds in which a job that was sent should have said its first word
RAYS_LINE = "Running entrypoint for job "
STOP = 75.0  # seconds in which a job that was told to stop should have ended


def connect(address: str | None) -> Client:
    """The jobs of the cluster at ``address``. UserError within seconds where there is none, or we may not in."""
    if address is None:
        raise UserError("name the cluster: --address http://HEAD:8265, or RAY_API_SERVER_ADDRESS")
    from pipeline.submission.reaching import find_head

    head = find_head(address)
    from pipeline.submission.client import Client

    return Client(head)


def submit_experiment(
    file: Path,
    settings: Sequence[str] | None,
    address: str | None,
    command: str,
    passed: Sequence[str] | None,
    manner: Manner,
    *,
    only: Sequence[str] = (),
    follow: bool,
    again: bool,
) -> None:
    """Check, send and follow if asked for. Exits as the job does, where it is known."""
    with ending("submit", as_json=manner.as_json, debug=manner.debug) as end:
        from pipeline.submission.order import read_order

        order = read_order(file, settings or (), command, passed or (), only=only, again=again)
        client = connect(address)
        from pipeline.submission.submit import await_start, submit

        _warn_of_credentials(end, order)
        submission = submit(client, order)
        job = submission.job
        _tell_submission(end, client, submission)
        if follow and submission.found != "done":
            job = _follow(end, client, job)
        elif submission.found == "new":
            job = await_start(client, job, START)
            _tell_start(end, client, job)
        if not manner.as_json and not follow:
            print(job.id)
        end.figures = {"found": submission.found, **job.figures()}
    _leave(job, told=submission.found != "done")


def _warn_of_credentials(end: Ending, order: Order) -> None:
    from pipeline.submission.credentials import USUAL

    if found := [name for name in USUAL if name in os.environ and name not in order.passed]:
        end.say(
            f"{', '.join(found)} of this shell stay here; the job uses the cluster's own (--pass-env hands over)",
            "yellow",
        )


def _tell_submission(end: Ending, client: Client, submission: Submission) -> None:
    job, ago = submission.job, duration(max(0.0, time.time() - (submission.job.ended or submission.job.began)))
    if submission.found == "underway":
        end.say(f"{job.id} is {job.state.lower()} already, since {ago}; nothing was sent{_other_code(job)}", "yellow")
        end.say(f"{_how(client, job, 'logs', ' --follow')} shows it", "dim")
    elif submission.found == "done":
        end.say(
            f"{job.id} did this {ago} ago; nothing was sent{_other_code(job)} (--again runs it anew, from what is "
            "stored)",
            "green",
        )
    else:
        assert submission.cargo is not None, "it was packed"
        end.say(f"carried: {submission.cargo.told()}", "dim")
        if changes := job.metadata.get("rayfall.changes"):
            end.say(f"not committed: {changes}; carried as it is, and recorded as changes", "yellow")
        end.say(f"submitted {job.id} (attempt {job.attempt})", "green")


def _other_code(job: Job) -> str:
    from pipeline.submission.order import ROOT
    from pipeline.submission.source import source_state

    here = source_state(ROOT)
    theirs = job.metadata.get("rayfall.revision", ""), job.metadata.get("rayfall.changes_digest", "")
    return "" if theirs == (here.revision, here.digest) else ", although the code here is another by now"


def _tell_start(end: Ending, client: Client, job: Job) -> None:
    if job.over:
        end.say(last_words(client.get_job_logs(job.id)) or job.message, "green" if job.state == "SUCCEEDED" else "red")
    end.say(f"follow: {_how(client, job, 'logs', ' --follow')}; stop: {_how(client, job, 'stop')}", "dim")


def last_words(log: str) -> str:
    """The last line of a job's log that says something. Ray's own first line may come behind what a job says at once:
    it is written when Ray lets go of the file."""
    said = (line.strip() for line in reversed(log.splitlines()) if not line.startswith(RAYS_LINE))
    return next((line for line in said if line), "")


def _how(client: Client, job: Job, command: str, option: str = "") -> str:
    return f"rayfall {command} {job.id}{option} --address {client.head.told}"


def _follow(end: Ending, client: Client, job: Job) -> Job:
    """Show the log to its end. Ctrl-C leaves the job alone."""
    from pipeline.submission.following import Follower, Gone

    def show(text: str) -> None:
        print(text, end="", flush=True)

    try:
        return Follower(client, job.id, show).to_the_end()
    except KeyboardInterrupt:
        end.say(
            f"\nNo longer following; the job goes on. Again: {_how(client, job, 'logs', ' --follow')}; "
            f"stop it: {_how(client, job, 'stop')}",
            "yellow",
        )
        raise typer.Exit(INTERRUPTED) from None
    except Gone as gone:
        end.say(str(gone), "red")
        raise typer.Exit(FAILED) from None


def _leave(job: Job, *, told: bool = True) -> None:
    """Exit with the verdict of a job that is over: 0, 1, or 2 where its input was wrong."""
    if not job.over or job.state == "SUCCEEDED":
        return
    if told:
        Console(stderr=True).print(f"{job.id} {job.state.lower()}", style="red", markup=False, highlight=False)
    raise typer.Exit(WRONG_INPUT if job.exit_code == WRONG_INPUT else FAILED)


def list_jobs(address: str | None, manner: Manner) -> None:
    """Our jobs of a cluster, newest last."""
    with ending("jobs", as_json=manner.as_json, debug=manner.debug) as end:
        found = connect(address).jobs()
        end.figures = {"jobs": [job.figures() for job in found]}
        if not manner.as_json:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name in ("id", "experiment", "command", "attempt", "state", "began", "for", "revision"):
                table.add_column(name, no_wrap=True)
            for job in found:
                began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.began))
                taken = duration((job.ended or time.time()) - job.began)
                revision = job.metadata.get("rayfall.revision", "")[:12]
                words = (job.id, job.experiment, job.command, str(job.attempt), job.state.lower(), began, taken)
                table.add_row(*words, revision)
            page().print(table)


def show_log(name: str, address: str | None, *, follow: bool, debug: bool) -> None:
    """The log of a job, to its end if asked to follow; then exits as the job did."""
    with ending("logs", as_json=False, debug=debug) as end:
        client = connect(address)
        job = client.find(name)
        if follow:
            job = _follow(end, client, job)
        else:
            sys.stdout.write(client.get_job_logs(job.id))
    if follow:
        _leave(job)


def stop_job(name: str, address: str | None, manner: Manner) -> None:
    """Tell a job to stop, and wait until it did."""
    with ending("stop", as_json=manner.as_json, debug=manner.debug) as end:
        client = connect(address)
        job = client.find(name)
        if job.over:
            end.say(f"{job.id} {job.state.lower()} already", "yellow")
        else:
            client.stop_job(job.id)
            deadline = time.monotonic() + STOP
            while not job.over and time.monotonic() < deadline:
                time.sleep(0.3)
                job = client.job(job.id)
            if not job.over:
                raise RuntimeError(f"{job.id} was told to stop and did not within {STOP:.0f} s")
            end.say(f"{job.id} {job.state.lower()}; submitting it again goes on from what is stored", "green")
        end.figures = job.figures()
