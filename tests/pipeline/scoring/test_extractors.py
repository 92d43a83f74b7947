"""Extractors: what they see is what their nets give, here and through torch-fidelity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset

from pipeline.classifier import Classifier, load_classifier, save_classifier
from pipeline.errors import UserError
from pipeline.scoring import dinov2, inception
from pipeline.scoring.extractors import build_extractor
from pipeline.scoring.registered import CLASSIFIER_EXTRACTOR, INCEPTION_EXTRACTOR, register_extractors
from pipeline.scoring.weights import digest_of
from stages.images import to_float

Pixels = npt.NDArray[np.uint8]
COUNT = 4  # images of a side that torch-fidelity compares


def pixels(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, size=(count, height, width, 3), dtype=np.uint8)


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Classifier(channels=(8, 16), blocks=1, classes=3, size=16).eval()
    save_classifier(net, tmp_path / "judge")
    return tmp_path / "judge"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(inception.random_weights(0), path)
    return path


class Images(Dataset[torch.Tensor]):
    """uint8 images (N, h, w, 3) as torch-fidelity reads them."""

    def __init__(self, images: Pixels) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.images[index]).permute(2, 0, 1).contiguous()


def of_torch_fidelity(extractor: str, weights: Path, **metrics: object) -> dict[str, float]:
    found: dict[str, float] = torch_fidelity.calculate_metrics(
        input1=Images(pixels(COUNT, 16, 16, 1)),
        input2=Images(pixels(COUNT, 16, 16, 2)),
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
        cache=False,
        batch_size=COUNT,
        feature_extractor=extractor,
        feature_extractor_weights_path=str(weights),
        **metrics,
    )
    return found


@torch.inference_mode()
def test_a_classifier_judges_images_at_their_own_size(judge: Path) -> None:
    extract = build_extractor({"kind": "classifier"}, weights=judge, device=torch.device("cpu"))
    assert (extract.name, extract.layer, extract.dimension) == ("classifier", "features", 24)
    assert extract.sha256 == digest_of(judge / "classifier.safetensors")
    net = load_classifier(judge)
    for size in (4, 16):
        images = pixels(5, size, size)
        seen = extract(images)
        floats = to_float(torch.from_numpy(images))
        np.testing.assert_array_equal(seen.features, net.features(floats).numpy())
        np.testing.assert_array_equal(seen.logits, net(floats).numpy())
        assert seen.features.dtype == np.float32
        assert seen.spatial is None
    with pytest.raises(UserError, match="32 x 32 px cannot be judged by a classifier of 16 px"):
        extract(pixels(1, 32, 32))


@torch.inference_mode()
def test_inception_sees_everything_in_one_pass(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scoring.extractors._ON_CPU", 2)
    extract = build_extractor({"kind": "inception", "sha256": digest_of(weights)}, weights=weights)
    assert (extract.name, extract.layer, extract.dimension) == ("inception", "2048", 2048)
    images = pixels(3, 8, 12)  # one more than the net sees at once
    seen = extract(images)
    assert seen.logits is not None
    assert seen.spatial is not None
    found = (seen.features, seen.logits, seen.spatial)
    assert [part.shape for part in found] == [(3, 2048), (3, 1008), (3, 2023)]
    assert {part.dtype for part in found} == {np.dtype(np.float32)}
    last = inception.InceptionV3(inception.random_weights(0))(torch.from_numpy(images[2:]).permute(0, 3, 1, 2))
    for part, expected in zip(found, last, strict=True):
        np.testing.assert_array_equal(part[2:], expected.numpy())


def test_dinov2_sees_features_alone(tmp_path: Path) -> None:
    path = tmp_path / "dino.pth"
    torch.save(dinov2.random_weights("dinov2-vit-s-14", 0), path)
    extract = build_extractor({"kind": "dinov2", "model": "dinov2-vit-s-14"}, weights=path)
    assert (extract.name, extract.layer, extract.dimension) == ("dinov2-vit-s-14", "dinov2", 384)
    seen = extract(pixels(2, 32, 32))
    assert seen.features.shape == (2, 384)
    assert seen.features.dtype == np.float32
    assert seen.logits is seen.spatial is None
    with pytest.raises(UserError, match="does not hold the DINOv2 ViT-B/14 weights"):
        build_extractor({"kind": "dinov2", "model": "dinov2-vit-b-14"}, weights=path)


def test_wrong_weights_are_refused(judge: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classifier\.json is missing"):
        build_extractor({"kind": "classifier"}, weights=tmp_path)
    (tmp_path / "other.pth").write_bytes(b"not weights")
    for kind in ({"kind": "inception"}, {"kind": "dinov2", "model": "dinov2-vit-s-14"}):
        with pytest.raises(UserError, match="there is no weights file"):
            build_extractor(kind, weights=tmp_path / "absent.pth")
        with pytest.raises(UserError, match="not the expected"):
            build_extractor(kind | {"sha256": "0" * 64}, weights=tmp_path / "other.pth")
        with pytest.raises(UserError, match="does not hold"):
            build_extractor(kind, weights=tmp_path / "other.pth")


def test_torch_fidelity_runs_on_the_classifier(judge: Path) -> None:
    """Its FID of our registered extractor is that of our features."""
    register_extractors()
    register_extractors()  # once more is harmless
    found = of_torch_fidelity(CLASSIFIER_EXTRACTOR, judge, fid=True, isc=True, isc_splits=2)
    extract = build_extractor({"kind": "classifier"}, weights=judge)
    sides = [extract(pixels(COUNT, 16, 16, seed)).features.astype(np.float64) for seed in (1, 2)]
    means, (a, b) = [side.mean(axis=0) for side in sides], [np.cov(side, rowvar=False) for side in sides]
    roots = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * roots
    assert found["frechet_inception_distance"] == pytest.approx(expected, rel=1e-5)
    assert found["inception_score_mean"] >= 1


def test_torch_fidelity_scores_alike_with_our_inception_and_its_own(weights: Path) -> None:
    register_extractors()
    metrics = {"kid": True, "isc": True, "isc_splits": 2, "kid_subsets": 3, "kid_subset_size": 3}
    ours = of_torch_fidelity(INCEPTION_EXTRACTOR, weights, **metrics)
    stock = of_torch_fidelity("inception-v3-compat", weights, **metrics)
    assert ours.keys() == stock.keys()
    for name, value in stock.items():
        near = 5e-3 if name.startswith("kernel") else 1e-4  # the library takes the kernel of its features in float32
        assert ours[name] == pytest.approx(value, rel=near, abs=1e-6), name


def test_our_inception_has_its_layers_in_torch_fidelity(weights: Path) -> None:
    register_extractors()
    from torch_fidelity.utils import create_feature_extractor

    layers = ["spatial", "2048"]
    net = create_feature_extractor(
        INCEPTION_EXTRACTOR, layers, cuda=False, feature_extractor_weights_path=str(weights), verbose=False
    )
    spatial, features = net(torch.from_numpy(pixels(1, 8, 8)).permute(0, 3, 1, 2))
    assert (spatial.shape, features.shape) == ((1, 2023), (1, 2048))
    assert spatial.dtype == features.dtype == torch.float64
    with pytest.raises(UserError, match="needs its weights"):
        create_feature_extractor(INCEPTION_EXTRACTOR, ["2048"], cuda=False, verbose=False)
