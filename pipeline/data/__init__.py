"""From somebody's images to the batches of a stage: ingest, shards, their manifest, the order, the reading.

Reading order: ``specs`` (what an experiment says of its data); ``sources`` with ``listings``, ``tar_listing`` and
``webdataset_source`` (where the files of a source lie), ``arranging`` (classes, splits, order of writing),
``decoding``; ``manifest``, ``indices``, ``shards``, ``forms`` and ``encoding`` (what is stored), ``writing``,
``publishing``, ``ingest`` and ``verifying``; ``ordering`` and ``sharing`` (which examples a step and a worker read);
``loading`` with ``opened_shards`` and ``cache``, ``batches`` (reading them); ``drawn`` (the data set that needs no
source) and ``datasets`` (all of it as nodes of the graph). ``docs/data.md`` tells the same as a user sees it.
"""
