"""Compiled nets: in one piece, with the results of plain ones, and a sentence where there is no compiler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from stages.compilers import NoCompiler
from stages.compiling import compiled
from stages.recomputing import recompute_from
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, train_step

NETS: Mapping[str, dict[str, Any]] = {
    "unet": {"kind": "unet", "multipliers": [1, 2], "attention": [4]},
    "adm": {"kind": "adm", "multipliers": [1, 2], "attention": [4]},
    "uvit": {"kind": "uvit", "multipliers": [1, 1, 2], "depth": 1, "mlp_ratio": 2, "skips": "residual"},
}
COMMON = {"channels": 8, "head_width": 8, "blocks": 1}
UPPER = {
    "low_res_size": 4,
    "low_res_schedule": {"kind": "cosine"},
    "augmentation": {"noise": {"levels": [0.0, 0.4]}},
}


def losses(kind: str, backend: str | None, steps: int = 2, *, side: int | None = None, **net: Any) -> list[float]:
    """Of training steps from a start that is off the zeros; the second micro-batch is smaller than the first."""
    spec = {"name": "sr", "size": 8, "classes": 3, "net": {**COMMON, **NETS[kind], **net}, **UPPER}
    stage = Stage.build(StageSpec.model_validate(spec))
    training = TrainingSpec(steps=steps, batch_size=3, micro_batch=2, warmup=0)
    state = TrainState.start(stage, training, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in state.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    recompute_from(state.net, side)
    model = state.net if backend is None else compiled(state.net, backend=backend)
    images = torch.randn(3, 3, 8, 8, generator=generator).clamp(-1, 1)
    batch = Batch(images, torch.arange(3), torch.arange(3))
    return [float(train_step(stage, state, batch, model=model, training=training, seed=0).loss) for _ in range(steps)]


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("kind", NETS)
def test_a_net_is_one_graph(kind: str) -> None:
    """torch refuses a net that it would have to cut (fullgraph); its own kernels give the same bits."""
    assert losses(kind, "eager") == losses(kind, None)


def test_blocks_that_are_computed_again_stay_in_the_graph() -> None:
    assert losses("uvit", "aot_eager", side=4) == losses("uvit", None)


def test_among_workers_the_graph_is_cut_where_gradients_are_exchanged(tmp_path: Path) -> None:
    """In one piece all gradients would be there at once, in the end, and nothing would hide their exchange."""
    graphs = list[torch.fx.GraphModule]()

    def counting(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    wide = {**NETS["unet"], "channels": 64, "head_width": 32, "blocks": 1}
    stage = Stage.build(StageSpec.model_validate({"name": "base", "size": 8, "classes": 3, "net": wide}))
    buckets = list[int]()

    def noted(bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        buckets.append(bucket.index())
        future = torch.futures.Future[torch.Tensor]()
        future.set_result(bucket.buffer())
        return future

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(
            compiled(stage.new_net(), backend=counting), bucket_cap_mb=1, gradient_as_bucket_view=True
        )
        model.register_comm_hook(None, lambda _, bucket: noted(bucket))
        for _ in range(2):  # buckets are laid out after the first backward pass
            buckets.clear()
            model(torch.ones(2, 3, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.long)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert buckets == list(range(len(buckets)))
    assert len(buckets) > 2
    assert len(graphs) >= len(buckets)


def test_a_net_that_asks_for_values_is_refused() -> None:
    class Asking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1.0 if float(x.sum()) > 0.0 else x

    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="data-dependent"):
        compiled(Asking(), backend="eager")(torch.ones(2))


def test_without_a_compiler_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(NoCompiler, match=r"neither g\+\+ nor clang\+\+; install one .*, or compile no nets$"):
        compiled(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("device", "asked", "told"), [("cpu", True, False), ("cuda", True, True), ("cuda", False, False)]
)
def test_kernels_are_launched_as_one_on_a_gpu_where_that_is_asked_for(
    device: str, asked: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = dict[str, Any]()
    monkeypatch.setattr(torch, "compile", lambda net, **options: seen.update(options) or net)
    with FakeTensorMode(allow_non_fake_inputs=True):
        net = torch.nn.Linear(2, 2, device=device)
    compiled(net, graphs=asked)
    assert seen["options"] == {"fallback_random": True, "deterministic": True, "triton.cudagraphs": told}


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_losses_of_a_compiled_net_are_those_of_the_plain_one_within_rounding(dropout: float) -> None:
    net = {"attention": [], "multipliers": [1], "dropout": dropout}
    assert losses("unet", "inductor", 4, **net) == pytest.approx(losses("unet", None, 4, **net), rel=1e-5)
