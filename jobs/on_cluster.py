"""``python -m jobs.on_cluster``: the driver of a submitted job, in the unpacked copy of our code on the head node.

It checks the cluster before anything else is imported, takes the job's credentials, says what there is to compute, and
is then the command that was submitted.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.submission.credentials import held_by_driver
from pipeline.submission.environment import ORDER, STARTED, difference, versions

WRONG_INPUT = 2
JOIN = "resources.address=auto"  # the cluster that the job is on
COMPUTED, STORED = "to compute", "stored already"


def main() -> None:
    """Do what the package says; exits as the command does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # how a job is told to stop
    order = json.loads(Path(ORDER).read_text())
    unlike = difference(order["versions"], versions())
    if unlike is not None:
        print(unlike, file=sys.stderr)
        sys.exit(WRONG_INPUT)
    print(STARTED, flush=True)
    settings = [*order["settings"], JOIN]
    try:
        with held_by_driver():
            _announce(order["command"], order["file"], settings, order["only"])
            from jobs.cli import app

            options = [*_options("--set", settings), *_options("--only", order["only"])]
            app([order["command"], order["file"], *options], prog_name="rayfall")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(WRONG_INPUT)


def _options(name: str, values: Sequence[str]) -> list[str]:
    return [part for one in values for part in (name, one)]


def _announce(command: str, file: str, settings: Sequence[str], only: Sequence[str]) -> None:
    """Two lines with the names of the nodes, from which `rayfall status` knows what waits."""
    if command == "ablate":  # says itself what it does
        return
    from pipeline import workflow
    from pipeline.experiment import load_experiment

    nodes = workflow.plan(load_experiment(file, settings))
    wanted = {"train": "train/", "search": "search"}.get(command, "")
    needed = {node.name for node in nodes if node.name.startswith(wanted)}
    if only:
        needed = {f"train/{name}" for name in only}
    for node in reversed(nodes):  # inputs stand before what uses them
        if node.name in needed:
            needed.update(node.inputs)
    for heading, reused in ((STORED, True), (COMPUTED, False)):
        names = [node.name for node in nodes if node.name in needed and node.reused == reused]
        print(f"{heading}: {', '.join(names) or 'nothing'}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
