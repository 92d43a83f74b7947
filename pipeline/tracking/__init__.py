"""MLflow, and the only importer of it. Not the store of results: everything here can be written again from those.

Reading order: ``addresses`` (stores and servers, without MLflow), ``opening`` (what keeps one from being opened),
``runs`` (runs with explicit ids, batched metrics, artifacts), ``metric_buffer`` (a training worker's metrics on their
way), ``views`` (saved views of the runs page), ``registry`` (the chosen weights as a version of a model).
"""
