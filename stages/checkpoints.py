"""A checkpoint is a folder: descriptions as JSON, tensors as safetensors. Nothing in it is ever executed.

    spec.json               {"stage": StageSpec, "training": TrainingSpec, "seed": int, "step": int}
    net.safetensors         weights
    ema.safetensors         averaged weights: what is sampled from
    optimizer.safetensors   "<statistic>/<parameter name>" -> tensor

The folder says nothing about whether it is whole; that is the commit log's word (``pipeline.commits``).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.cascade import TrainedStage
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

FORMAT = 1


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{statistic}/{name}": value.detach().cpu().contiguous()
        for name, parameter in state.net.named_parameters()
        for statistic, value in state.optimizer.state[parameter].items()
    }


def save_checkpoint(folder: Path, stage: StageSpec, training: TrainingSpec, seed: int, state: TrainState) -> None:
    """Write ``state`` to the empty or absent ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(state.net), folder / "net.safetensors")
    save_file(_tensors(state.ema), folder / "ema.safetensors")
    save_file(_optimizer_tensors(state), folder / "optimizer.safetensors")
    description = {
        "format": FORMAT,
        "stage": stage.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "seed": seed,
        "step": state.step,
    }
    (folder / "spec.json").write_text(json.dumps(description, indent=1) + "\n")


def read_description(folder: Path) -> dict[str, object]:
    """The JSON of a checkpoint. Raises ValueError when ``folder`` holds none of this format."""
    path = folder / "spec.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a checkpoint: it has no spec.json")
    description = json.loads(path.read_text())
    if description.get("format") != FORMAT:
        raise ValueError(f"{path} has format {description.get('format')!r}; this version reads format {FORMAT}")
    return description


def load_state(folder: Path, state: TrainState) -> None:
    """Put a checkpoint's weights, averages, optimizer statistics and step into ``state`` (same stage)."""
    device = next(state.net.parameters()).device
    state.net.load_state_dict(load_file(folder / "net.safetensors"))
    state.ema.load_state_dict(load_file(folder / "ema.safetensors"))
    saved = load_file(folder / "optimizer.safetensors")
    for name, parameter in state.net.named_parameters():
        statistics = {key.split("/", 1)[0]: value for key, value in saved.items() if key.split("/", 1)[1] == name}
        # AdamW keeps its step count on the CPU unless fused on a device; moments live beside the parameter.
        state.optimizer.state[parameter] = {key: value.to(device) for key, value in statistics.items()}
    step = read_description(folder)["step"]
    assert isinstance(step, int)
    state.step = step


def load_trained(folder: Path, *, averaged: bool = True, device: torch.device | str = "cpu") -> TrainedStage:
    """A stage ready to sample from, with its averaged weights (or the raw ones)."""
    spec = StageSpec.model_validate(read_description(folder)["stage"])
    stage = Stage.build(spec)
    net = stage.build_net(seed=0)
    net.load_state_dict(load_file(folder / ("ema.safetensors" if averaged else "net.safetensors")))
    return TrainedStage(stage, net.to(device).eval().requires_grad_(False))
