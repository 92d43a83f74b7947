"""Chains of stage names: which stage stands on which. Cascades may share stages. Names alone, no specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

Chains = Mapping[str, tuple[str, ...]]


def below_in(chain: Sequence[str], name: str) -> str | None:
    """The stage before ``name`` in ``chain``, None for the first."""
    position = chain.index(name)
    return chain[position - 1] if position else None


def check_chains(chains: Chains, stages: Sequence[str]) -> None:
    """Raise ValueError unless every chain goes up ``stages`` in order, and each stage has one stage below it in all.

    A stage is trained for the schedule of the stage below it, so it cannot stand on two.
    """
    for cascade, chain in chains.items():
        where = f"cascades.{cascade}"
        if unknown := [name for name in chain if name not in stages]:
            raise ValueError(f"{where}: there is no stage {unknown[0]!r}; stages are {', '.join(stages)}")
        if twice := [name for number, name in enumerate(chain) if name in chain[:number]]:
            raise ValueError(f"{where} names {twice[0]} twice; a stage stands in a cascade once")
        for low, high in pairwise(chain):
            if stages.index(low) >= stages.index(high):
                raise ValueError(f"{where}: {high} comes after {low}, so it must come after it under stages too")
    if alone := [name for name in stages if not any(name in chain for chain in chains.values())]:
        raise ValueError(f"stages.{alone[0]} is in no cascade; name it in one of cascades or remove it")
    for stage in stages:
        _check_one_below(chains, stage)
    known: dict[tuple[str, ...], str] = {}
    for cascade, chain in chains.items():
        if chain in known:
            raise ValueError(f"cascades.{cascade} is the same chain as {known[chain]}; remove one of them")
        known[chain] = cascade


def _check_one_below(chains: Chains, stage: str) -> None:
    found = {cascade: below_in(chain, stage) for cascade, chain in chains.items() if stage in chain}
    first, below = next(iter(found.items()))
    for cascade, other in found.items():
        if other != below:
            told = [
                f"{'on ' + name if name else 'first'} in {where}" for name, where in ((below, first), (other, cascade))
            ]
            raise ValueError(f"stages.{stage} stands {told[0]} and {told[1]}; give it another name in one of them")
