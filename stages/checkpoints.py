"""A checkpoint is a folder: descriptions as JSON, tensors as safetensors. Nothing in it is ever executed.

    spec.json               {"stage": StageSpec, "training": TrainingSpec, "seed": int, "step": int}
    net.safetensors         weights
    ema.safetensors         averaged weights: what is sampled from
    optimizer.safetensors   "<statistic>/<parameter name>" -> tensor
    averages.safetensors    "<relative width>/<parameter name>" -> tensor; only where training.averages asks for them

To sample from, spec.json and ema.safetensors are enough. Beside them, ``averages/<step>.safetensors`` are averages
stored on the way and at the end, each like averages.safetensors, from which an EMA of another length is rebuilt; in
float32, because the weights of that sum have both signs and magnify rounding.

The folder says nothing about whether it is whole; that is the commit log's word (``pipeline.commits``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.averages import Profile, check_rebuilding, rebuilding_weights
from stages.cascade import TrainedStage
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

FORMAT = 2
AVERAGES = "averages.safetensors"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: _copied(tensor) for name, tensor in module.state_dict().items()}


def _copied(tensor: Tensor) -> Tensor:
    """In host memory, and its own: later steps do not change it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{statistic}/{name}": _copied(value)
        for name, parameter in state.net.named_parameters()
        for statistic, value in state.optimizer.state[parameter].items()
    }


def describe(stage: StageSpec, training: TrainingSpec, seed: int, step: int) -> str:
    """The text of spec.json."""
    described = {"stage": stage.model_dump(mode="json"), "training": training.model_dump(mode="json")}
    return json.dumps({"format": FORMAT, **described, "seed": seed, "step": step}, indent=1) + "\n"


@dataclass(frozen=True)
class Checkpoint:
    """All that a checkpoint holds, copied: the training may go on while it is written."""

    files: Mapping[str, Mapping[str, Tensor]]
    description: str

    @classmethod
    def of(cls, stage: StageSpec, training: TrainingSpec, seed: int, state: TrainState) -> Checkpoint:
        """The ``state`` as it is now."""
        files = {
            "net.safetensors": _tensors(state.net),
            "ema.safetensors": _tensors(state.ema),
            "optimizer.safetensors": _optimizer_tensors(state),
        }
        if state.averages:
            files[AVERAGES] = averages_of(state)
        return cls(files, describe(stage, training, seed, state.step))

    @classmethod
    def of_average(cls, stage: StageSpec, training: TrainingSpec, seed: int, state: TrainState) -> Checkpoint:
        """As much of it as one samples from."""
        return cls({"ema.safetensors": _tensors(state.ema)}, describe(stage, training, seed, state.step))

    def save(self, folder: Path) -> None:
        """Write it to the empty or absent ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in self.files.items():
            save_file(dict(tensors), folder / name)
        (folder / "spec.json").write_text(self.description)


def save_checkpoint(folder: Path, stage: StageSpec, training: TrainingSpec, seed: int, state: TrainState) -> None:
    """Write ``state`` to the empty or absent ``folder``."""
    Checkpoint.of(stage, training, seed, state).save(folder)


def averages_of(state: TrainState) -> dict[str, Tensor]:
    """The power-function averages of ``state`` as they are now, copied; named as in their file."""
    return {
        f"{width}/{name}": _copied(tensor)
        for width, average in state.averages.items()
        for name, tensor in average.items()
    }


def save_averages(path: Path, averages: Mapping[str, Tensor]) -> None:
    """Write what ``averages_of`` copied."""
    save_file(dict(averages), path)


def averages_path(folder: Path, step: int) -> Path:
    """Where the averages stored at ``step`` lie beside the weights to sample from."""
    return folder / "averages" / f"{step:08d}.safetensors"


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
    saved = load_file(folder / AVERAGES) if state.averages else {}
    for width, average in state.averages.items():
        for name, tensor in average.items():
            tensor.copy_(saved[f"{width}/{name}"])
    state.step = _step_of(folder)


def _step_of(folder: Path) -> int:
    step = read_description(folder)["step"]
    assert isinstance(step, int)
    return step


def load_trained(
    folder: Path,
    *,
    averaged: bool = True,
    ema_length: float | None = None,
    device: torch.device | str = "cpu",
    compiled: bool = False,
) -> TrainedStage:
    """A stage ready to sample from, with its averaged weights (or the raw ones).

    ``ema_length`` is the relative width of another average, rebuilt from those stored beside the weights. Raises
    ValueError when none are stored or they do not come near it.
    """
    if ema_length is not None and not averaged:
        raise ValueError(f"ema_length {ema_length:g} speaks of averaged weights; leave averaged=True or give none")
    spec = StageSpec.model_validate(read_description(folder)["stage"])
    stage = Stage.build(spec)
    net = stage.build_net(seed=0)
    net.load_state_dict(load_file(folder / ("ema.safetensors" if averaged else "net.safetensors")))
    if ema_length is not None:
        rebuilt = rebuilt_average(folder, ema_length)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(rebuilt[name])
    return TrainedStage(stage, net.to(device).eval().requires_grad_(False), compiled)


def rebuilt_average(folder: Path, length: float) -> dict[str, Tensor]:
    """The weights, by parameter name, averaged with relative width ``length`` up to the step of the ``folder``.

    Summed in float64. Raises ValueError when the folder holds no stored averages, or none near enough.
    """
    keys: dict[Path, list[str]] = {}
    for path in sorted((folder / "averages").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            keys[path] = sorted(file.keys())
    if not keys:
        raise ValueError(
            f"ema_length {length:g} cannot be rebuilt in {folder}: it holds no stored averages; train with "
            "training.averages"
        )
    stored = sorted({_profile(path, key) for path in keys for key in keys[path]})
    wanted = Profile(length, _step_of(folder))
    check_rebuilding(stored, wanted)
    weights = dict(zip(stored, rebuilding_weights(stored, wanted).tolist(), strict=True))
    total: dict[str, Tensor] = {}
    for path in keys:
        with safe_open(path, "pt") as file:
            for key in keys[path]:
                if weight := weights[_profile(path, key)]:
                    name, term = key.split("/", 1)[1], file.get_tensor(key).double() * weight
                    total[name] = total[name] + term if name in total else term
    return {name: tensor.float() for name, tensor in total.items()}


def _profile(path: Path, key: str) -> Profile:
    """What a tensor of a file of stored averages is the average of."""
    return Profile(float(key.split("/", 1)[0]), int(path.stem))
