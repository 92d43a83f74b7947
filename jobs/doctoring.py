"""The ``doctor`` command: what would go wrong, before it costs anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jobs.endings import FAILED, ending
from jobs.options import AsJson, Debug, Settings
from jobs.work import page
from pipeline.experiment import load_experiment

if TYPE_CHECKING:
    from pipeline.doctor.findings import Finding


def doctor(
    experiment: Annotated[
        Path | None,
        typer.Argument(metavar="EXPERIMENT", help="Also look at its store, tracking and data.", show_default=False),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster whose nodes to examine: HOST:PORT, or auto for the one that this machine belongs to.",
            show_default="the experiment's, else this machine",
        ),
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Also try what its GPUs can do: bf16, compiled nets, drawing, sharing, NCCL.")
    ] = False,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check store, tracking server, data, cluster and every node of it: a line each, with what to do. Leaves nothing.

    Exits with 1 where a check failed. Example: [cyan]rayfall doctor my.yaml --address auto --gpu[/cyan]
    """
    with ending("doctor", as_json=as_json, debug=debug) as end:
        resolved = None if experiment is None else load_experiment(experiment, settings or ())
        from pipeline.doctor.run import examine

        console = page()

        def tell(finding: Finding) -> None:
            if not as_json:
                mark = "[green]ok    [/green]" if finding.ok else "[red]failed[/red]"
                console.print(f"{mark} {escape(finding.name)}: {escape(finding.told)}", soft_wrap=True, highlight=False)

        place = address or (resolved.resources.address if resolved is not None else None)
        found = examine(resolved, place, gpu=gpu, tell=tell)
        failed = sum(not finding.ok for finding in found)
        end.figures = {"ok": not failed, "checks": [asdict(finding) for finding in found]}
    if failed:
        raise typer.Exit(FAILED)
