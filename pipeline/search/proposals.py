"""Which settings a round tries, and in which order: grids, lists drawn beforehand, and what Optuna proposes.

One module for rounds that draw and rounds that train. Nothing here knows what a trial costs or how it is run. A list
drawn beforehand is a Halton sequence (Halton 1960) with a shift from the seed, so it depends on nothing but the search
section and this file.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

from pipeline.experiment_spec import Experiment
from pipeline.search.spec import Distribution, LogUniform, SearchSpec, Uniform, Values, grid_of, listed, trains
from pipeline.seeds import Seed

Settings = dict[str, Any]
POINTS = 50  # of the sequence for each trial asked for: those that round to the same settings are one
SEEDS = 2**32  # that the samplers of Optuna know


class Told(NamedTuple):
    """What became of settings: an ``objective`` (lower is better) where their trial finished; where it was cut short
    its ``rungs``, (samples or steps, objective there); neither where it failed, or is the trial of other settings."""

    objective: float | None = None
    rungs: tuple[tuple[int, float], ...] = ()


class Proposal(NamedTuple):
    """Settings that were proposed, or with no ``handle`` settings that an earlier command began with."""

    settings: Settings
    handle: Any = None


def proposals_of(
    search: SearchSpec, paths: Sequence[str], known: Sequence[tuple[Settings, Told]] = ()
) -> list[Settings] | Suggested:
    """What a round that searches ``paths`` tries: a list, or who proposes; ``known`` is what it is told of first."""
    algorithm = search.algorithm_of(paths)
    if algorithm == "grid":
        return grid_of(search, paths)
    return drawn_of(search, paths) if algorithm == "drawn" else Suggested(search, paths, known)


def most_trials(search: SearchSpec, paths: Sequence[str]) -> int:
    """How many trials a round that searches ``paths`` has at most: those asked for, or all that lists allow."""
    lists = [len(one.values) for path in paths if isinstance(one := search.space[path], Values)]
    if search.algorithm_of(paths) == "grid":
        return math.prod(lists)
    return min(search.trials, math.prod(lists)) if len(lists) == len(paths) else search.trials


def is_within(search: SearchSpec, settings: Mapping[str, Any], paths: Sequence[str]) -> bool:
    """Whether the search could try these ``settings``: its space may have been changed since they were tried."""
    return set(settings) == set(paths) and all(_holds(search.space[path], settings[path]) for path in paths)


def _holds(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, Values):
        return any(type(value) is type(other) and value == other for other in listed(distribution))
    low, high = listed(distribution)
    return isinstance(value, float) and low <= value <= high


def drawn_of(search: SearchSpec, paths: Sequence[str]) -> list[Settings]:
    """``search.trials`` different settings of ``paths``, or all there are: evenly spread over ranges and lists.

    Floats are rounded to four digits, as a person would give them.
    """
    found: dict[str, Settings] = {}
    for position in islice(halton(len(paths), search.seed), POINTS * search.trials):
        settings = {path: _at(search.space[path], share) for path, share in zip(paths, position, strict=True)}
        found.setdefault(repr(settings), settings)
        if len(found) == search.trials:
            break
    return list(found.values())


def halton(dimensions: int, seed: Seed) -> Iterator[tuple[float, ...]]:
    """Points in [0, 1)^dimensions: radical inverses of 1, 2, ... in the first primes, each shifted by one random
    number modulo 1 (Cranley and Patterson 1976)."""
    primes = list(islice((n for n in count(2) if all(n % d for d in range(2, math.isqrt(n) + 1))), dimensions))
    shifts = [random.Random(f"{seed} {prime}").random() for prime in primes]
    for number in count(1):
        point = (radical_inverse(number, base) + shift for base, shift in zip(primes, shifts, strict=True))
        yield tuple(share % 1.0 for share in point)


def radical_inverse(number: int, base: int) -> float:
    """The digits of ``number`` in ``base`` mirrored at the point: 6 is 110 in base 2, so 0.011, which is 3/8."""
    inverse, scale = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        inverse += digit * scale
        scale /= base
    return inverse


def _at(distribution: Distribution, share: float) -> Any:
    """The value of ``distribution`` that so much of it (in [0, 1)) lies below."""
    if isinstance(distribution, Values):
        values = listed(distribution)
        return values[int(share * len(values))]
    low, high = listed(distribution)
    value = low + share * (high - low) if isinstance(distribution, Uniform) else low * (high / low) ** share
    return min(max(float(f"{value:.4g}"), low), high)


def with_drawn_lists(experiment: Experiment) -> Experiment:
    """``experiment`` with all levels and kinds that its trials will have listed in the search space, as far as known.

    A stage keeps z_s for the stage above at the levels that the search space lists. So ranges of a list drawn
    beforehand stand there by their values; and the declared value stands beside those searched, since the trials of
    the stages below have it: else the stage below were drawn once for them and once for the stage above.
    """
    search = experiment.search
    assert search is not None, "an experiment without a search section has no trials"
    space: dict[str, Distribution] = dict(search.space)
    declared = experiment.model_dump(mode="json")
    for _, paths in search.rounds(experiment.names, experiment.last):
        drawn = drawn_of(search, paths) if search.algorithm_of(paths) == "drawn" else []
        for path in paths:
            if trains(path):
                continue
            if isinstance(search.space[path], Values):
                values = listed(search.space[path])
            elif drawn:
                values = [settings[path] for settings in drawn]
            else:
                continue
            own = _value_at(declared, path)
            space[path] = Values(values=tuple(values if own in values else [*values, own]))
    return experiment.model_copy(update={"search": search.model_copy(update={"space": space})})


def _value_at(settings: Mapping[str, Any], path: str) -> Any:
    """The declared value at a dotted ``path``; None below something that is null."""
    value: Any = settings
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


class Suggested:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), asked and told here.

    What it proposes depends on the seed, on what it was told and on which of its proposals were open when it was asked.
    So where it is told in the order in which it proposed, and asked for trial k when all up to k - n have been told, it
    proposes the same again after a kill, with the same n trials at once; with another n it proposes others. A trial
    that failed by chance and succeeds the next time changes what comes after it.
    """

    def __init__(self, search: SearchSpec, paths: Sequence[str], known: Sequence[tuple[Settings, Told]] = ()) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # The same seed would propose again what was proposed before the trials it is told of. Open proposals are taken
        # for bad ones ("constant liar"), so that trials at once are not all in one place.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of constant_liar
            sampler = optuna.samplers.TPESampler(seed=(search.seed + len(known)) % SEEDS, constant_liar=True)
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._space = {path: search.space[path] for path in paths}
        self._ranges = {path: _optuna_range(distribution) for path, distribution in self._space.items()}
        for settings, told in known:
            self._add(settings, told)

    def ask(self) -> Proposal:
        """The next settings to try, which it takes for open until it is told of them; it never ends."""
        trial = self._study.ask(self._ranges)
        settings = {path: _optuna_value(self._space[path], trial.params[path]) for path in self._space}
        return Proposal(settings, trial)

    def tell(self, proposal: Proposal, told: Told) -> None:
        """What became of ``proposal``."""
        from optuna.trial import TrialState

        if proposal.handle is None:
            self._add(proposal.settings, told)
        elif told.objective is not None:
            self._study.tell(proposal.handle, told.objective)
        else:
            for place, score in told.rungs:
                proposal.handle.report(score, step=place)
            self._study.tell(proposal.handle, state=TrialState.PRUNED if told.rungs else TrialState.FAIL)

    def _add(self, settings: Settings, told: Told) -> None:
        """What it did not propose itself; of what failed there is nothing to learn."""
        from optuna.trial import TrialState, create_trial

        params = {path: _optuna_place(self._space[path], settings[path]) for path in self._space}
        described: dict[str, Any] = {"params": params, "distributions": self._ranges}
        if told.objective is not None:
            self._study.add_trial(create_trial(**described, value=told.objective))
        elif told.rungs:
            rungs = dict(told.rungs)
            self._study.add_trial(create_trial(**described, state=TrialState.PRUNED, intermediate_values=rungs))


def _optuna_range(distribution: Distribution) -> Any:
    """Lists by position: their values may be lists, mappings and null. Numbers that ascend are known to be ordered."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(distribution, Values):
        low, high = listed(distribution)
        return FloatDistribution(low, high, log=isinstance(distribution, LogUniform))
    values = listed(distribution)
    numbers = all(type(value) in (int, float) for value in values)
    if numbers and values == sorted(values):
        return IntDistribution(0, len(values) - 1)
    return CategoricalDistribution(range(len(values)))


def _optuna_value(distribution: Distribution, value: Any) -> Any:
    return listed(distribution)[value] if isinstance(distribution, Values) else value


def _optuna_place(distribution: Distribution, value: Any) -> Any:
    return listed(distribution).index(value) if isinstance(distribution, Values) else value


def shares_levels(search: SearchSpec, paths: Sequence[str]) -> bool:
    """Whether all levels of a round are known before its first trial, so that one trajectory below serves them all."""
    ranges = [path for path in paths if not isinstance(search.space[path], Values) and not trains(path)]
    return search.algorithm_of(paths) == "drawn" or not any(path.endswith(".level") for path in ranges)
