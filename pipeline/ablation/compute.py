"""What the nets of an ablation compute: FLOPs beside scores, which say the same on every machine, as seconds do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ablation.parts import Compute
from pipeline.experiment_spec import Experiment

if TYPE_CHECKING:
    from stages.accounting import Cost


class Counted:
    """Counts each net once. They are of ``classes`` classes; their last stage is that of the ablation."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._costs: dict[str, Cost] = {}

    def of(self, experiment: Experiment) -> Compute:
        """Of the last stage of ``experiment``: to draw an image on one from below, and to train it."""
        from stages.accounting import cost_of
        from stages.stage import Stage

        config = experiment.stages[experiment.last]
        spec, training = experiment.stage_spec(experiment.last, self.classes), config.training
        key = f"{spec.model_dump_json()} {training.precision}"
        if key not in self._costs:
            self._costs[key] = cost_of(Stage.build(spec), training)
        cost = self._costs[key]
        return Compute(
            parameters=cost.parameters,
            drawn_gflop=cost.forward_flops * config.sampling.net_calls / 1e9,
            trained_pflop=cost.training_flops * training.batch_size * training.steps / 1e15,
        )
