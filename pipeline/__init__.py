"""The Ray side of Rayfall: data, training, search, evaluation, tracking and the report.

Reading order: ``experiment`` (one YAML file, one validated object), ``drawn``/``ingest``/``shards``/
``loading``/``ordering`` (the data), ``storage``/``commits`` (what exists and what does not), ``dag`` (the
graph that remembers), ``training``, ``evaluation``, ``search``, ``workflow`` (the graph of an
experiment), ``tracking`` and ``report``.
"""
