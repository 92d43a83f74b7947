"""An ablation: named cells of settings, each run under the same few seeds, compared with one baseline.

Every replicate (a cell under one seed) has the same evaluation, and where budgets differ the report says so; seeds are
paired, so that what two cells owe to a seed cancels in their difference.

Reading order: ``spec`` (what a person declares), ``cells`` (an experiment for every replicate), ``run`` (all of them
as one graph) with ``failures`` (kept apart); ``statistics`` (differences of few replicates, and what they do not show),
``metrics`` and ``words`` (what is compared, and how it is written), ``comparisons`` (from scores to the table),
``findings`` (from the table to sentences); ``parts`` (what a report holds), ``collecting`` with ``sweeps`` and
``costs`` (from storage to those), ``report`` with ``tables``, ``settings_table``, ``figures``, ``curves``,
``front_figure``, ``grids`` and ``wording`` (the page), ``opened_runs`` and ``recording`` (what tracking is told);
``workflow`` (all of it, as the command line calls it).
"""
