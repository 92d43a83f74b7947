"""Where an experiment stands, for people: who is at work, a row for each node or replicate, the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from jobs.progress import duration
from pipeline.addresses import without_secret

if TYPE_CHECKING:
    from pipeline.ablation.standing import AblationStanding
    from pipeline.experiment_spec import Experiment
    from pipeline.standing import NodeStanding, Standing

QUIET = 60.0  # seconds without a word of a node after which that is said


def standing_in_store(experiment: Experiment) -> Standing | AblationStanding:
    """How far an experiment is, or its ablation where it has one. Raises UserError where its store cannot be read."""
    if experiment.ablation is None:
        from pipeline.standing import standing_of

        return standing_of(experiment)
    from pipeline.ablation.standing import ablation_standing

    return ablation_standing(experiment)


def print_standing(console: Console, experiment: Experiment, found: Standing | AblationStanding) -> None:
    """A table, and the sentences on what is left."""
    replicates = getattr(found, "replicates", None)
    standing: Standing = found if replicates is None else found.standing  # type: ignore[union-attr,assignment]
    owner = "nobody is at work on it" if standing.owner is None else f"at work: {standing.owner.told}"
    _say(console, f"{experiment.name} in {without_secret(experiment.store)}: {owner}")
    nodes = list(standing.nodes.values())
    if replicates is not None:
        _print_replicates(console, found)  # type: ignore[arg-type]
        nodes = [node for node in nodes if node.state in ("running", "failed")]
    _print_nodes(console, nodes)
    for node in nodes:
        if node.error is not None:
            _say(console, f"{node.node} failed: {node.error.removeprefix(f'{node.node} failed: ')}")
        if node.owner is not None:
            _say(console, f"{node.node} is trained by another command: {node.owner}")
    if standing.trials:
        _say(console, "trials: " + ", ".join(f"{count} {state}" for state, count in standing.trials.items()))
    _say(console, _summary(standing))


def _print_nodes(console: Console, nodes: Iterable[NodeStanding]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "state", "done", "time"):
        table.add_column(name, no_wrap=True)
    for node in nodes:
        table.add_row(node.node, node.state, _amount(node), _time(node))
    if table.row_count:
        console.print(table)


def _print_replicates(console: Console, found: AblationStanding) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cell", "seed", "done", "running", "waiting", "failed"):
        table.add_column(name, no_wrap=True, justify="left" if name == "cell" else "right")
    for row in found.replicates:
        counts = (str(row.counts.get(state, 0)) for state in ("done", "running", "waiting", "failed"))
        table.add_row(row.cell, str(row.seed), *counts)
    console.print(table)
    for row in found.replicates:
        if row.failure is not None:
            _say(console, f"{row.cell}, seed {row.seed}, failed last time: {row.failure}")


def _amount(node: NodeStanding) -> str:
    if node.done is None:
        return ""
    amount = f"{node.done} of {node.total}" if node.total else f"{node.done}"
    return f"{amount} in its checkpoint" if node.state == "waiting" else amount


def _time(node: NodeStanding) -> str:
    if node.seconds is not None:
        return f"took {duration(node.seconds)}"
    if node.quiet_seconds is not None and node.quiet_seconds > QUIET:
        return f"last heard of {duration(node.quiet_seconds)} ago"
    if node.left_seconds is None:
        return ""
    return (
        f"{duration(node.left_seconds)} left" if node.state == "running" else f"usually {duration(node.left_seconds)}"
    )


def _summary(standing: Standing) -> str:
    counts = Counter(node.state for node in standing.nodes.values())
    told = ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "waiting", "failed") if counts[state])
    if counts["done"] == len(standing.nodes):
        return f"{told}: all is there"
    if standing.left_seconds is not None and standing.owner is not None:
        return f"{told}; about {duration(standing.left_seconds)} left"
    if standing.at_least_seconds:
        return f"{told}; at least {duration(standing.at_least_seconds)} left, the rest is unknown"
    return f"{told}; time left: unknown"


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
