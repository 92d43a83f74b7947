"""The Ray side of Rayfall: data, training, search, evaluation, tracking and the report.

Reading order; what ends with a slash is a package, whose docstring has an order of its own:

1. ``experiment_spec`` and ``experiment``: one YAML file, one validated object.
2. ``data/``; ``storage`` and ``commits``: what exists and what does not.
3. ``nodes`` upon ``drawn_nodes`` and ``trained_nodes``, ``dag``, ``execution``: the graph that remembers.
4. What its nodes do: ``training`` upon ``stage_run`` and ``train_workers``, with ``watching/`` beside it; ``sampling``
   and ``judging`` upon ``parts`` and ``measures``; ``scores`` upon ``scoring/``; ``examining``, ``memorisation``,
   ``cas/``.
5. ``search/``, whose trials draw (``sweep/``) or train (``tuning/``); ``ablation/``: many experiments in one graph,
   compared.
6. What becomes of the results: ``outcome``, ``collecting/``, ``report/``, ``recording/`` upon ``tracking/``;
   ``published/``, what others reached.
7. ``workflow``, which the commands call; ``foreign/``: images from anywhere, by the same scores; ``benchmark``.

Ray is imported inside functions (and by ``refusals``, which only they load), MLflow by ``tracking`` alone, YAML by
``experiment`` alone.
"""
