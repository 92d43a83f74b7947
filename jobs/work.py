"""What the commands do with their arguments: load the experiment, make one call, tell what came out.

Imports stand inside the functions: reading an experiment and refusing it needs no torch, Ray or MLflow.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.endings import ending
from jobs.printing import plan_figures, print_figures, print_plan
from jobs.progress import display
from pipeline.errors import UserError
from pipeline.experiment import load_experiment

if TYPE_CHECKING:
    from pipeline.data.manifest import Manifest
    from pipeline.events import Events
    from pipeline.experiment_spec import Experiment
    from pipeline.workflow import Goal

Call = Callable[["Experiment", "Events"], Mapping[str, Any]]


@dataclass(frozen=True)
class Manner:
    """How a command is to answer."""

    as_json: bool = False
    debug: bool = False
    dry_run: bool = False


def work(
    command: str,
    file: Path,
    settings: Sequence[str] | None,
    manner: Manner,
    call: Call,
    tell: Callable[[Console, Mapping[str, Any]], None] = print_figures,
) -> None:
    """Load the experiment and make ``call(experiment, events)``, or print its graph; ``tell`` the figures."""
    with ending(command, as_json=manner.as_json, debug=manner.debug) as end:
        experiment = load_experiment(file, settings or ())
        if manner.dry_run:
            from pipeline import workflow

            nodes = workflow.plan(experiment)
            end.figures = plan_figures(experiment, nodes)
            if not manner.as_json:
                print_plan(_page(), experiment, nodes)
            return
        end.store = experiment.store
        with display(end.console) as events:
            end.figures = call(experiment, events)
        if not manner.as_json:
            tell(_page(), end.figures)


def _page() -> Console:
    """Standard output; a file or a pipe has no width of its own and gets one that holds every table."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def command_of(command: str, file: Path, settings: Sequence[str] | None) -> str:
    """What a person would type to do the same again: for the report."""
    return shlex.join(["rayfall", command, str(file), *(part for one in settings or () for part in ("--set", one))])


def towards(goal: Goal, only: Sequence[str] = (), *, command: str | None = None) -> Call:
    """The call that computes what is missing up to ``goal``; ``only`` names the stages to train.

    ``command`` is what the report says that it was made by (``command_of``).
    """
    told = {} if command is None else {"command": command}

    def call(experiment: Experiment, events: Events) -> Mapping[str, Any]:
        for name in only:
            require_stage(experiment, name, "--only")
        from pipeline import workflow

        return workflow.run(experiment, goal, events=events, only=tuple(only), **told)

    return call


def require_stage(experiment: Experiment, name: str, option: str) -> None:
    """Raise UserError when the experiment has no stage ``name``."""
    if name not in experiment.names:
        raise UserError(f"{option} {name}: the experiment's stages are {', '.join(experiment.names)}")


def make_data(source: Path, dest: Path, size: int, val_fraction: float, shard_size: int, manner: Manner) -> None:
    """Ingest, and tell what came in and what was left out."""
    with ending("ingest", as_json=manner.as_json, debug=manner.debug) as end:
        from pipeline.data.ingest import ingest

        with display(end.console) as events:
            events.started("ingest")
            began = time.monotonic()
            manifest = ingest(
                source,
                dest,
                size=size,
                val_fraction=val_fraction,
                shard_size=shard_size,
                progress=lambda done, total: events.progress("ingest", done, total),
            )
            events.finished("ingest", time.monotonic() - began, False)
        left_out = [f"{item.name}: {item.reason}" for item in manifest.undecodable]
        end.figures = {
            "dest": str(dest),
            "examples": {name: split.examples for name, split in manifest.splits.items()},
            "classes": len(manifest.classes),
            "image_size": manifest.image_size,
            "left_out": left_out,
            "digest": manifest.digest,
        }
        if not manner.as_json:
            _tell_data(dest, manifest, left_out)


def _tell_data(dest: Path, manifest: Manifest, left_out: Sequence[str]) -> None:
    counts = " and ".join(f"{split.examples} {name}" for name, split in manifest.splits.items())
    print(f"{dest}: {counts} examples of {len(manifest.classes)} classes, {manifest.image_size} px")
    if left_out:
        shown = left_out[:10]
        more = f"\n  and {len(left_out) - 10} more, all named in {dest / 'manifest.json'}" if left_out[10:] else ""
        print(f"left out: {len(left_out)}\n  " + "\n  ".join(shown) + more)
