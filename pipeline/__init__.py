"""The Ray side of Rayfall: data, training, search, evaluation, tracking and the report.

Reading order: ``experiment_spec`` and ``experiment`` (one YAML file, one validated object); ``data`` (a package of its
own); ``storage`` and ``commits`` (what exists and what does not); the graph that remembers (``nodes``, ``dag``,
``execution``); what its nodes do (``training``, ``sampling``, ``judging`` with ``classifier`` and ``metrics``,
``search``); what becomes of the results (``outcome``, ``collecting``, ``report``, ``recording``, ``tracking``); and
``workflow``, which the commands call.

Ray is imported inside functions of ``cluster``, ``execution``, ``sampling``, ``training`` and ``search``, MLflow by
``tracking`` alone, YAML by ``experiment`` alone.
"""
