"""A step never waits for the GPU: proven on a GPU that only pretends to be there.

Tensors of device "cuda" have shapes and types and no data (torch's fake tensors), those of the CPU are real. So
whatever must know a value that the GPU has yet to compute cannot go on, and every copy from one to the other is seen.
What torch cannot do without a real GPU is stood in for: its generators, and the engine that walks a backward pass; the
backward pass itself is made on "meta" tensors, of which nothing can be read either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.cascade import Rung, TrainedStage, sample_stage
from stages.randomness import KeyedDraws, _words
from stages.specs import StageSamplingSpec, StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, accumulate_gradients, train_step

NETS: Mapping[str, dict[str, Any]] = {
    "unet": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [8], "head_width": 8},
    "adm": {"kind": "adm", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [8], "head_width": 8},
    "uvit": {
        "kind": "uvit",
        "channels": 8,
        "multipliers": [1, 1, 2],
        "blocks": 1,
        "depth": 1,
        "head_width": 8,
        "patch": 2,
        "patching": "haar",
    },
}
STEPPED: Mapping[str, Any] = {
    "schedule": {"kind": "linear_beta", "steps": 20, "beta_start": 0.01, "beta_end": 0.6},
    "conditioning": "step",
    "prediction": "eps",
}
STAGES: Mapping[str, dict[str, Any]] = {
    **{name: {"net": net} for name, net in NETS.items()},
    "dropout": {"net": {**NETS["unet"], "dropout": 0.1}},
    "gamma": {"net": NETS["unet"], **STEPPED, "times": "gamma", "conditioning": "gamma", "loss": {"space": "eps"}},
    "hybrid": {"net": NETS["adm"], **STEPPED, "times": "steps", "loss": {"kind": "hybrid"}},
    "super_resolution": {
        "net": NETS["unet"],
        "low_res_size": 8,
        "low_res_schedule": STEPPED["schedule"],
        "augmentation": {"noise": {"levels": [0.0, 0.4]}, "blur": {}},
        "flip": True,
        "loss": {"space": "eps", "multiscale": 8, "weight": {"bias": -1.0}},
    },
}
aten = torch.ops.aten


class WaitsError(AssertionError):
    """The host would wait here until the GPU is done with all that it was given."""


class PretendGPU(TorchDispatchMode):
    """Runs what is on the CPU for real, and what is on "cuda" by its shapes alone.

    Raises WaitsError for a value or a copy to the host that is asked of it, for a copy from the host that is not
    ``non_blocking``, and for tensors of the host among its own (but for numbers, which travel with the call).
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.copied: list[tuple[int, ...]] = []  # shapes of what went over, without waiting

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is aten.to:  # as inference mode has it: what it consists of is looked at
            with self:
                return func.decompose(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        theirs = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        asked = kwargs.get("device")
        if not theirs and (asked is None or torch.device(asked).type != "cuda"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is aten._to_copy.default and asked is not None:
            self._see_copy(args[0], torch.device(asked), kwargs.get("non_blocking", False))
            if not theirs:
                return torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=asked)
        elif func is aten.copy_.default:
            self._see_copy(args[1], args[0].device, len(args) > 2 and args[2])
        else:
            # What torch hands to a kernel as a number: an operand of arithmetic. `where` copies it over first.
            numbers = func is not aten.where.self
            strangers = [one for one in tensors if one.device.type == "cpu" and (one.ndim or not numbers)]
            if theirs and strangers:
                raise WaitsError(f"{func} mixes a tensor of the host with those of the GPU")
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise WaitsError(f"{func} asks the GPU for a value") from error

    def _see_copy(self, tensor: Tensor, device: torch.device, non_blocking: bool) -> None:
        if tensor.device.type == device.type:
            return
        if device.type == "cpu" or not non_blocking:
            raise WaitsError(f"a tensor of shape {tuple(tensor.shape)} is copied from {tensor.device} to {device}")
        self.copied.append(tuple(tensor.shape))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendGPU:
    """The pretence; autocast believes in it, and the generators of a GPU that is not there are left alone."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr("torch.random.fork_rng", lambda devices: nullcontext())
    monkeypatch.setattr("torch.manual_seed", lambda seed: None)
    return PretendGPU()


def stage_of(kind: str) -> Stage:
    return Stage.build(StageSpec.model_validate({"name": kind, "size": 16, "classes": 3, **STAGES[kind]}))


def batch_on(device: str) -> Batch:
    """Five images; their positions stay on the host, as always."""
    images, labels = torch.zeros(5, 3, 32, 32, device=device), torch.zeros(5, dtype=torch.int64, device=device)
    return Batch(images, labels, torch.arange(5))


@pytest.mark.parametrize(
    ("what", "wait"),
    {
        "number": lambda x: float(x.sum()),
        "decision": lambda x: bool((x > 0).any()),
        "places": lambda x: x.nonzero(),
        "mask": lambda x: x[x > 0],
        "copy": lambda x: x.cpu(),
        "upload": lambda x: torch.zeros(3).to(x.device),
        "scalar": lambda x: torch.zeros(()).to(x),
        "in place": lambda x: x.copy_(torch.zeros(4)),
        "mixed": lambda x: x + torch.zeros(4),
        "chosen": lambda x: torch.where(x > 0, x, torch.zeros(())),
    }.items(),
)
def test_the_pretence_sees_what_waits(gpu: PretendGPU, what: str, wait: Callable[[Tensor], Any]) -> None:
    with gpu.fake, gpu:
        x = torch.zeros(4, device="cuda")
        assert (x * torch.tensor(2.0) + 1.0).device.type == "cuda"  # these do not
        torch.zeros(3).to("cuda", non_blocking=True)
        with pytest.raises(WaitsError):
            wait(x)
    assert gpu.copied == [(3,)]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("kind", STAGES)
def test_a_training_step_does_not_wait(
    kind: str, precision: str, gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it but the engine's walk back, which gives gradients of the right shapes here."""
    stage = stage_of(kind)
    fields = {"steps": 9, "batch_size": 5, "micro_batch": 2, "precision": precision, "averages": {"every": 4}}
    training = TrainingSpec.model_validate(fields)

    def backward(loss: Tensor) -> None:
        assert loss.requires_grad
        assert loss.ndim == 0
        for parameter in state.net.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    with gpu.fake, gpu:
        state = started(stage, training, monkeypatch)
        batch = batch_on("cuda")
        train_step(stage, state, batch, training=training, seed=0)  # copies the values of schedules, once for all
        gpu.copied.clear()
        report = train_step(stage, state, batch, training=training, seed=0)
    assert report.loss.device.type == "cuda"
    assert report.loss.ndim == report.gradient_norm.ndim == 0
    assert gpu.copied == [(2,), (2,), (1,)], "positions alone go over, those of a micro-batch at a time"
    assert state.step == 2


def started(stage: Stage, training: TrainingSpec, monkeypatch: pytest.MonkeyPatch) -> TrainState:
    """As ``TrainState.start`` has it, with weights of no content that are where they should be from the beginning."""
    with torch.device("cuda"):
        net = stage.new_net()
    monkeypatch.setattr(Stage, "build_net", lambda self, seed: net)
    monkeypatch.setattr(net, "to", lambda device: net)
    return TrainState.start(stage, training, 0, "cuda")


def test_fused_draws_do_not_wait(gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    called = list[tuple[Any, ...]]()

    def words(*asked: Any) -> Tensor:
        called.append(asked)
        return _words(*asked)

    monkeypatch.setattr("stages.randomness._compiled_words", lambda: words)
    with gpu.fake, gpu:
        drawn = KeyedDraws(0, "base", fused=True).normal(
            "noise", 3, torch.zeros(4, dtype=torch.int64, device="cuda"), (5,)
        )
    assert drawn.shape == (4, 5)
    assert gpu.copied == []
    assert all(isinstance(value, Tensor) for value in (called[0][1], *called[0][2])), "or each step is compiled anew"


@pytest.mark.parametrize("kind", STAGES)
def test_a_backward_pass_does_not_wait(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On "meta" tensors, of which torch refuses to read anything; it has no autocast for them."""
    monkeypatch.setattr("torch.autocast", lambda *args, **kwargs: nullcontext())
    stage = stage_of(kind)
    training = TrainingSpec(steps=9, batch_size=5, micro_batch=2)
    with torch.device("meta"):
        net = stage.new_net()
    state = TrainState(net, net, torch.optim.SGD(net.parameters()), {})
    batch = batch_on("meta")
    accumulate_gradients(stage, state, batch, training=training, seed=0)
    assert all(parameter.grad is not None for parameter in net.parameters())


SAMPLINGS: Mapping[str, dict[str, Any]] = {
    "ancestral": {"sampler": "ancestral"},
    "ancestral, the larger variance": {"sampler": "ancestral", "variance": "beta"},
    "ddim": {"sampler": "ddim"},
    "ddim, stochastic": {"sampler": "ddim", "eta": 0.5},
    "dpmpp_2m": {"sampler": "dpmpp_2m", "thresholding": "dynamic", "percentile": 0.9},
    "heun": {"sampler": "heun", "thresholding": "static"},
}


@pytest.mark.parametrize("guidance", [{}, {"guidance": 2.0, "guidance_interval": [-4.0, 4.0]}], ids=["plain", "guided"])
@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        *(("unet", setting) for setting in SAMPLINGS),
        ("hybrid", "learned"),
        ("gamma", "ddim"),
        ("super_resolution", "heun"),
    ],
)
def test_drawing_does_not_wait(
    kind: str, setting: str, guidance: Mapping[str, Any], gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first noise to the images; what a block is given is put on the GPU by whoever asks for it."""
    stage, upper = stage_of(kind), kind == "super_resolution"
    low = {"level": 0.3, "augmentation": "non_truncated"} if upper else {}
    settings = {**SAMPLINGS, "learned": {"sampler": "ancestral", "variance": "learned"}}[setting]
    sampling = StageSamplingSpec.model_validate({"steps": 3, **settings, **guidance, **low})
    monkeypatch.setattr(TrainedStage, "net_in", lambda self, precision: self.net)  # torch casts no fake weights
    with gpu.fake, gpu:
        with torch.device("cuda"):
            trained = TrainedStage(stage, stage.new_net().eval().requires_grad_(False))
        indices = torch.arange(4, device="cuda")
        labels = torch.zeros(4, dtype=torch.int64, device="cuda")
        below = Rung(torch.zeros(4, 3, 8, 8, device="cuda"), {}) if upper else None
        for _ in range(2):
            gpu.copied.clear()  # the values of schedules, once for all
            rung = sample_stage(
                trained, sampling, indices, labels, below, seed=0, keep=() if upper else (0.5,), precision="bf16"
            )
    assert rung.images.device.type == "cuda"
    assert rung.images.shape == (4, 3, 16, 16)
    assert gpu.copied == []
