"""What a command says on standard output when it was not asked for JSON: plans and figures, for people."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.progress import duration
from pipeline.addresses import without_secrets
from pipeline.experiment_spec import Experiment
from pipeline.report.notes import Notes
from pipeline.report.search_parts import end_of
from pipeline.report.search_wording import told_metric
from pipeline.report.setting_names import differing, short_names, told_value

if TYPE_CHECKING:
    from pipeline.workflow import PlannedNode

MOST_TRIALS = 12  # of a round that a terminal is told; the report has all of them
LONGEST_VALUE = 18  # letters of a setting in that table


def plan_figures(experiment: Experiment, nodes: Sequence[PlannedNode]) -> dict[str, Any]:
    """The resolved experiment and its graph as JSON."""
    return {
        "experiment": without_secrets(experiment.model_dump(mode="json")),
        "nodes": [asdict(node) for node in nodes],
    }


def print_plan(console: Console, experiment: Experiment, nodes: Sequence[PlannedNode]) -> None:
    """The resolved experiment (as JSON, which is YAML too), then every node and whether its result is there."""
    settings = without_secrets(experiment.model_dump(mode="json"))
    console.print(json.dumps(settings, indent=2), markup=False, soft_wrap=True)
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
    """What a run returned, in the order in which it came: scores and trials as tables, the rest as lines."""
    for name, value in figures.items():
        if name == "stages" and all("chained" in row for row in value.values()):
            print_scores(console, value)
        elif name == "cascades":
            print_cascades(console, value)
        elif name == "ranking":
            print_ranking(console, value)
        elif name == "search":
            print_search(console, value)
        elif name == "chosen" and value:
            if "search" not in figures:  # which says it, too
                _line(console, name, _settings(value))
        elif name == "computed":
            _line(console, name, f"{len(value)} nodes" if value else "nothing, everything was stored")
        elif name == "seconds":
            _line(console, "took", duration(value))
        elif isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
            _table(console, name, value)
        elif value not in ({}, [], None):
            _line(console, name, _text(value))


def print_scores(console: Console, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Each stage on its cascade's own low-res images (chained), on real ones (oracle), and real images themselves.

    "accuracy" is that of the images under a judge trained on real ones, "CAS" that of real images under a net trained
    on the images. Figures that are flagged or refused have the number of the sentence below that says why.
    """
    rows, notes = {}, Notes()
    for stage, scores in stages.items():
        for kind in ("chained", "oracle", "real"):
            if kind in scores:
                trained = scores.get({"chained": "cas", "real": "cas_real"}.get(kind, ""), {})
                row = _score_row(scores[kind], notes) | {"CAS": trained.get("cas_top1")}
                rows[f"{stage} {kind}"] = row | ({"gap": _gap(scores)} if kind == "chained" else {})
    _table(console, "images", rows)
    for sentence, number in notes.numbers.items():
        console.print(f"[{number}] {sentence}", markup=False, highlight=False, soft_wrap=True)
    restored = {
        stage: {**scores["restoration"], "accuracy": scores["oracle"]["accuracy"]}
        for stage, scores in stages.items()
        if "restoration" in scores
    }
    if restored:
        _table(console, "restoration", restored)
    if bounds := {stage: scores["bound"] for stage, scores in stages.items() if "bound" in scores}:
        _table(console, "bound", bounds)


def _gap(scores: Mapping[str, Any]) -> str | None:
    return _estimate(scores, "gap") if scores.get("gap") is not None else None


def print_cascades(console: Console, cascades: Mapping[str, Mapping[str, Any]]) -> None:
    """Each cascade as a whole, where there are several: what it cost and what its last stage scores."""
    rows = {
        name: {
            "stages": " -> ".join(row["stages"]),
            "parameters": row["parameters"],
            "training": duration(row["training_seconds"]),
            "net calls": row["net_calls"],
            "size": row["size"],
            **_score_row({key: value for key, value in row.items() if key != "samples"}, Notes()),
        }
        for name, row in cascades.items()
    }
    if rows:
        _table(console, "cascade", rows)


def print_ranking(console: Console, ranking: Sequence[Mapping[str, Any]]) -> None:
    """The cascades of each size by FID, or why they are not ranked."""
    for found in ranking:
        told = found["refusal"] or f"by FID {' < '.join(found['order'])}"
        _line(console, f"cascades of {found['size']} px", told)


