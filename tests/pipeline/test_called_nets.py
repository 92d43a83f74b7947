"""A net as training calls it, and the sentences where it cannot be called so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.called_nets import called_net, forgotten_afterwards, graphs_named
from pipeline.errors import UserError
from stages.compilers import Asked
from stages.compiling import Launched, is_compiled, lends_gradients


def test_a_net_is_called_as_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(2, 2)
    assert called_net(net, False) is net
    assert not is_compiled(net)
    plain = called_net(net, True)
    assert is_compiled(plain)
    assert not lends_gradients(plain)
    with pytest.raises(UserError, match=r"^resources\.compile: CUDA graphs are launched on a GPU"):
        called_net(net, "graphs")
    launched = Launched(net)
    assert is_compiled(launched)
    assert lends_gradients(launched)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"^resources\.compile: compiling a net needs a C\+\+ compiler"):
        called_net(net, True)


def test_what_torch_has_against_graphs_is_told_and_not_tried_again() -> None:
    """As it arrives from a backward pass, and wrapped as from a forward pass."""
    refused = pytest.raises(UserError, match=r"no CUDA graphs of this net \(cpu device \(x\)\); set it to true")
    with refused, graphs_named():
        raise RuntimeError("skipping cudagraphs due to cpu device (x)")
    with refused, graphs_named():
        try:
            raise RuntimeError("skipping cudagraphs due to cpu device (x)")
        except RuntimeError as error:
            raise torch._dynamo.exc.InternalTorchDynamoError("backend raised:\nRuntimeError") from error
    with pytest.raises(RuntimeError, match="shapes"), graphs_named():
        raise RuntimeError("shapes")


@pytest.mark.parametrize(("how", "compilations"), [(False, 1), (True, 2), ("graphs", 2)])
def test_a_process_forgets_what_it_compiled(how: Asked, compilations: int) -> None:
    torch.compiler.reset()
    graphs = list[torch.fx.GraphModule]()
    net = torch.compile(nn.Linear(2, 2), backend=lambda graph, _: graphs.append(graph) or graph)
    with forgotten_afterwards(how):
        for _ in range(2):
            net(torch.ones(1, 2))
    net(torch.ones(1, 2))
    assert len(graphs) == compilations
