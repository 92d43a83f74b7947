"""The arguments and options that several commands share, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ExperimentFile = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT", help="A YAML file; jobs/experiments holds those that ship with Rayfall.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one setting, for example [cyan]--set stages.base8.training.steps=200[/cyan]; may be repeated. "
        "The value is read as YAML.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Start nothing; only say what would be computed and what is stored already."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Standard output gets one JSON object with the figures and nothing else.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks here, too, not only in the log of a failure.")]
