"""Ray Train: one job per stage. Stages need nothing of each other, so their jobs run at the same time.

Three floors: ``stages.training.train_step`` is the step; ``train_loop`` runs in every worker; ``train_stage`` is the
graph node that drives it. Our commit log is the only truth about a checkpoint: a worker that starts reads the log,
never Ray's snapshot, and Ray is told of each commit by a pointer. Every draw is keyed by global step and position
(``stages.randomness``), so a run that was killed and resumed repeats itself bit for bit. Averages stored on the way
are commits beside the checkpoints (``pipeline.snapshots``).
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.commits import CommitLog, Entry
from pipeline.dag import Progress, Task
from pipeline.data.datasets import data_folder
from pipeline.data.loading import Examples
from pipeline.data.ordering import examples_of_step, positions_of_rank
from pipeline.snapshots import Snapshots
from pipeline.storage import open_storage
from pipeline.tracking import MetricBuffer, Tracker
from stages.checkpoints import load_state, save_checkpoint
from stages.images import to_float
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage, parameter_count
from stages.training import Batch, TrainState, train_step

KEEP = 2  # newest commits whose files stay; finals always do


@dataclass(frozen=True)
class LoopSettings:
    """What a worker needs to know; plain data that travels in Ray's config dict."""

    stage: dict[str, Any]
    training: dict[str, Any]
    seed: int
    data: str
    storage: str
    run: str  # prefix of the run's commit log
    threads: int
    log_every: int
    checkpoint_seconds: float
    progress: str | None
    tracking_uri: str | None
    tracking_run: str | None


def train_stage(task: Task) -> dict[str, Any]:
    """Graph node: train one stage to its number of steps and leave its averaged weights as the result.

    Beside them the averages stored on the way, if any, from which an EMA of another length is rebuilt.
    """
    context = task.context
    prefix = context["run"]
    steps = task.config["training"]["steps"]
    commits = CommitLog(task.storage, prefix, owner="reader", clock=time.time)
    snapshots = Snapshots.of(commits, TrainingSpec.model_validate(task.config["training"]))
    found = snapshots.latest_checkpoint(lambda step: step == steps)
    if found is None:
        settings = LoopSettings(
            stage=task.config["stage"],
            training=task.config["training"],
            seed=task.config["seed"],
            data=str(data_folder(task.inputs["data"])),
            storage=str(task.storage.root),
            run=prefix,
            threads=context["threads"],
            log_every=context["log_every"],
            checkpoint_seconds=context["checkpoint_seconds"],
            progress=None if task.progress.path is None else str(task.progress.path),
            tracking_uri=context.get("tracking_uri"),
            tracking_run=context.get("tracking_run"),
        )
        fit(settings, context, attempt=len(commits.entries()))
        found = snapshots.latest_checkpoint(lambda step: step == steps)
        assert found is not None, f"{prefix}: training ended without a commit at step {steps}"
    entry, folder = found
    for name in ("spec.json", "ema.safetensors", "history.json"):
        os.link(folder / name, task.out / name)
    snapshots.link(folder, steps, task.out)
    return {key: entry.info[key] for key in ("step", "seconds", "loss", "parameters")}


