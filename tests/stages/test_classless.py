"""A stage that knows no classes: trained and sampled without labels, whatever is asked for."""

from __future__ import annotations

import pytest
import torch

from stages.randomness import KeyedDraws
from stages.specs import StageSamplingSpec, StageSpec
from stages.stage import Stage


def stage_of(label_drop: float) -> Stage:
    net = {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "head_width": 8}
    return Stage.build(StageSpec(name="base", size=8, classes=4, net=net, label_drop=label_drop))


def predictions(stage: Stage) -> list[torch.Tensor]:
    """What a net with random weights predicts of one image under each class and under no label."""
    net = stage.new_net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    z = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser, logsnr = stage.denoiser(net), torch.tensor(0.0)
    with torch.no_grad():
        return [
            denoiser(z, logsnr, label=torch.tensor([label]), low_res=None, aug_logsnr=None).x_hat for label in range(5)
        ]


def test_the_class_asked_for_changes_nothing_where_classes_are_not_known() -> None:
    *classes, without = predictions(stage_of(1.0))
    assert all(torch.equal(each, without) for each in classes)

    *classes, without = predictions(stage_of(0.1))
    assert not any(torch.equal(each, without) for each in classes)


def test_training_never_sees_a_label() -> None:
    seen = []

    def net(images: torch.Tensor, noise: torch.Tensor, label: torch.Tensor, level: object = None) -> torch.Tensor:
        seen.append(label)
        return images

    images, labels = torch.zeros(6, 3, 8, 8), torch.arange(6) % 4
    stage_of(1.0).loss(net, images, labels, KeyedDraws(0, "base"), 3, torch.arange(6), 6)
    assert seen[0].tolist() == [4] * 6


def test_guidance_towards_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match="label_drop 1 leaves it none"):
        stage_of(1.0).spec.check_sampling(StageSamplingSpec(guidance=2.0))
