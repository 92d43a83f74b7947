"""Which settings a round tries, and in which order: grids, lists drawn beforehand, and what Optuna proposes.

Nothing here knows what a trial costs or how it is run. A list drawn beforehand is a Halton sequence (Halton 1960) with
a shift from the seed, so it depends on nothing but the search section and this file.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, Protocol

from pipeline.experiment_spec import Experiment
from pipeline.search.spec import Distribution, LogUniform, SearchSpec, Uniform, Values, grid_of, listed, trains
from pipeline.seeds import Seed

Settings = dict[str, Any]
REPEATS = 50  # proposals for each trial asked for, of which those that were there before are passed over


class Proposals(Protocol):
    """Proposes trials one by one, and is told what they scored in the order in which they were proposed."""

    def ask(self) -> Settings | None:
        """The next settings to try; None when there are no more."""

    def tell(self, objective: float | None, rung: tuple[int, float] | None = None) -> None:
        """What the oldest proposal that was not told yet scored, lower is better; None: nothing, it failed.

        With ``rung`` it was dropped after so many samples, where it scored that.
        """


class Listed:
    """A list known beforehand, whatever trials score."""

    def __init__(self, trials: Sequence[Settings]) -> None:
        self.count, self._trials = len(trials), iter(trials)

    def ask(self) -> Settings | None:
        return next(self._trials, None)

    def tell(self, objective: float | None, rung: tuple[int, float] | None = None) -> None:
        del objective, rung


def drawn_of(search: SearchSpec, paths: Sequence[str]) -> list[Settings]:
    """``search.trials`` different settings of ``paths``, or all there are: evenly spread over ranges and lists.

    Floats are rounded to four digits, as a person would give them.
    """
    found: dict[str, Settings] = {}
    for position in islice(halton(len(paths), search.seed), REPEATS * search.trials):
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


def proposals_of(search: SearchSpec, paths: Sequence[str]) -> Proposals:
    """What a round that searches ``paths`` tries."""
    algorithm = search.algorithm_of(paths)
    if algorithm == "grid":
        return Listed(grid_of(search, paths))
    if algorithm == "drawn":
        return Listed(drawn_of(search, paths))
    return Suggested(search, paths)


class Suggested:
    """Optuna's tree-structured Parzen estimator, asked and told here.

    It is told in the order in which it proposed, and asked for trial k when trials up to k - ``search.concurrency``
    have been told, no sooner and no later. So what it proposes depends on the seed, the concurrency and the scores
    alone: the same command after a kill proposes the same trials again, at any concurrency, and finds those that
    finished stored. A trial that failed by chance and succeeds the next time changes what comes after it.
    """

    def __init__(self, search: SearchSpec, paths: Sequence[str]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of constant_liar
            sampler = optuna.samplers.TPESampler(seed=search.seed, constant_liar=search.concurrency > 1)
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._space = {path: search.space[path] for path in paths}
        self._open: list[Any] = []

    def ask(self) -> Settings:
        trial = self._study.ask({path: _optuna_range(domain) for path, domain in self._space.items()})
        self._open.append(trial)
        return {path: _optuna_value(self._space[path], value) for path, value in trial.params.items()}

    def tell(self, objective: float | None, rung: tuple[int, float] | None = None) -> None:
        from optuna.trial import TrialState

        trial = self._open.pop(0)
        if rung is not None:
            trial.report(rung[1], step=rung[0])
            self._study.tell(trial, state=TrialState.PRUNED)
        elif objective is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, objective)


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


def shares_levels(search: SearchSpec, paths: Sequence[str]) -> bool:
    """Whether all levels of a round are known before its first trial, so that one trajectory below serves them all."""
    ranges = [path for path in paths if not isinstance(search.space[path], Values) and not trains(path)]
    return search.algorithm_of(paths) == "drawn" or not any(path.endswith(".level") for path in ranges)
