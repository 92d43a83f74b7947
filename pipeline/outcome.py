"""What an experiment came to: its stored results by node, and the figures in them. Reads, computes nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dag import Node, Result, ancestry, stored
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.storage import LocalStorage

SCORES = ("samples", "fid", "accuracy", "precision", "recall")


@dataclass(frozen=True)
class Outcome:
    """The stored results of an experiment, as it was ``declared`` and with the settings that its search ``chose``."""

    declared: Experiment
    experiment: Experiment
    results: Mapping[str, Result]
    nodes: list[Node]
    search: Result | None

    def scores(self, kind: str, name: str) -> Result | None:
        """Scores of "chained", "oracle" or "real" images for stage ``name``; stages of one size share the real ones."""
        return self.results.get(f"scores/{kind}/{self.experiment.stages[name].size if kind == 'real' else name}")


def targets_of(experiment: Experiment, storage: LocalStorage) -> list[Node]:
    """The search (if any) and every score.

    Scores are those of the settings that the search chose where its result is stored, else of the YAML's own.
    """
    targets = []
    if experiment.search is not None:
        search = Nodes(experiment).search()
        targets.append(search)
        if result := stored(search, storage):
            experiment = with_settings(experiment, result.summary["chosen"])
    return targets + Nodes(experiment).evaluation()


def outcome_of(experiment: Experiment, storage: LocalStorage) -> Outcome:
    """All results that are stored, by node name."""
    nodes = ancestry(targets_of(experiment, storage))
    results = {node.name: result for node in nodes if (result := stored(node, storage))}
    found = results.get("search")
    chosen = with_settings(experiment, found.summary["chosen"]) if found else experiment
    return Outcome(experiment, chosen, results, nodes, found)


def figures_of(outcome: Outcome) -> dict[str, Any]:
    """The figures by stage: scores (chained, oracle, real) and FID gap, restoration, bound; and those by cascade."""
    stages = {}
    for name in outcome.experiment.names:
        scores = {
            kind: dict(result.summary)
            for kind in ("chained", "oracle", "real")
            if (result := outcome.scores(kind, name)) is not None
        }
        others = {
            kind: dict(result.summary)
            for kind in ("restoration", "bound")
            if (result := outcome.results.get(f"{kind}/{name}")) is not None
        }
        gap = scores["chained"]["fid"] - scores["oracle"]["fid"] if "oracle" in scores else None
        stages[name] = {**scores, "gap": gap, "level": outcome.experiment.stages[name].sampling.level, **others}
    judges = {
        role: dict(outcome.results[f"classifier/{role}"].summary)
        for role in ("features", "judge")
        if f"classifier/{role}" in outcome.results
    }
    chosen = dict(outcome.search.summary["chosen"]) if outcome.search else {}
    return {"stages": stages, "cascades": cascades_of(outcome), "classifiers": judges, "chosen": chosen}


def cascades_of(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """What each cascade costs and what its last stage scores, to compare them; empty with one cascade alone.

    Parameters and seconds are sums over its stages; net calls draw one image through all of them, at most.
    """
    experiment, found = outcome.experiment, {}
    for cascade, chain in experiment.chains.items() if len(experiment.chains) > 1 else ():
        trained = [outcome.results[f"train/{name}"].summary for name in chain]
        scores = outcome.results[f"scores/chained/{chain[-1]}"].summary
        found[cascade] = {
            "stages": list(chain),
            "size": experiment.stages[chain[-1]].size,
            "parameters": sum(summary["parameters"] for summary in trained),
            "training_seconds": sum(summary["seconds"] for summary in trained),
            "net_calls": sum(experiment.stages[name].sampling.net_calls for name in chain),
            **{figure: scores[figure] for figure in SCORES},
        }
    return found


def git_revision() -> str:
    """Revision of this source tree, with "+changes" when it differs from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return found.stdout.strip()