def _score_row(scores: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """One row of scores: FID with its error and notes, KID, what else is single numbers, and other scorers' FID."""
    row = {"samples": scores.get("samples"), "fid": _estimate(scores, "fid") + _marks(scores, notes)}
    row |= {"kid": scores.get("kid"), "IS": scores.get("inception_score"), "sfid": scores.get("sfid")}
    row |= {figure: scores.get(figure) for figure in ("accuracy", "precision", "recall")}
    for scorer, further in scores.get("also", {}).items():
        row[f"{scorer} fd"] = _estimate(further, "fid") + _marks(further, notes)
    return row


def _marks(scores: Mapping[str, Any], notes: Notes) -> str:
    """The numbers of what is flagged: " [1] [2]"."""
    return "".join(f" [{notes.mark(sentence)}]" for sentence in scores.get("flags", ()))


def _estimate(scores: Mapping[str, Any], figure: str) -> str:
    error = scores.get(f"{figure}_error")
    return _text(scores[figure]) + (f" ± {error:.2g}" if error else "")


def print_search(console: Console, search: Mapping[str, Any]) -> None:
    """The best trials of every round, what was chosen and why, and what the trials shared."""
    for found in search["rounds"]:
        points = found["points"]
        names = short_names(differing([point["settings"] for point in points]))
        ranked = sorted(points, key=_worth)
        unit = "step " if found.get("kind") == "training" else ""
        rows = [_trial_row(point, found["chosen"], names, unit) for point in ranked[:MOST_TRIALS]]
        title = f"{found['stage']}, by {told_metric(found['metric'])}"
        _table(console, title, {f"{place}": row for place, row in enumerate(rows, start=1)})
        if len(ranked) > MOST_TRIALS:
            console.print(f"and {_more(ranked[MOST_TRIALS:])}", highlight=False)
        for error, count in Counter(point["error"] for point in points if point["error"]).items():
            _line(console, f"{count} failed", error)
        for name in ("why", "shared"):
            if found.get(name):
                _line(console, name, found[name])
    _line(console, "chosen", _settings(search["chosen"]))


def _worth(point: Mapping[str, Any]) -> tuple[bool, float, float, float]:
    """Finished trials by their objective; the others by how far they came, and by what they were then."""
    last, score = point["rungs"][-1] if point.get("rungs") else (0, math.inf)
    objective = point.get("objective")
    return end_of(point) != "finished", math.inf if objective is None else objective, -last, score


def _more(points: Sequence[Mapping[str, Any]]) -> str:
    """What is not in the table: "5 more: 2 finished, 3 pruned"."""
    ends = Counter(map(end_of, points))
    return f"{len(points)} more: " + ", ".join(f"{count} {end}" for end, count in ends.items())


def _trial_row(
    point: Mapping[str, Any], chosen: Mapping[str, Any], names: Mapping[str, str], unit: str
) -> dict[str, Any]:
    """What a trial set, its scores if it finished, its last look, and how it ended where that needs a word.

    Looks are at samples, or at a step of training (``unit``); they are no scores, and may be of fewer sampler steps.
    """
    end = end_of(point)
    chained, oracle = ((point.get(kind) or {}) if end == "finished" else {} for kind in ("chained", "oracle"))
    row: dict[str, Any] = {name: _brief(told_value(point["settings"].get(path))) for path, name in names.items()}
    row |= {
        "last look": f"{point['rungs'][-1][1]:.4g} ({unit}{point['rungs'][-1][0]:,})" if point.get("rungs") else None,
        "fid": _estimate(chained, "fid") if chained else None,
        "accuracy": chained.get("accuracy"),
        "oracle fid": oracle.get("fid"),
        "took": duration(point.get("seconds", 0.0)),
    }
    if end == "finished":
        return row | {"end": "chosen" if point["settings"] == chosen else None}
    return row | {"end": end}


def _brief(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"[bold]{name}[/bold]: {escape(text)}", soft_wrap=True, highlight=False)


def _table(console: Console, title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """One row per entry; columns that are empty in every row are left out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    named = dict.fromkeys(key for row in rows.values() for key in row)
    columns = [key for key in named if any(row.get(key) is not None for row in rows.values())]
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(escape(name), *(escape(_text(row.get(column))) for column in columns))
    console.print(table)


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {told_value(value)}" for path, value in settings.items())


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
