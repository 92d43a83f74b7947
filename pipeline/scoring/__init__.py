"""From images to features to scores, and how far to trust them. No sampling, no Ray, no graph.

Reading order: ``extractors`` with ``inception`` and ``inception_blocks``, ``dinov2`` and ``weights`` (images to
features, and where the weights come from); ``registered`` (the same for torch-fidelity); ``statistics`` (what is kept
of features, and merges); the scores ``frechet``, ``kernel_distance``, ``inception_score``, ``manifold`` (precision,
recall, nearest images) and ``accuracy``, by class in ``per_class``; ``error_bars`` (how far an FID is from itself on
other samples, and from its limit at infinitely many); ``family`` (all of these of one sample set); ``examination``
(colours and frequencies); ``passport`` and ``passport_words`` (what a score was made from, which may be ranked).
"""
