"""From somebody's images to the batches of a stage: ingest, shards, their manifest, the order, the reading.

Reading order: ``specs`` (what an experiment says of its data), ``sources`` (files of images, wherever they lie),
``arranging`` (classes and splits), ``decoding``, ``ingest`` with ``shards``, ``manifest`` and ``publishing`` (what is
written), ``ordering`` (which examples a step reads), ``loading`` (reading them), ``drawn`` (the data set that needs no
source) and ``datasets`` (all of it as nodes of the graph).
"""
