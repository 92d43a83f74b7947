"""MLflow, and the only importer of it. Not the store of results: everything here can be written again from those.

Reading order: ``addresses`` (stores and servers, without MLflow), ``opening`` (what keeps one from being opened),
``runs`` (runs with explicit ids, batched metrics, artifacts), then the way of a training's metrics: ``metric_buffer``
(in the worker), ``journal`` (in the store of results), ``forwarding`` and ``sending`` (in the driver, to MLflow, each
step once), ``outages`` (an MLflow that does not answer); ``views`` (saved views of the runs page), ``registry`` (the
chosen weights as a version of a model).
"""
