"""Tuning: the round of a search whose trials train, under Ray Tune with successive halving.

Reading order: ``round`` (what driver and trials both know), ``run`` (Ray Tune), ``desk`` with ``costs`` (which trial
begins next, while the budget lasts), ``actor`` and ``trial`` (one trial in its process), ``looks`` (cheap chained
scores at the rungs, and an early end), ``claims`` (one owner for a training that several ask for), ``log`` (the journal
that survives the driver). Which settings are tried is said in ``search.proposals``.
"""
