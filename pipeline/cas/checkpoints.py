"""A checkpoint of the classifier: its net with all running statistics, and the optimizer's momentum. No code in it.

net.safetensors        parameters and running statistics
momentum.safetensors   the momentum of every parameter, by its name
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def save_state(folder: Path, net: nn.Module, optimizer: torch.optim.SGD) -> None:
    """Write both files into ``folder``."""
    save_file({name: value.cpu().contiguous() for name, value in net.state_dict().items()}, folder / "net.safetensors")
    momentum = {name: optimizer.state[parameter].get("momentum_buffer") for name, parameter in net.named_parameters()}
    save_file(
        {name: buffer.cpu().contiguous() for name, buffer in momentum.items() if buffer is not None},
        folder / "momentum.safetensors",
    )


def load_state(folder: Path, net: nn.Module, optimizer: torch.optim.SGD) -> None:
    """Put what `save_state` wrote into a net and an optimizer made with the same settings."""
    net.load_state_dict(load_file(folder / "net.safetensors"))
    momentum = load_file(folder / "momentum.safetensors")
    for name, parameter in net.named_parameters():
        if name in momentum:
            optimizer.state[parameter] = {"momentum_buffer": momentum[name].to(parameter.device)}
