"""The nets: the residual ones are torchvision's, but for how they begin."""

from __future__ import annotations

import pytest
import torch

from pipeline.cas.networks import ResNet, build_net, parameter_groups
from pipeline.cas.spec import ResNetSpec, SmallNetSpec
from pipeline.errors import UserError


@pytest.mark.parametrize(("kind", "parameters"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_residual_nets_compute_what_torchvision_computes(kind: str, parameters: int) -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = getattr(models, kind)(weights=None).eval()
    ours = build_net(ResNetSpec.model_validate({"kind": kind}), classes=1000, side=64, seed=0).eval()
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_a_residual_net_begins_as_the_identity_and_undecided() -> None:
    net = ResNet("resnet18", classes=7, stem="small")
    h = torch.rand(2, 64, 8, 8)
    assert torch.equal(net.layer1(h), h)
    logits = net(torch.rand(4, 3, 8, 8))
    assert logits.shape == (4, 7)
    assert logits.abs().max() < 1.0
    assert net.maxpool(h) is h  # nothing of a small image is thrown away before the first block


def test_first_weights_are_a_function_of_the_seed_and_leave_the_callers_draws_alone() -> None:
    spec = SmallNetSpec(kind="small", channels=(4, 8))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (build_net(spec, classes=2, side=8, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])
    with pytest.raises(UserError, match="multiple of 4 px, not 6 px"):
        build_net(spec, classes=2, side=6, seed=0)


def test_all_but_batch_norms_decay() -> None:
    net = ResNet("resnet18", classes=7, stem="imagenet")
    decayed, plain = parameter_groups(net, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    kept = {names[id(parameter)] for parameter in plain["params"]}  # type: ignore[attr-defined]
    assert {"bn1.weight", "layer2.0.downsample.1.bias"} <= kept
    assert not any("conv" in name or name.startswith("fc") for name in kept)
    assert len(kept) + len(decayed["params"]) == len(names)  # type: ignore[arg-type]