def read_history(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run up to a checkpoint or a result in ``folder``, one entry per logged step."""
    history: list[dict[str, float]] = json.loads((folder / "history.json").read_text())
    return history


def open_buffer(uri: str, run_id: str) -> MetricBuffer:
    """A buffer that leaves out what the run already has."""
    tracker = Tracker(uri)
    return MetricBuffer(tracker, run_id, after=tracker.last_step(run_id, "loss"))


def replay(buffer: MetricBuffer, history: list[dict[str, float]]) -> None:
    """Log a run's history again, so that a run which was begun under another parent is whole under this one."""
    for entry in history:
        buffer.add(int(entry["step"]), {key: value for key, value in entry.items() if key != "step"})


def fit(settings: LoopSettings, context: Mapping[str, Any], attempt: int) -> None:
    """Run ``train_loop`` under Ray Train. Raises what Ray raises when its retries are used up."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpus = context.get("gpus_per_worker", 0)
    resources = {"CPU": context["cpus_per_worker"]} | ({"GPU": gpus} if gpus else {})
    TorchTrainer(
        train_loop,
        train_loop_config=dict(vars(settings)),
        scaling_config=ScalingConfig(
            num_workers=context["workers"], use_gpu=bool(gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"{settings.run.removeprefix('runs/')}-{attempt}",
            storage_path=str(Path(settings.storage) / "ray-train"),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()


def train_loop(config: dict[str, Any]) -> None:
    """What every worker runs: resume from the log, step, commit, until the asked number of steps is reached."""
    import ray.train
    import ray.train.torch

    settings = LoopSettings(**config)
    torch.set_num_threads(settings.threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    run = StageRun(settings, rank=rank, world=world, device=ray.train.torch.get_device())
    run.resume()
    run.train(report=_report_pointer)


def _report_pointer(entry: Entry | None, metrics: dict[str, float]) -> None:
    """Tell Ray of a commit: a checkpoint that holds nothing but the name of ours."""
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        if entry is not None:
            (Path(folder) / "pointer.json").write_text(json.dumps({"folder": entry.folder, "number": entry.number}))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


class StageRun:
    """One worker's part of training a stage. Works without Ray: a process group is used if there is one."""

    def __init__(self, settings: LoopSettings, *, rank: int, world: int, device: torch.device | str) -> None:
        self.settings, self.rank, self.world, self.device = settings, rank, world, device
        self.training = TrainingSpec.model_validate(settings.training)
        self.examples = Examples(settings.data, "train")
        classes = len(self.examples.classes)
        self.stage = Stage.build(StageSpec.model_validate({**settings.stage, "classes": classes}))
        self.state = TrainState.start(self.stage, self.training, settings.seed, device)
        self.positions = positions_of_rank(self.training.batch_size, rank, world)
        storage = open_storage(settings.storage)
        owner = f"{os.uname().nodename}:{os.getpid()}"
        self.commits = CommitLog(storage, settings.run, owner=owner, clock=time.time)
        self.snapshots = Snapshots.of(self.commits, self.training)
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0

    def resume(self) -> None:
        """Take the run over and go on from its newest whole commit that is not past the asked steps."""
        number = 0
        if self.rank == 0:
            self.commits.take_over()
            found = self.snapshots.latest_checkpoint(lambda step: step <= self.training.steps)
            number = found[0].number if found else 0
        number = int(self._from_rank_zero(number))
        if number:
            # Every rank reads the commit that rank 0 chose, also when another appears meanwhile.
            entry = self.commits.entries()[number - 1]
            folder = self.commits.storage.path(f"{self.settings.run}/{entry.folder}")
            load_state(folder, self.state)
            self.history = read_history(folder)
            self.seconds = entry.info["seconds"]
        self.model: Any = self.state.net
        if self.world > 1:
            self.model = torch.nn.parallel.DistributedDataParallel(self.state.net)

    def batch(self, step: int) -> Batch:
        """This rank's slice of the global batch of ``step``."""
        order = examples_of_step(
            self.settings.seed,
            self.stage.spec.name,
            step,
            batch_size=self.training.batch_size,
            num_examples=len(self.examples),
        )
        images, labels = self.examples.read(order[self.positions])
        return Batch(
            to_float(torch.from_numpy(images)).to(self.device),
            torch.from_numpy(labels).to(self.device),
            torch.from_numpy(self.positions).to(self.device),
        )

    def train(self, report: Any) -> None:
        """Step until done; ``report(entry, metrics)`` is called by every rank after each commit."""
        steps, log_every = self.training.steps, self.settings.log_every
        progress = Progress(Path(self.settings.progress) if self.settings.progress and self.rank == 0 else None)
        buffer = self._metric_buffer()
        if buffer is not None:
            replay(buffer, self.history)
        window: list[torch.Tensor] = []
        mark, committed, before = time.monotonic(), time.monotonic(), self.seconds
        started = mark
        while self.state.step < steps:
            batch = self.batch(self.state.step)
            seen = train_step(
                self.stage, self.state, batch, model=self.model, training=self.training, seed=self.settings.seed
            )
            window.append(seen.loss)
            now = self.state.step
            if self.rank == 0:
                self.snapshots.store(self.state)
            if now % log_every and now < steps:
                continue
            metrics = {
                "loss": self._mean_over_ranks(torch.stack(window).mean()),
                "gradient_norm": float(seen.gradient_norm),
                "learning_rate": seen.learning_rate,
                "images_per_second": len(window) * self.training.batch_size / (time.monotonic() - mark),
            }
            window, mark = [], time.monotonic()
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(f"{self.stage.spec.name}: the loss is {metrics['loss']} at step {now}")
            self.history.append({"step": now, **metrics})
            if buffer is not None:
                buffer.add(now, metrics)
            progress(now, steps)
            self.seconds = before + time.monotonic() - started
            due = now == steps or time.monotonic() - committed > self.settings.checkpoint_seconds
            if self._from_rank_zero(float(due)):
                if buffer is not None:
                    buffer.flush()
                entry = self.commit(metrics) if self.rank == 0 else None
                report(entry, {"step": float(now), **metrics})
                committed = time.monotonic()

    def commit(self, metrics: Mapping[str, float]) -> Entry:
        """Save the state and publish it as the next entry of the log. Raises OwnershipLost for a stale owner."""
        name, folder = self.commits.new_folder(f"step-{self.state.step:08d}")
        save_checkpoint(folder, self.stage.spec, self.training, self.settings.seed, self.state)
        (folder / "history.json").write_text(json.dumps(self.history))
        info = {
            "step": self.state.step,
            "seconds": self.seconds,
            "loss": metrics["loss"],
            "parameters": parameter_count(self.state.net),
            "final": self.state.step == self.training.steps,
        }
        entry = self.commits.commit(name, info)
        self.commits.prune(KEEP)
        return entry

    def _metric_buffer(self) -> MetricBuffer | None:
        if self.rank or self.settings.tracking_uri is None or self.settings.tracking_run is None:
            return None
        return open_buffer(self.settings.tracking_uri, self.settings.tracking_run)

    def _from_rank_zero(self, value: float) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def _mean_over_ranks(self, value: torch.Tensor) -> float:
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.world
        return float(value)
