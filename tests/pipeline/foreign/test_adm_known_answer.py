"""Known answers: the figures that guided-diffusion prints for its own samples, from its own files.

Runs where the environment variable ADM_EVALUATION names a folder that holds

- VIRTUAL_imagenet256_labeled.npz, the reference batch (statistics of the whole set, and 10,000 images),
- admnet_guided_upsampled_imagenet256.npz, the 50,000 samples of ADM-G + ADM-U at 256 px,
- weights-inception-2015-12-05-6726825d.pth, Inception-v3 as torch-fidelity publishes it,

and is skipped elsewhere. ADM_EVALUATION_DEVICE (cpu where it is not set) says what the net runs on: 60,000 images take
hours on a CPU and minutes on a GPU.

What may differ, and hence the tolerances, which are reasoned and were not fitted to a run:

- FID and sFID, 0.3 %: the reference's statistics are taken as they are and the weights are those of the same
  TensorFlow graph, but convolutions and the resize run in another library in single precision; papers print two
  decimals, and 0.3 % of 3.94 is one step of the second;
- the Inception score, 0.5 %: it is the mean over ten splits of 5,000, ours of a shuffle and theirs in the order of the
  file, so that each marginal is of other samples;
- precision and recall, 0.01: guided-diffusion compares distances in half precision wherever they are finite, whose
  steps are about a thousandth of a value, so that features near a radius change sides.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.fan_out import in_turn
from pipeline.foreign.judgement import Request, judge

VARIABLE = "ADM_EVALUATION"
REFERENCE = "VIRTUAL_imagenet256_labeled.npz"
SAMPLES = "admnet_guided_upsampled_imagenet256.npz"
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"

# guided-diffusion, evaluations/README.md: what its evaluator prints for these two files.
PUBLISHED: dict[str, tuple[float, dict[str, Any]]] = {
    "inception_score": (215.8370361328125, {"rel": 0.005}),
    "fid": (3.9425574129223264, {"rel": 0.003}),
    "sfid": (6.140433703346162, {"rel": 0.003}),
    "precision": (0.8265, {"abs": 0.01}),
    "recall": (0.5309, {"abs": 0.01}),
}


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What we say of the same files."""
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no folder with {REFERENCE}, {SAMPLES} and {WEIGHTS}")
    folder = Path(os.environ[VARIABLE])
    absent = [name for name in (REFERENCE, SAMPLES, WEIGHTS) if not (folder / name).is_file()]
    assert not absent, f"{VARIABLE} is {folder}, which lacks {', '.join(absent)}"
    place = tmp_path_factory.mktemp("adm")
    request = Request(
        images=str(folder / SAMPLES),
        against=str(folder / REFERENCE),
        scorer="inception",
        weights=str(folder / WEIGHTS),
        sha256=None,
        split="train",
        sample_split=None,
        count=None,
        size=None,
        resize=None,
        labels=None,
        block=64,
        neighbours=3,
        device=os.environ.get(f"{VARIABLE}_DEVICE", "cpu"),
        cache=place / "cache",
    )
    return judge(
        request, fan_out=in_turn, threads=torch.get_num_threads(), scratch=place / "scratch", progress=lambda *_: None
    )


@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures_come_out(name: str, scores: dict[str, Any]) -> None:
    value, tolerance = PUBLISHED[name]
    assert scores[name] == pytest.approx(value, **tolerance)


def test_it_was_measured_as_they_did(scores: dict[str, Any]) -> None:
    reference = scores["passport"]["reference"]
    assert scores["samples"] == 50_000
    assert (reference["images"], reference["near"]) == (None, 10_000), "statistics as they are, 10,000 images beside"
    assert scores["flags"] == []
