"""What MLflow is told: one tree of runs per experiment. MLflow itself is imported by ``tracking`` alone.

Reading order: ``settings`` (flat params with short names), ``scores`` (flat metrics, passports, tags), ``runs``
(evaluations and trainings), ``experiment`` (the parent run and its children), ``remembered`` (which these were, while
MLflow is down), ``searches`` (a run per search and per trial). That of an ablation is in
``pipeline.ablation.recording``.
"""
