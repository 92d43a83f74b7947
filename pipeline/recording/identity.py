"""What the runs of an experiment, and its claim, are found again by. Loads nothing heavy."""

from __future__ import annotations

from pipeline.addresses import without_secret
from pipeline.experiment import digest_of
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes


def declared_identity(experiment: Experiment) -> str:
    """What the runs of ``experiment`` are found again by: a digest of what is declared, with any cells and seeds.

    Not of what the search will choose: the same command must find the same runs again. Of settings and not of nodes:
    those of the evaluation ask for weights files that training does without. Weights are known by their sha256 where it
    is declared, else by their address without what lets somebody in, which is signed anew again and again.
    """
    elsewhere = {"data", "store", "tracking", "resources", "description", "ablation"}
    settings = experiment.model_dump(mode="json", exclude=elsewhere)
    for scorer in (settings["evaluation"]["scorer"], *settings["evaluation"]["also"]):
        if "weights" in scorer:
            scorer["weights"] = None if scorer["sha256"] else without_secret(scorer["weights"])
    return digest_of([settings, Nodes(experiment).data.identity])
