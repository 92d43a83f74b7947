"""The report of an experiment: one HTML file that opens offline. Computes no figures.

Reading order: ``parts`` with ``scores`` and ``search_parts`` (what a report holds), ``writing`` upon ``templating``
and ``templates/`` (the page), ``score_tables``, ``wording`` and ``search_wording`` (figures in words), ``figures``,
``score_figures``, ``search_figures`` with ``search_axes`` and ``trial_figures``, upon ``plotting`` (SVG), ``grids``
(PNG). ``setting_names`` has short names of settings. Where it all comes from is for ``pipeline.collecting`` to say.
"""
