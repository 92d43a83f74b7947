"""Compiled nets: in one piece, with the results of plain ones, and a sentence where there is no compiler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from stages.compilers import CannotCompile, check_compiler, whole_or_nothing
from stages.compiling import Backend, compiled
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


def losses(
    kind: str,
    backend: str | Backend | None,
    steps: int = 2,
    *,
    side: int | None = None,
    graphs: bool = False,
    shared: bool = False,
    micro_batch: int = 2,
    **net: Any,
) -> list[float]:
    """Of training steps from a start that is off the zeros; of two micro-batches the second is the smaller one."""
    spec = {"name": "sr", "size": 8, "classes": 3, "net": {**COMMON, **NETS[kind], **net}, **UPPER}
    stage = Stage.build(StageSpec.model_validate(spec))
    training = TrainingSpec(steps=steps, batch_size=3, micro_batch=micro_batch, warmup=0)
    state = TrainState.start(stage, training, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in state.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    recompute_from(state.net, side)
    model = state.net if backend is None else compiled(state.net, backend=backend, graphs=graphs)
    if shared:
        model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
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


def test_options_of_torch_are_what_they_are_called() -> None:
    """They are asked for on GPUs alone; a torch that calls them otherwise is seen here."""
    from torch._inductor import config

    for option in (
        "triton.cudagraphs",
        "triton.cudagraph_or_error",
        "graph_partition",
        "fallback_random",
        "deterministic",
        "cpp.cxx",
    ):
        assert option in config.get_config_copy()


def test_micro_batches_of_workers_are_moved_too(in_one_place: Any, tmp_path: Path) -> None:
    """Gradients stay with the worker until the last of its micro-batches, and go into buckets there."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    told: dict[str, Any] = {"micro_batch": 1, "attention": []}
    try:
        found = losses("unet", in_one_place, 3, graphs=True, shared=True, **told)
    finally:
        torch.distributed.destroy_process_group()
    assert found == losses("unet", "aot_eager", 3, **told)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_what_the_next_backward_pass_writes_over_was_moved(micro_batch: int, in_one_place: Any) -> None:
    """Gradients of three micro-batches, of two and of one, whose places are written over by the next."""
    told: dict[str, Any] = {"micro_batch": micro_batch, "attention": []}
    assert losses("unet", in_one_place, 3, graphs=True, **told) == losses("unet", "aot_eager", 3, **told)


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_without_that_gradients_would_be_wrong(
    micro_batch: int, in_one_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend of the test above does write over them."""
    monkeypatch.setattr("stages.training.lends_gradients", lambda model: False)
    told: dict[str, Any] = {"micro_batch": micro_batch, "attention": []}
    assert losses("unet", in_one_place, 3, graphs=True, **told) != losses("unet", "aot_eager", 3, **told)


@pytest.mark.parametrize("kind", NETS)
def test_all_of_a_graph_is_on_the_gpu(kind: str) -> None:
    """torch makes no CUDA graph of one that has anything of the host in it; "meta" stands for the GPU."""
    places = set[torch.device]()

    def noted(graph: torch.fx.GraphModule, _: object) -> Any:
        values = [node.meta.get("val") for node in graph.graph.nodes]
        places.update(value.device for value in values if isinstance(value, torch.Tensor))
        return make_boxed_func(graph.forward)

    spec = {"name": "sr", "size": 8, "classes": 3, "net": {**COMMON, **NETS[kind]}, **UPPER}
    stage = Stage.build(StageSpec.model_validate(spec))
    with torch.device("meta"):
        net = stage.new_net()
        images, noise, labels = torch.ones(2, 6, 8, 8), torch.ones(2), torch.arange(2)
    model = compiled(net, backend=aot_autograd(fw_compiler=noted, bw_compiler=noted))
    model(images, noise, labels, noise).sum().backward()
    assert places == {torch.device("meta")}


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
    with pytest.raises(CannotCompile, match=r"neither g\+\+ nor clang\+\+; install one .*, or compile no nets$"):
        compiled(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("device", "asked", "or_error", "told"),
    [
        ("cpu", False, False, (False, False)),
        ("cpu", True, False, (False, False)),
        ("cuda", False, True, (False, False)),
        ("cuda", True, False, (True, False)),
        ("cuda", True, True, (True, True)),
    ],
)
def test_kernels_are_launched_as_one_on_a_gpu_where_that_is_asked_for(
    device: str, asked: bool, or_error: bool, told: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = dict[str, Any]()
    monkeypatch.setattr(torch, "compile", lambda net, **options: seen.update(options) or net)
    with FakeTensorMode(allow_non_fake_inputs=True):
        net = torch.nn.Linear(2, 2, device=device)
    compiled(net, graphs=asked, or_error=or_error)
    expected = {"fallback_random": True, "deterministic": True, "triton.cudagraphs": told[0]}
    expected["cpp.cxx"] = (None, whole_or_nothing(check_compiler()))
    strict = {"triton.cudagraph_or_error": True, "graph_partition": False} if told[1] else {}
    assert seen["options"] == {**expected, **strict}


def test_graphs_that_must_be_launched_are_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(CannotCompile, match=r"^CUDA graphs are launched on a GPU, .*; compile it without them$"):
        compiled(torch.nn.Linear(2, 2), graphs=True, or_error=True)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_losses_of_a_compiled_net_are_those_of_the_plain_one_within_rounding(dropout: float) -> None:
    net = {"attention": [], "multipliers": [1], "dropout": dropout}
    assert losses("unet", "inductor", 4, **net) == pytest.approx(losses("unet", None, 4, **net), rel=1e-5)
