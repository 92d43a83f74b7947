"""The parts of an experiment against each other: what cannot end well is refused before it begins."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.experiment_spec import Experiment

NET = {"kind": "unet", "channels": 8}
TRAINING = {"steps": 4, "batch_size": 8}
STEPS = {"kind": "linear_beta", "steps": 20, "beta_start": 0.005, "beta_end": 0.9}
SPACE = {"stages.base.sampling.steps": {"values": [2]}}
IMAGES = {"kind": "images", "source": "nowhere", "size": 16}


def experiment_of(base: Any = (), sr: Any = (), **changes: Any) -> Experiment:
    """A cascade of 8 and 16 px; the second is trained for every level."""
    stages = {
        "base": {"size": 8, "net": NET, "training": TRAINING, **dict(base)},
        "sr": {
            "size": 16,
            "low_res_size": 8,
            "net": NET,
            "training": TRAINING,
            "augmentation": {"noise": {"levels": [0, 1]}},
            **dict(sr),
        },
    }
    data = {"kind": "drawn", "size": 16, "train": 200, "val": 100}
    fields = {"name": "x", "data": data, "evaluation": {"samples": 100, "reference": 200}, "stages": stages}
    return Experiment.model_validate(fields | changes)


def refused(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        experiment_of(**changes)
    (error,) = caught.value.errors()
    return error["msg"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluation": {"samples": 101, "reference": 9}}, "evaluation.samples 101 is more than the 100 held-out"),
        (
            {"evaluation": {"samples": 9, "reference": 201}},
            "evaluation.reference 201 is more than the 200 images of da",
        ),
        ({"evaluation": {"samples": 3, "reference": 9}}, "evaluation.samples 3 is too few for precision and recall"),
        ({"evaluation": {"samples": 9, "reference": 3}}, "evaluation.reference 3 is too few"),
        ({"search": {"space": SPACE, "samples": 101}}, "search.samples 101 is more than the 100 held-out images"),
        ({"search": {"space": SPACE, "samples": 2}}, "search.samples 2 is too few"),
        (
            {"search": {"space": SPACE, "samples": 9, "seed": 0, "metric": "chained_accuracy"}},
            "search.seed and evaluation.seed are both 0",
        ),
        (
            {
                "evaluation": {
                    "samples": 99,
                    "reference": 99,
                    "cas": {"net": {"kind": "small", "channels": [8, 8, 8, 8]}, "crop": None},
                }
            },
            "sees 8 px of the images of stages.base; leave out levels",
        ),
        ({"search": {"space": SPACE, "samples": 100}}, "no more than the 160 dimensions of the features"),
        (
            {"evaluation": {"samples": 9, "reference": 9, "bound": {"images": 101}}, "base": {"schedule": STEPS}},
            "evaluation.bound.images 101 is more than the 100 held-out images of data.val; lower it",
        ),
        ({"data": {**IMAGES, "expects": {"train": 199, "classes": 2}}}, "the 199 images of data.expects.train"),
        (
            {"sr": {"low_res_size": None, "augmentation": None}},
            "stages.sr: low_res_size is missing; the stage below, base, makes 8 px",
        ),
    ],
)
def test_parts_that_cannot_go_together_are_refused(changes: dict[str, Any], says: str) -> None:
    assert says in refused(**changes)


CAS = {"samples": 99, "reference": 99, "cas": {"batch_size": 8, "net": {"kind": "resnet18"}}}


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        ({"min": 1, "max": 2}, "resources.workers is a range, 1 to 2, and the score of evaluation.cas depends on"),
        ({"min": 2, "max": 2}, "resources.workers is a range, 2 to 2"),
        (5, "evaluation.cas.batch_size 8 has fewer than 2 images for each of 5 workers, too few for the stat"),
    ],
)
def test_the_workers_of_an_accuracy_score_are_a_number_with_two_images_each(workers: Any, says: str) -> None:
    assert says in refused(evaluation=CAS, resources={"workers": workers})
    experiment_of(resources={"workers": workers})


def test_two_images_for_each_worker_are_enough() -> None:
    assert experiment_of(evaluation=CAS, resources={"workers": 4}).resources.workers == 4


def test_what_is_not_described_is_not_refused() -> None:
    huge = {"samples": 10**6, "reference": 10**6}
    assert experiment_of(data=IMAGES, evaluation=huge).evaluation.samples == 10**6
    assert experiment_of(data={"kind": "shards", "path": "nowhere"}, evaluation=huge).evaluation.samples == 10**6


@pytest.mark.parametrize("where", ["seed", "data", "evaluation", "search"])
@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_fits_into_63_bits(where: str, seed: int) -> None:
    sections: dict[str, Any] = {
        "seed": seed,
        "data": {"kind": "drawn", "size": 16, "seed": seed},
        "evaluation": {"seed": seed},
        "search": {"space": SPACE, "seed": seed, "samples": 9},
    }
    with pytest.raises(ValidationError, match="seed"):
        experiment_of(**{where: sections[where]})


def test_a_chain_is_cut_short_only_where_it_passes() -> None:
    own = {"sampling": {"schedule": {"kind": "cosine", "logsnr_min": -10}}}
    cut = {"sampling": {"augmentation": "truncated", "level": 1.0}}
    told = refused(base=own, sr=cut)
    assert "stages.sr.sampling.level 1 is at log-SNR -15, but sampling.schedule of base begins at -10" in told
    experiment_of(sr=cut)
    experiment_of(base=own, sr={"sampling": {"augmentation": "truncated", "level": 0.5}})
    experiment_of(base=own, sr={"sampling": {"level": 1.0}})


def test_pipelined_sampling_has_an_actor_for_every_stage() -> None:
    for asked in (False, True, {"sr": 2}):
        assert experiment_of(resources={"sampling_workers": 3, "pipelined_sampling": asked})
    says = refused(resources={"sampling_workers": 1, "pipelined_sampling": True})
    assert "needs 2 actors for the stages base > sr, and resources.sampling_workers is 1; raise that to 2" in says
    says = refused(resources={"sampling_workers": 3, "pipelined_sampling": {"base": 3}})
    assert "needs 4 actors for the stages base > sr" in says
    says = refused(resources={"pipelined_sampling": {"top": 1}})
    assert "resources.pipelined_sampling names 'top', and stages are base, sr" in says
    alone = {"base": {"size": 8, "net": NET, "training": TRAINING}}
    resources = {"sampling_workers": 1, "pipelined_sampling": True}
    assert experiment_of(stages=alone, resources=resources), "a chain of one stage is drawn as ever"
