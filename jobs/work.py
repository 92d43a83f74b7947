"""What the commands do with their arguments: load the experiment, make one call, tell what came out.

Imports stand inside the functions: reading an experiment and refusing it needs no torch, Ray or MLflow.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.endings import ending
from jobs.printing import plan_figures, print_figures, print_plan
from jobs.progress import display
from pipeline.addresses import without_secret
from pipeline.errors import UserError
from pipeline.experiment import load_experiment

if TYPE_CHECKING:
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
                print_plan(page(), experiment, nodes)
            return
        end.store = experiment.store
        with display(end.console) as events:
            end.figures = call(experiment, events)
        if not manner.as_json:
            tell(page(), end.figures)


def page() -> Console:
    """Standard output; a file or a pipe has no width of its own and gets one that holds every table."""
    return Console() if sys.stdout.isatty() else Console(width=180)


def command_of(command: str, file: Path, settings: Sequence[str] | None) -> str:
    """What a person would type to do the same again, less what an address lets in with: for the report."""
    given = (part for one in settings or () for part in ("--set", without_secret(one)))
    return shlex.join(["rayfall", command, str(file), *given])


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
