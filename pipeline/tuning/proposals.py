"""Where settings come from: a list made beforehand, or Optuna. Nothing here knows what a trial is or runs one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipeline.search.spec import Distribution, LogUniform, SearchSpec, Values, grid_of, listed
from pipeline.sweep.proposals import drawn_of
from pipeline.tuning.log import TrialEntry

Settings = dict[str, Any]


class Proposals(Protocol):
    """Settings to try, one after the other."""

    def ask(self) -> Settings | None:
        """The next settings; None when there are no more."""

    def tell(self, settings: Mapping[str, Any], known: TrialEntry | None) -> None:
        """What became of settings that were asked for; None: nothing that could be told."""


def proposals_of(search: SearchSpec, paths: Sequence[str], known: Sequence[TrialEntry]) -> Proposals:
    """The search's own; ``known`` are trials of the same round that ended before."""
    algorithm = search.algorithm_of(paths)
    if algorithm == "optuna":
        return OptunaProposals(search, paths, known)
    return ListedProposals(grid_of(search, paths) if algorithm == "grid" else drawn_of(search, paths))


def is_within(search: SearchSpec, settings: Mapping[str, Any], paths: Sequence[str]) -> bool:
    """Whether the search could try these ``settings``: its space may have been changed since they were tried."""
    return set(settings) == set(paths) and all(_holds(search.space[path], settings[path]) for path in paths)


def _holds(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, Values):
        return any(type(value) is type(other) and value == other for other in listed(distribution))
    low, high = listed(distribution)
    return isinstance(value, float) and low <= value <= high


class ListedProposals:
    """A list, in its order, whatever becomes of its trials."""

    def __init__(self, settings: Sequence[Settings]) -> None:
        self._left = list(settings)

    def ask(self) -> Settings | None:
        return self._left.pop(0) if self._left else None

    def tell(self, settings: Mapping[str, Any], known: TrialEntry | None) -> None:
        del settings, known


class OptunaProposals:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), which is told of every trial that ended.

    Pruned trials are told with the scores they were pruned by, failed ones as failed. Values of a list are told apart
    by their place in it, so that null, lists and mappings can be searched.
    """

    def __init__(self, search: SearchSpec, paths: Sequence[str], known: Sequence[TrialEntry]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {path: search.space[path] for path in paths}
        # The same seed would propose again what was proposed before the trials it is told of. Trials at once are taken
        # for bad ones while they run ("constant liar"), so that they are not all in one place.
        sampler = optuna.samplers.TPESampler(seed=(search.seed + len(known)) % 2**32, constant_liar=True)
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        self._asked: dict[str, Any] = {}
        for entry in known:
            self._add(entry)

    def ask(self) -> Settings | None:
        trial = self._study.ask(self._distributions())
        settings = {path: self._read(path, trial.params[path]) for path in self._space}
        self._asked[_name(settings)] = trial
        return settings

    def tell(self, settings: Mapping[str, Any], known: TrialEntry | None) -> None:
        from optuna.trial import TrialState

        trial = self._asked.pop(_name(settings), None)
        if trial is None:  # begun by an earlier command
            return self._add(known) if known is not None else None
        if known is None or known.state == "failed" or not (known.rungs or math.isfinite(known.objective)):
            self._study.tell(trial, state=TrialState.FAIL)
        elif known.state == "pruned":
            for step, score in known.rungs:
                trial.report(score, step)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, known.objective)
        return None

    def _add(self, entry: TrialEntry) -> None:
        from optuna.trial import TrialState, create_trial

        params = {path: self._written(path, entry.settings[path]) for path in self._space}
        told: dict[str, Any] = {"params": params, "distributions": self._distributions()}
        if entry.state == "finished" and math.isfinite(entry.objective):
            self._study.add_trial(create_trial(**told, value=entry.objective))
        elif entry.state == "pruned" and entry.rungs:
            self._study.add_trial(create_trial(**told, state=TrialState.PRUNED, intermediate_values=dict(entry.rungs)))

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        found: dict[str, Any] = {}
        for path, distribution in self._space.items():
            if isinstance(distribution, Values):
                found[path] = CategoricalDistribution(list(range(len(distribution.values))))
            else:
                low, high = listed(distribution)
                found[path] = FloatDistribution(low, high, log=isinstance(distribution, LogUniform))
        return found

    def _read(self, path: str, value: Any) -> Any:
        distribution = self._space[path]
        return listed(distribution)[value] if isinstance(distribution, Values) else value

    def _written(self, path: str, value: Any) -> Any:
        distribution = self._space[path]
        return listed(distribution).index(value) if isinstance(distribution, Values) else value


def _name(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
