"""The examination of a chain from what its drawing nodes left: folders made of images with known errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.dag import Progress, Task
from pipeline.examining import examine_chain
from pipeline.scoring.examination import BANDS, colour_means, frequencies, power_bands
from pipeline.storage import open_storage
from stages.images import downsample, upsample

SIZE, COUNT = 16, 60


def left(folder: Path, images: Tensor, consistency: float | None = None) -> Path:
    """A folder as a drawing node leaves it."""
    folder.mkdir()
    np.save(folder / "colour.npy", colour_means(images).numpy())
    np.save(folder / "power.npy", power_bands(images).numpy())
    if consistency is not None:
        np.save(folder / "consistency.npy", np.full(len(images), consistency, np.float32))
    return folder


def task_of(folder: Path, **inputs: Path) -> Task:
    return Task("chain/sr", {"size": SIZE}, inputs, folder, {"threads": 1}, open_storage(folder), Progress())


@pytest.fixture
def real() -> Tensor:
    return (0.3 * torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


def test_a_stage_that_blurs_and_reddens_is_told_from_one_that_does_not(tmp_path: Path, real: Tensor) -> None:
    red = torch.tensor([8.0, 0.0, 0.0]).reshape(3, 1, 1) / 127.5
    blurred = upsample(downsample(real, SIZE // 2), SIZE)
    inputs = {
        "real": left(tmp_path / "real", real),
        "oracle": left(tmp_path / "oracle", real, 1e-4),
        "chained": left(tmp_path / "chained", blurred + red, 4e-4),
    }
    found = examine_chain(task_of(tmp_path, **inputs))
    assert json.loads(json.dumps(found)) == found
    assert found["size"] == SIZE
    assert found["colour_drift"] == pytest.approx(8 / np.sqrt(3), rel=1e-3)
    assert found["colour_noise"] < 1.0
    drift = np.subtract(found["colour"]["chained"], found["colour"]["real"]) * 255
    assert drift == pytest.approx([8.0, 0.0, 0.0], abs=1e-3)
    assert found["high_frequency_ratio"]["oracle"] == 1.0
    assert found["high_frequency_ratio"]["chained"] < 0.2
    assert found["consistency"] == pytest.approx({"chained": 4e-4, "oracle": 1e-4})
    assert found["frequencies"] == frequencies(SIZE).tolist()
    assert all(len(found["power"][kind]) == BANDS for kind in ("chained", "oracle", "real"))


def test_a_base_stage_has_no_oracle_and_no_consistency(tmp_path: Path, real: Tensor) -> None:
    found = examine_chain(task_of(tmp_path, real=left(tmp_path / "real", real), chained=left(tmp_path / "own", real)))
    assert found["colour"]["oracle"] is None
    assert found["power"]["oracle"] is None
    assert found["high_frequency_ratio"] == {"chained": 1.0, "oracle": None}
    assert found["consistency"] is None
    assert found["colour_drift"] == 0.0
