"""The classification accuracy score (CAS): a classifier is trained on samples alone and tested on real images.

Not the accuracy of samples under a classifier that was trained on real images: that is the cheap proxy
(`pipeline.scoring.accuracy`), and the two never share a name. This one falls when samples lack what the real images
of a class have, variety above all, which no score of single samples sees.

Reading order: ``spec`` (the published protocol, and what may be scaled), ``sample_sets`` (one sample for every
training image, as a data set) with ``pipelined`` and ``dealing`` (drawn by actors of each stage), ``networks``,
``augmentation``, ``run`` with ``checkpoints`` (one worker's part of training, then the test), ``training`` (Ray Train,
the graph node), ``passport`` (what a score was measured on).
"""
