"""What a command says on standard output when it was not asked for JSON: plans and figures, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jobs.progress import duration
from pipeline.experiment_spec import Experiment

if TYPE_CHECKING:
    from pipeline.workflow import PlannedNode


def plan_figures(experiment: Experiment, nodes: Sequence[PlannedNode]) -> dict[str, Any]:
    """The resolved experiment and its graph as JSON."""
    return {"experiment": experiment.model_dump(mode="json"), "nodes": [asdict(node) for node in nodes]}


def print_plan(console: Console, experiment: Experiment, nodes: Sequence[PlannedNode]) -> None:
    """The resolved experiment (as JSON, which is YAML too), then every node and whether its result is there."""
    console.print(json.dumps(experiment.model_dump(mode="json"), indent=2), markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("node", "digest", "result", "needs"):
        table.add_column(column, no_wrap=column != "needs")
    for node in nodes:
        seconds = f", took {duration(node.seconds)}" if node.seconds is not None else ""
        state = f"[cyan]reused[/cyan]{seconds}" if node.reused else "to compute"
        table.add_row(node.name, node.digest[:12], state, ", ".join(node.inputs))
    console.print()
    console.print(table)
    reused = sum(node.reused for node in nodes)
    console.print(f"\n{len(nodes)} nodes: {reused} reused, {len(nodes) - reused} to compute. Nothing was started.")


def print_figures(console: Console, figures: Mapping[str, Any]) -> None:
    """Single values as lines, mappings of mappings as tables, in the order in which they come."""
    for name, value in figures.items():
        if _is_table(value):
            console.print(_table(name, value))
        elif isinstance(value, Mapping):
            console.print(f"[bold]{name}[/bold]: " + ", ".join(f"{key} {_text(item)}" for key, item in value.items()))
        else:
            console.print(f"[bold]{name}[/bold]: {_text(value)}", soft_wrap=True)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(row, Mapping) for row in value.values())


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(_text(row.get(column)) for column in columns))
    return table


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
