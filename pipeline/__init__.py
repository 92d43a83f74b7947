"""The Ray side of Rayfall: data, training, search, evaluation, tracking and the report.

Reading order; what ends with a slash is a package, whose docstring has an order of its own:

1. ``experiment_spec`` with ``evaluation_spec``, ``classifier_spec``, ``scorer_specs`` and ``seeds``, ``agreement`` and
   ``chains``; ``experiment`` with ``sentences``: one YAML file, one validated object. ``errors``, ``addresses``.
2. ``data/``. ``objects`` upon ``s3`` and ``s3_requests``, ``storage`` upon ``s3_storage``, ``inside``; ``commits``,
   ``claims`` upon ``leases``: what exists and what does not, in a folder or a bucket, and who may write it.
3. ``nodes`` upon ``drawn_nodes`` and ``trained_nodes``, ``dag``, ``execution`` with ``events``: the graph that
   remembers. ``fan_out``, ``cluster``.
4. What its nodes do: ``training`` upon ``train_workers`` (``refusals``) and ``stage_run``, which has
   ``worker_settings``, ``ranks``, ``step_window``, ``history``, ``snapshots``, ``preemption``, ``post_mortem`` and
   ``shortages``, with ``watching/`` beside it; ``sampling``, ``classifier`` and ``judging`` upon ``parts``,
   ``measures``, ``gathering`` and ``previews``; ``scores`` upon ``scoring/``; ``restoration``, ``bounding``,
   ``examining``, ``memorisation``, ``cas/``.
5. ``search/``, whose trials draw (``sweep/``) or train (``tuning/``); ``ablation/``: many experiments in one graph,
   compared.
6. What becomes of the results: ``outcome``, ``comparing``, ``levels``, ``collecting/``, ``report/``, ``recording/``
   upon ``tracking/``; ``revision``, ``outputs``; ``published/``, what others reached.
7. ``session`` and ``workflow``, which the commands call; ``planning`` and ``forecasting`` upon ``forecast``,
   ``calibration`` and ``machines``; ``drawing``; ``foreign/``: images from anywhere, by the same scores; ``benchmark``
   with ``benchmarks/``; ``doctor/``, which looks at all that an experiment needs; ``submission/``, which sends one to a
   cluster elsewhere; ``spot_notice``, which runs beside a Ray node.

Ray is imported inside functions (and by ``refusals``, which only they load), MLflow by ``tracking`` alone, YAML by
``experiment`` alone.
"""
