"""What an experiment came to: its stored results by node, and the figures in them. Reads, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.comparing import Entrant, FidScore, fid_gap, paired_error, standings
from pipeline.dag import Node, ancestry, stored
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.results import Result
from pipeline.scoring.passport import Passport
from pipeline.storage import Storage

SCORES = ("samples", "fid", "fid_error", "kid", "accuracy", "precision", "recall")
BESIDE = ("chain", "restoration", "memorisation", "cas", "bound")  # nodes of a stage beside its scores


@dataclass(frozen=True)
class Outcome:
    """The stored results of an experiment, as it was ``declared`` and with the settings that its search ``chose``.

    ``during`` has (step, FID) of each stage that was scored while it was trained.
    """

    declared: Experiment
    experiment: Experiment
    results: Mapping[str, Result]
    nodes: list[Node]
    search: Result | None
    during: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)

    def scores(self, kind: str, name: str) -> Result | None:
        """Scores of "chained", "oracle" or "real" images for stage ``name``; stages of one size share the real ones."""
        return self.results.get(f"scores/{kind}/{self.experiment.stages[name].size if kind == 'real' else name}")

    def cas_real(self, name: str) -> Result | None:
        """The accuracy of the net behind the classification accuracy score when it is trained on real images."""
        return self.results.get(f"cas/real/{self.experiment.stages[name].size}")


def targets_of(experiment: Experiment, storage: Storage) -> list[Node]:
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


def outcome_of(experiment: Experiment, storage: Storage) -> Outcome:
    """All results that are stored, by node name."""
    nodes = ancestry(targets_of(experiment, storage))
    results = {node.name: result for node in nodes if (result := stored(node, storage))}
    found = results.get("search")
    chosen = with_settings(experiment, found.summary["chosen"]) if found else experiment
    return Outcome(experiment, chosen, results, nodes, found, _during(experiment, storage))


def _during(experiment: Experiment, storage: Storage) -> dict[str, list[tuple[int, float]]]:
    """What stages scored while they were trained, with the settings of the YAML."""
    if experiment.evaluation.during is None:
        return {}
    from pipeline.watching.run import curve_of

    nodes, found = Nodes(experiment), {}
    for name in experiment.names:
        points = curve_of(nodes, storage, name).points()
        found[name] = [(point.step, point.fid) for point in points if point.fid is not None]
    return found


def figures_of(outcome: Outcome) -> dict[str, Any]:
    """The figures by stage (scores by kind of images, FID gap, what stands ``BESIDE`` them) and by cascade."""
    stages = {}
    for name in outcome.experiment.names:
        scores = {
            kind: dict(result.summary)
            for kind in ("chained", "oracle", "real")
            if (result := outcome.scores(kind, name)) is not None
        }
        others = {
            kind: dict(result.summary)
            for kind in BESIDE
            if (result := outcome.results.get(f"{kind}/{name}")) is not None
        }
        if (ceiling := outcome.cas_real(name)) is not None:
            others["cas_real"] = dict(ceiling.summary)
        level = outcome.experiment.stages[name].sampling.level
        gap = {"gap": gap_of(scores), "gap_error": gap_error_of(scores)}
        stages[name] = {**scores, **gap, "level": level, **others}
    judges = {
        role: dict(outcome.results[f"classifier/{role}"].summary)
        for role in ("features", "judge")
        if f"classifier/{role}" in outcome.results
    }
    chosen = dict(outcome.search.summary["chosen"]) if outcome.search else {}
    cascades = cascades_of(outcome)
    ranking = ranking_of(outcome) if cascades else []
    return {"stages": stages, "cascades": cascades, "ranking": ranking, "classifiers": judges, "chosen": chosen}


def gap_of(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Chained minus oracle FID of scores by kind of images; None where one is missing or their passports forbid it."""
    chained, oracle = (FidScore.of(scores[kind]) if kind in scores else None for kind in ("chained", "oracle"))
    return fid_gap(chained, oracle)


def gap_error_of(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Standard error of the gap, paired: chained and oracle images share indices and noise. None without a gap."""
    return None if gap_of(scores) is None else paired_error(scores["chained"], scores["oracle"])


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


def ranking_of(outcome: Outcome) -> list[dict[str, Any]]:
    """Cascades of each size by FID, or why they are not ranked: size, order (best first), refusal."""
    entrants = []
    for cascade, chain in outcome.experiment.chains.items():
        scores = outcome.results[f"scores/chained/{chain[-1]}"].summary
        size = outcome.experiment.stages[chain[-1]].size
        entrants.append(Entrant(cascade, size, scores["fid"], Passport.model_validate(scores["passport"])))
    found = standings(entrants)
    return [{"size": one.size, "order": list(one.places), "refusal": one.refusal} for one in found]
