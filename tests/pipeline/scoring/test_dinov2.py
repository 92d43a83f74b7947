"""DINOv2: the net against torch's own transformer layers, preprocessing against torch-fidelity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from pipeline.scorer_specs import DINO_DIMENSIONS
from pipeline.scoring.dinov2 import MODELS, DinoV2, Geometry, load_dino, random_weights, state_shapes
from pipeline.scoring.registered import DinoExtractor

SMALL = "dinov2-vit-s-14"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_weights(SMALL, 0)


def layer_of(block: nn.Module, width: int) -> nn.TransformerEncoderLayer:
    """torch's layer with the same weights; the scales after each half are folded into its last linear maps."""
    layer = nn.TransformerEncoderLayer(
        width, width // 64, 4 * width, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    parts = block.state_dict()
    for half, scale in (("attn.proj", "ls1"), ("mlp.fc2", "ls2")):
        parts[f"{half}.weight"] = parts[f"{half}.weight"] * parts[f"{scale}.gamma"][:, None]
        parts[f"{half}.bias"] = parts[f"{half}.bias"] * parts[f"{scale}.gamma"]
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    ends = ("weight", "bias")
    layer.load_state_dict({theirs + end: parts[ours + end] for theirs, ours in names.items() for end in ends})
    return layer.eval()


@torch.inference_mode()
def test_the_net_is_a_vision_transformer() -> None:
    """At the size it was trained at, where positions are as they are: patches, class token, blocks, norm."""
    dice = torch.Generator().manual_seed(0)
    net = DinoV2(Geometry(128, 2)).eval()
    for parameter in net.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=dice))
    state = net.state_dict()
    images = torch.randn(1, 3, 518, 518, generator=dice)
    kernel = state["patch_embed.proj.weight"].flatten(1)
    patches = F.unfold(images, 14, stride=14).transpose(1, 2) @ kernel.T + state["patch_embed.proj.bias"]
    h = torch.cat((state["cls_token"], patches), dim=1) + state["pos_embed"]
    for block in net.blocks:
        h = layer_of(block, 128)(h)
    expected = F.layer_norm(h[:, 0], (128,), state["norm.weight"], state["norm.bias"], 1e-6)
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_gated_half_of_the_largest_net() -> None:
    half = DinoV2(Geometry(384, 1, gated=True)).get_submodule("blocks.0.mlp")
    h = torch.randn(1, 3, 384)
    both = half.get_submodule("w12")(h)
    gate, value = both[..., :1024], both[..., 1024:]
    torch.testing.assert_close(half(h), half.get_submodule("w3")(gate * torch.sigmoid(gate) * value))
    assert state_shapes("dinov2-vit-g-14")["blocks.39.mlp.w12.weight"] == (8192, 1536)


def test_positions_move_with_the_grid(state: dict[str, Tensor]) -> None:
    """A ramp over the trained grid is nearly one over a smaller grid, at the places that the offset of 0.1 gives."""
    ramp = torch.arange(37.0)[:, None].expand(37, 37).reshape(1, -1, 1).expand(1, -1, 384)
    net = load_dino(SMALL, state | {"pos_embed": torch.cat((torch.zeros(1, 1, 384), ramp), dim=1)})
    found = net._positions(16, 16)[0, 0, 2:-2, 0]
    expected = (torch.arange(2.0, 14.0) + 0.5) * 37 / 16.1 - 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=0.06)  # 0.19 apart without the offset


def test_images_are_prepared_as_torch_fidelity_does(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's own extractor, its download of the net replaced by our net, gives the same bits."""
    torch.save(state, tmp_path / "dino.pth")
    monkeypatch.setattr("torch.hub.load", lambda *_, **__: load_dino(SMALL, state))
    stock = FeatureExtractorDinoV2(SMALL, ["dinov2"])
    images = torch.randint(256, (2, 3, 20, 32), dtype=torch.uint8)
    ours = DinoExtractor(SMALL, tmp_path / "dino.pth")
    with torch.inference_mode():
        (expected,), (found,) = stock(images), ours(images)
    assert found.shape == (2, 384)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert float(found.std(dim=1).min()) > 0.1


def test_torch_fidelity_takes_no_weights_file(tmp_path: Path) -> None:
    """Why there is a net of our own. When this fails, the library's can be used."""
    with pytest.raises(NotImplementedError):
        FeatureExtractorDinoV2(SMALL, ["dinov2"], feature_extractor_weights_path=str(tmp_path / "dino.pth"))


def test_specs_and_nets_know_the_same_models() -> None:
    assert {model: geometry.width for model, geometry in MODELS.items()} == DINO_DIMENSIONS
