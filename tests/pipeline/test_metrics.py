"""The scores: closed forms, independence from how the work was split, equality with torch-fidelity."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pipeline.classifier import Classifier, save_classifier
from pipeline.errors import UserError
from pipeline.metrics import (
    CLASSIFIER_EXTRACTOR,
    FeatureStats,
    accuracy,
    classifier_extractor,
    fid,
    inception_extractor,
    merge_stats,
    precision_recall,
    register_extractors,
)


def gaussian(count: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, width)) @ generator.normal(size=(width, width)) + 3.0


def exact(mean: np.ndarray, covariance: np.ndarray) -> FeatureStats:
    """Statistics whose mean and covariance are these, exactly."""
    return FeatureStats(101, mean, covariance * 100)


def test_fid_of_a_set_with_itself_is_zero() -> None:
    stats = FeatureStats.from_features(gaussian(300, 20, 0))
    assert fid(stats, stats) <= 1e-9 * np.trace(stats.covariance)
    few = FeatureStats.from_features(gaussian(5, 20, 0))  # a covariance of rank 4 in 20 dimensions
    assert fid(few, few) <= 1e-6 * np.trace(few.covariance)


def test_fid_of_commuting_gaussians_is_the_closed_form() -> None:
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    a, b = np.array([4.0, 1.0, 9.0, 0.25, 2.0, 5.0]), np.array([1.0, 1.0, 4.0, 0.5, 0.1, 3.0])
    apart = np.arange(6.0)
    expected = (apart**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = fid(exact(np.zeros(6), (axes * a) @ axes.T), exact(apart, (axes * b) @ axes.T))
    assert math.isclose(found, expected, rel_tol=1e-12)


def test_fid_of_gaussians_that_are_flat_in_some_directions() -> None:
    """More features than images: rounding of 1e-16 in a covariance is 1e-8 in its root, and no more."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    a, b = np.array([4.0, 0.0, 1.0, 0.0]), np.array([1.0, 2.0, 0.0, 0.0])
    found = fid(exact(np.zeros(4), (axes * a) @ axes.T), exact(np.zeros(4), (axes * b) @ axes.T))
    assert math.isclose(found, 1 + 2 + 1, rel_tol=1e-6)


def test_fid_of_two_by_two_gaussians_that_do_not_commute() -> None:
    """tr (A B)^1/2 = sqrt(tr A B + 2 sqrt(det A B)) for 2 x 2 matrices."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    product = a @ b
    root_trace = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = np.trace(a) + np.trace(b) - 2 * root_trace
    assert math.isclose(fid(exact(np.zeros(2), a), exact(np.zeros(2), b)), expected, rel_tol=1e-12)
    assert math.isclose(fid(exact(np.zeros(2), b), exact(np.zeros(2), a)), expected, rel_tol=1e-12)


def test_merged_statistics_do_not_depend_on_grouping() -> None:
    features = gaussian(257, 12, 1) + 1e4  # a large mean, which sums of squares would not survive
    whole = FeatureStats.from_features(features)
    blocks = [FeatureStats.from_features(features[i : i + 64]) for i in range(0, 257, 64)]
    left_to_right = merge_stats(blocks)
    paired = merge_stats([merge_stats(blocks[:2]), merge_stats(blocks[2:])])
    backwards = merge_stats(blocks[::-1])
    for merged in (left_to_right, paired, backwards):
        assert merged.count == 257
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(merged.covariance, np.cov(features, rowvar=False), rtol=1e-9)
    again = merge_stats(blocks)
    assert again.mean.tobytes() == left_to_right.mean.tobytes()
    assert again.scatter.tobytes() == left_to_right.scatter.tobytes()


def test_statistics_survive_a_file(tmp_path: Path) -> None:
    stats = FeatureStats.from_features(gaussian(50, 4, 0))
    np.savez(tmp_path / "stats.npz", **stats.arrays())
    with np.load(tmp_path / "stats.npz") as stored:
        loaded = FeatureStats.from_arrays(stored)
    assert loaded.count == 50
    assert loaded.mean.tobytes() == stats.mean.tobytes()
    assert loaded.scatter.tobytes() == stats.scatter.tobytes()


def test_precision_and_recall_see_what_is_missing() -> None:
    generator = np.random.default_rng(0)
    real = np.concatenate([generator.normal(size=(200, 3)), generator.normal(size=(200, 3)) + 50])
    assert precision_recall(real, real) == (1.0, 1.0)
    half = precision_recall(generator.normal(size=(400, 3)), real)  # one of two modes
    assert half.precision > 0.9
    assert 0.4 < half.recall <= 0.5
    assert precision_recall(real - 500, real) == (0.0, 0.0)
    with pytest.raises(UserError, match="need 4 or more images"):
        precision_recall(real[:3], real)


def test_accuracy_of_all_and_of_each_class() -> None:
    found = accuracy([0, 1, 1, 2, 2, 0], [0, 1, 0, 2, 2, 2], classes=4)
    assert found.overall == 4 / 6
    assert found.per_class[:3] == (0.5, 1.0, 2 / 3)
    assert math.isnan(found.per_class[3])


class Images(Dataset[torch.Tensor]):
    """uint8 images (N, h, w, 3) as torch-fidelity reads them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.images[index]).permute(2, 0, 1).contiguous()


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_classifier(Classifier(channels=(8, 16), blocks=1, classes=3, size=16).eval(), tmp_path / "judge")
    return tmp_path / "judge"


