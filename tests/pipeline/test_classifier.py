"""The judge: repeats itself, learns the drawn classes at every size of the cascade, survives its files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.classifier import Classifier, load_classifier, predict, save_classifier, train_classifier
from pipeline.classifier_spec import ClassifierSpec
from pipeline.data.drawn import CLASSES, draw
from pipeline.errors import UserError
from stages.images import downsample, to_float, to_uint8


class Drawn:
    """Drawn images in memory, read like `pipeline.data.loading.Examples`."""

    classes = CLASSES

    def __init__(self, start: int, count: int, size: int) -> None:
        drawn = [draw(0, index, size) for index in range(start, start + count)]
        self.images = np.stack([image for image, _ in drawn])
        self.labels = np.array([label for _, label in drawn], dtype=np.int64)
        self.image_size = size
        self.counts = np.array([count])

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[indices], self.labels[indices]


TINY = ClassifierSpec(channels=(8, 8), steps=6, batch_size=16, flip=True, shift=2)


def weights(net: Classifier) -> bytes:
    return b"".join(value.numpy().tobytes() for value in net.state_dict().values())


def test_training_is_a_function_of_spec_data_and_seed() -> None:
    data = Drawn(0, 40, 16)
    torch.manual_seed(1)
    first = train_classifier(TINY, data, (8, 16), seed=5)
    state = torch.random.get_rng_state()
    again = train_classifier(TINY, data, (8, 16), seed=5)
    assert weights(first) == weights(again)
    assert weights(first) != weights(train_classifier(TINY, data, (8, 16), seed=6))
    assert torch.equal(state, torch.random.get_rng_state())  # the caller's draws are left alone


def test_learns_the_drawn_classes_at_every_size_of_the_cascade() -> None:
    spec = ClassifierSpec(channels=(16, 32, 32), steps=100, batch_size=64)
    steps: list[int] = []
    net = train_classifier(spec, Drawn(0, 2000, 32), (8, 16, 32), seed=0, log=lambda step, _: steps.append(step))
    assert len(steps) == 20
    assert steps[-1] == 100
    held_out = Drawn(2000, 500, 32)
    for size in (8, 16, 32):
        small = to_uint8(downsample(to_float(torch.from_numpy(held_out.images)), size)).numpy()
        assert (predict(net, small) == held_out.labels).mean() >= 0.95


@pytest.mark.slow
def test_the_default_spec_reaches_the_bar_on_held_out_images() -> None:
    net = train_classifier(ClassifierSpec(), Drawn(0, 5000, 32), (8, 16, 32), seed=0)
    held_out = Drawn(5000, 1000, 32)
    assert (predict(net, held_out.images) == held_out.labels).mean() >= 0.97


def test_saved_and_loaded_it_judges_the_same(tmp_path: Path) -> None:
    net = train_classifier(TINY, Drawn(0, 40, 16), (16,), seed=0)
    save_classifier(net, tmp_path / "judge")
    assert sorted(path.name for path in (tmp_path / "judge").iterdir()) == [
        "classifier.json",
        "classifier.safetensors",
    ]
    images = to_float(torch.from_numpy(Drawn(40, 10, 16).images))
    loaded = load_classifier(tmp_path / "judge")
    assert torch.equal(net.features(images), loaded.features(images))
    assert torch.equal(net(images), loaded(images))
    assert net.features(images).shape == (10, 16)


def test_small_images_are_judged_as_their_bilinear_enlargement() -> None:
    net = Classifier(channels=(8, 8), blocks=2, classes=3, size=16).eval()
    small = torch.rand(4, 3, 8, 8) * 2 - 1
    large = torch.nn.functional.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(net(small), net(large))


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classifier\.json is missing"):
        load_classifier(tmp_path)
    with pytest.raises(UserError, match="multiple of 16 px, not 24 px"):
        Classifier(channels=(8, 8, 8, 8), blocks=1, classes=2, size=24)


def test_the_spec_needs_no_torch() -> None:
    code = "import sys, pipeline.classifier_spec; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_that_is_not_finite_is_not_given_out() -> None:
    wild = TINY.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=r"^the loss of a classifier is nan at step [2-6], and it is not kept"):
        train_classifier(wild, Drawn(0, 40, 16), (8, 16), seed=5)
    one_step = TINY.model_copy(update={"weight_decay": 1e300, "steps": 1})
    with pytest.raises(FloatingPointError, match=r"^the weights of a classifier are not finite after its last step"):
        train_classifier(one_step, Drawn(0, 40, 16), (8, 16), seed=5)
