"""The Ray side of Rayfall: data, training, search, evaluation, tracking and the report.

Reading order: ``experiment_spec`` and ``experiment`` (one YAML file, one validated object); ``data`` (a package of its
own); ``storage`` and ``commits`` (what exists and what does not); the graph that remembers (``nodes`` upon
``drawn_nodes`` and ``trained_nodes``, ``dag``, ``execution``); what its nodes do: ``training`` upon ``stage_run`` and
``train_workers``, with ``watching`` beside it; ``sampling`` and ``judging`` upon ``parts`` and ``measures``;
``scores`` upon ``scoring`` (a package of its own); ``examining``, ``memorisation``, ``cas`` (a package). ``search``
upon ``sweep`` (trials that draw, on reused actors) and ``training_search`` (trials that train, under Ray Tune), both
upon ``trials``; ``ablation`` (a package): many experiments in one graph, compared. Then what becomes of the results
(``outcome``, ``collecting``, ``report``, ``recording``, ``tracking``), ``workflow``, which the commands call, and
``foreign`` (a package): images from anywhere, by the same scores.

Ray is imported inside functions (and by ``refusals``, which only they load), MLflow by ``tracking`` alone, YAML by
``experiment`` alone.
"""