def test_equals_torch_fidelity_on_the_same_images(judge: Path) -> None:
    generator = np.random.default_rng(0)
    real = generator.integers(0, 256, size=(120, 16, 16, 3), dtype=np.uint8)
    fake = generator.integers(30, 256, size=(90, 16, 16, 3), dtype=np.uint8)
    register_extractors()
    register_extractors()  # once more is harmless
    library = torch_fidelity.calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        fid=True,
        prc=True,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
        cache=False,
        batch_size=30,
        feature_extractor=CLASSIFIER_EXTRACTOR,
        feature_extractor_weights_path=str(judge),
    )
    extract = classifier_extractor(judge)
    ours = [np.concatenate([extract(part) for part in np.array_split(side, 3)]) for side in (fake, real)]
    assert ours[0].shape == (90, 24)
    assert ours[0].dtype == np.float64
    score = fid(*(FeatureStats.from_features(features) for features in ours))
    assert math.isclose(score, library["frechet_inception_distance"], rel_tol=1e-6)
    both = precision_recall(*ours)
    assert (both.precision, both.recall) == (library["precision"], library["recall"])


def test_an_extractor_without_its_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classifier\.json is missing"):
        classifier_extractor(tmp_path)
    with pytest.raises(UserError, match=r"weights-inception-2015-12-05-6726825d\.pth.*nothing is downloaded"):
        inception_extractor(tmp_path / "absent.pth")
    (tmp_path / "other.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match="does not hold the Inception-v3 weights"):
        inception_extractor(tmp_path / "other.pth")


@pytest.mark.slow
def test_inception_from_a_named_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in the library's own format; what is tested is the way, not the figures."""

    def no_download(*_: object, **__: object) -> dict[str, torch.Tensor]:
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", no_download)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        random = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    torch.save(random.state_dict(), tmp_path / "weights.pth")
    images = np.random.default_rng(0).integers(0, 256, size=(2, 32, 32, 3), dtype=np.uint8)
    features = inception_extractor(tmp_path / "weights.pth")(images)
    assert features.shape == (2, 2048)
    assert features.dtype == np.float64
    with torch.inference_mode():
        expected = random(torch.from_numpy(images).permute(0, 3, 1, 2))[0].double().numpy()
    np.testing.assert_array_equal(features, expected)
