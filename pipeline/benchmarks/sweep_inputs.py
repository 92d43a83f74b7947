"""What the sweep benchmark runs on: a small cascade with weights that learned nothing, in stores made for it.

What is drawn with such weights is noise, and costs what images cost.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.commits import CommitLog
from pipeline.dag import ancestry, source_of
from pipeline.data.drawn import CLASSES
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.trials import targets_of
from pipeline.storage import LocalStorage, Storage, open_storage

PREPARED = ("data", "train", "classifier", "real")  # kinds of nodes that are no part of what is measured


def swept_experiment(
    store: Path,
    stages: int,
    *,
    levels: int = 8,
    samples: int = 256,
    base_steps: int = 48,
    channels: int = 32,
    block: int = 64,
    search: Mapping[str, Any] | None = None,
) -> Experiment:
    """A cascade of 8 -> 16 (-> 32) px whose search sweeps the truncation level of every stage above the base.

    ``search`` has settings of the search section in place of these; nets have ``channels`` and steps above the base are
    an even 8, or as many as the base has where those are fewer.
    """
    net = {"kind": "unet", "channels": channels, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
    sizes, config = [8 * 2**number for number in range(stages)], {}
    for number, size in enumerate(sizes):
        sampling: dict[str, Any] = {"sampler": "ddim", "steps": base_steps}
        own: dict[str, Any] = {"size": size, "net": net, "training": {"steps": 1, "batch_size": 8}}
        if number:
            sampling |= {"steps": min(8, base_steps), "augmentation": "truncated", "level": 0.3}
            own |= {"net": net | {"patch": 2}, "low_res_size": size // 2}
            own |= {"augmentation": {"noise": {"levels": [0.0, 0.4]}}}
        config[f"sr{size}" if number else "base"] = own | {"sampling": sampling}
    values = [round(0.4 * (number + 1) / levels, 4) for number in range(levels)]
    space = {f"stages.sr{size}.sampling.level": {"values": values} for size in sizes[1:]}
    judging = {"classifier": {"steps": 2, "channels": [channels // 2, channels]}, "block": block}
    return Experiment.model_validate(
        {
            "name": "sweep",
            "data": {"kind": "drawn", "size": sizes[-1], "train": 1000, "val": samples},
            "stages": config,
            "evaluation": {"samples": samples, "reference": 1000, **judging},
            "search": {"samples": samples, "concurrency": 1, "space": space, **(search or {})},
            "store": str(store),
        }
    )


def prepare(experiment: Experiment) -> None:
    """Store what a sweep needs and does not compute: data, untrained weights, classifiers, real statistics."""
    storage, nodes = open_storage(experiment.store), Nodes(experiment, trial=True)
    execute([nodes.data], storage, Silence(), use_ray=False)
    for number, name in enumerate(experiment.names):
        give_weights(experiment, name, storage, seed=number)
    sizes = {stage.size for stage in experiment.stages.values()}
    execute([nodes.judge, *(nodes.real("train", size) for size in sizes)], storage, Silence(), use_ray=False)


def give_weights(experiment: Experiment, name: str, storage: Storage, *, seed: int) -> None:
    """Commit weights that learned nothing as the result of training stage ``name``: away from the zeros of a start."""
    import torch

    from stages.checkpoints import save_checkpoint
    from stages.stage import Stage
    from stages.training import TrainState

    node, config = Nodes(experiment, trial=True).train(name), experiment.stages[name]
    stage = experiment.stage_spec(name, classes=len(CLASSES))
    state = TrainState.start(Stage.build(stage), config.training, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in state.ema.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    commits = CommitLog(storage, node.key, owner="benchmark", clock=time.time)
    commits.begin()
    label, folder = commits.new_folder("files")
    save_checkpoint(folder, stage, config.training, 0, state)
    summary = {"step": 0, "seconds": 0.0, "loss": 0.0, "parameters": 0}
    commits.commit(label, {"node": node.name, "summary": summary, "seconds": 0.0, "source": source_of(node.function)})


def fresh_store(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment in a new store that has only what ``prepare`` stored, as links."""
    storage = LocalStorage(Path(experiment.store))
    needed = [node for stage in experiment.names for node in ancestry(targets_of(experiment, stage))]
    for key in {node.key for node in needed if node.name.split("/")[0] in PREPARED}:
        shutil.copytree(storage.path(key), folder / key, copy_function=os.link)
    return experiment.model_copy(update={"store": str(folder)})


def one_level(experiment: Experiment, path: str, value: float) -> Experiment:
    """The experiment whose search tries one value of ``path`` and nothing else: a separate evaluation."""
    search = experiment.search
    assert search is not None, "the benchmark has a search section"
    alone = search.model_validate({**search.model_dump(), "space": {path: {"values": [value]}}})
    return with_settings(experiment.model_copy(update={"search": alone}), {path: value})
