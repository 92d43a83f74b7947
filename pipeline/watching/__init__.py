"""Scores while stages train: a curve over steps from weights set aside on the way. Nothing of it changes training.

Reading order: ``spec`` (what the YAML says), ``weights`` (what a training run sets aside), ``run`` (who looks out for
them, ``together`` for several experiments), ``task`` upon ``scoring`` (one moment scored, as a Ray task), ``points``
(the curve, and its way to MLflow).
"""
