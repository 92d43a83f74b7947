"""What a stage costs, reckoned without computing anything: parameters, FLOPs, memory for activations, checkpoints.

The net is built and run on *fake* tensors, which have shapes and types but no data, so a net of two billion
parameters is counted in seconds on any machine. FLOPs count a multiply-add as two (the sum over matrix products,
convolutions and attention; elementwise work is left out, as the literature does).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stages.recomputing import recompute_from
from stages.specs import TrainingSpec
from stages.stage import LowRes, Stage, parameter_count


@dataclass(frozen=True)
class Cost:
    """Figures of one stage; FLOPs and activations per image, the checkpoint as ``checkpoints`` writes it."""

    parameters: int
    forward_flops: int
    training_flops: int  # forward and backward of one image
    activation_bytes: int  # saved for the backward pass of one image, at the precision of training
    checkpoint_bytes: int  # weights, averages, both moments of AdamW


def cost_of(stage: Stage, training: TrainingSpec, *, recompute: int | None = None) -> Cost:
    """What ``stage`` costs when it is trained as ``training`` says. Takes seconds and no memory to speak of.

    With ``recompute`` blocks on maps of that many px keep only their input and are computed again (``recomputing``):
    the activations are fewer, the FLOPs of training more. What one block keeps while it is gone back through comes on
    top, then.
    """
    stage = Stage.build(stage.spec)  # its schedules keep tensors, which must not become fake in the caller's
    with FakeTensorMode():
        net = stage.new_net().train()
        recompute_from(net, recompute)
        counter = FlopCounterMode(display=False)
        with _saved_storages(net) as one, counter:
            output = _run(stage, net, training, 1)
        forward = counter.get_total_flops()
        with counter, sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # counts anew
            output.float().sum().backward()
        with _saved_storages(net) as two:
            _run(stage, net, training, 2)
    parameters = parameter_count(net)
    # Two images less one: what does not grow with the batch (converted weights, constants) cancels.
    saved = sum(two.values()) - sum(one.values())
    averages = 0 if training.averages is None else len(training.averages.widths)
    return Cost(parameters, forward, forward + counter.get_total_flops(), saved, 4 * parameters * (4 + averages))


def _run(stage: Stage, net: nn.Module, training: TrainingSpec, batch: int) -> Tensor:
    """Output of the net on ``batch`` images of no content, under the autocast of training."""
    spec = stage.spec
    images = torch.zeros(batch, 3, spec.size, spec.size)
    noise, label = torch.zeros(batch), torch.zeros(batch, dtype=torch.int64)
    low_res = None
    if spec.low_res_size is not None:
        low_res = LowRes(torch.zeros(batch, 3, spec.low_res_size, spec.low_res_size), noise)
    # Attention in one kernel, which goes back over what it did not keep: as on a GPU.
    flash, bf16 = sdpa_kernel(SDPBackend.FLASH_ATTENTION), training.precision == "bf16"
    with flash, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return stage.evaluate_net(net, images, noise, label, low_res)


@contextmanager
def _saved_storages(net: nn.Module) -> Iterator[dict[int, int]]:
    """Sizes in bytes of the storages that autograd keeps, each counted once; the net's own weights are left out."""
    own = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    found: dict[int, int] = {}
    alive: list[Any] = []  # a storage that is freed could give its identity to another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found
    alive.clear()
