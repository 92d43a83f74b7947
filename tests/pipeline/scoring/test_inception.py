"""The fast Inception-v3 gives what torch-fidelity's gives, from the same weights file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from pipeline.scoring.inception import InceptionV3, random_weights, resized
from pipeline.scoring.inception_blocks import NET, Conv, Fork, kernel_shapes


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(random_weights(0), path)
    return path


@pytest.fixture(scope="module")
def stock(weights: Path) -> FeatureExtractorInceptionV3:
    """The library's net; that it takes the file means that names and shapes are its own, none absent or too many."""
    layers = ["2048", "logits_unbiased"]
    return FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=str(weights))


@pytest.fixture(scope="module")
def fast(weights: Path) -> InceptionV3:
    return InceptionV3(torch.load(weights, weights_only=True))


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == torch.float32
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (1, 3, 340, 320)])
def test_features_logits_and_spatial_features_are_those_of_torch_fidelity(
    stock: FeatureExtractorInceptionV3, fast: InceptionV3, shape: tuple[int, ...]
) -> None:
    branch: list[Tensor] = []
    watched = stock.Mixed_6d.branch1x1.register_forward_hook(lambda *seen: branch.append(seen[-1]))
    images = pixels(*shape)
    with torch.inference_mode():
        features, logits = stock(images)
        found = fast(images)
    watched.remove()
    assert distance(found.features, features) < 1e-5
    assert distance(found.logits, logits) < 1e-5
    assert branch[0].shape == (shape[0], 192, 17, 17)
    assert distance(found.spatial, branch[0][:, :7].permute(0, 2, 3, 1).flatten(1)) < 1e-5
    assert found.spatial.shape[1] == 2023
    assert float(features.std(dim=1).min()) > 0.1, "features that are all alike would be equal whatever is computed"


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (64, 64), (299, 299), (512, 40)])
def test_images_are_resized_as_tensorflow_did(size: tuple[int, int]) -> None:
    images = pixels(1, 3, *size)
    expected = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    torch.testing.assert_close(resized(images), (expected - 128) / 128, rtol=0, atol=2e-6)


def test_the_table_is_the_net() -> None:
    """torchvision's has the same convolutions (and other poolings)."""
    shapes = kernel_shapes()
    with torch.device("meta"):
        other = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    convolutions = {name: part for name, part in other.named_modules() if isinstance(part, nn.Conv2d)}
    assert shapes == {name.removesuffix(".conv"): tuple(part.weight.shape) for name, part in convolutions.items()}
    forks = [step.name for step in NET if isinstance(step, Fork)]
    assert forks == [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")]
    first = NET[forks.index("Mixed_6d") + 7]
    assert isinstance(first, Fork)
    assert first.branches[0] == (Conv("branch1x1", 192),), "the spatial features are the first channels of this block"


def test_bfloat16_is_near_and_not_near_enough(fast: InceptionV3) -> None:
    images = pixels(2, 3, 16, 16)
    with torch.inference_mode():
        error = distance(InceptionV3(random_weights(0), torch.bfloat16)(images).features, fast(images).features)
    assert 1e-5 < error < 0.05
