"""The chain: the same image on any number of workers, s = 0 is the identity, each kind of augmentation is used."""

from __future__ import annotations

import pytest
import torch

from stages.cascade import Cascade, Rung, TrainedStage, blocks_of, low_res_input, sample_stage
from stages.randomness import KeyedDraws
from stages.specs import AugmentationSpec, CosineSchedule, NoiseSpec, StageSamplingSpec, StageSpec, UNetSpec
from stages.stage import Stage


@pytest.fixture(scope="module")
def stages() -> list[TrainedStage]:
    net = UNetSpec(channels=8, multipliers=(1, 2), blocks=1, head_width=8)
    base = StageSpec(name="base", size=4, classes=3, net=net)
    noise = AugmentationSpec(noise=NoiseSpec(levels=(0.0, 0.5)))
    sr = StageSpec(
        name="sr",
        size=8,
        low_res_size=4,
        low_res_schedule=CosineSchedule(),
        classes=3,
        net=net,
        augmentation=noise,
    )
    built = []
    for spec in (base, sr):
        stage = Stage.build(spec)
        net_module = stage.build_net(0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in net_module.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        built.append(TrainedStage(stage, net_module.eval()))
    return built


def chain(stages: list[TrainedStage], **sampling: object) -> Cascade:
    above = StageSamplingSpec.model_validate({"steps": 4, **sampling})
    return Cascade(stages, [StageSamplingSpec(steps=4, sampler="ancestral"), above])


@pytest.mark.parametrize("kind", ["truncated", "non_truncated"])
def test_an_image_depends_on_its_index_alone(stages: list[TrainedStage], kind: str) -> None:
    cascade = chain(stages, augmentation=kind, level=0.2, sampler="ancestral", guidance=1.5)
    drawn = {}
    for order in ((0, 1, 2), (2, 0, 1)):  # blocks in any order, on anybody
        blocks = [block for block, _ in blocks_of(10, 4)]
        for number in order:
            images = cascade.sample_block(blocks[number], blocks[number] % 3, seed=7)[-1].images
            for index, image in zip(blocks[number].tolist(), images, strict=True):
                assert torch.equal(drawn.setdefault(index, image), image)
    assert len(drawn) == 12
    assert not torch.equal(drawn[0], drawn[3])  # same label, another index


def test_blocks_cover_the_count_and_pad_the_last() -> None:
    found = list(blocks_of(10, 4))
    assert [asked for _, asked in found] == [4, 4, 2]
    assert torch.cat([indices for indices, _ in found]).tolist() == list(range(12))


def test_level_zero_is_the_finished_image_for_both_kinds(stages: list[TrainedStage]) -> None:
    indices = torch.arange(4)
    plain = chain(stages, level=0.0).sample_block(indices, indices % 3, seed=1)
    truncated = chain(stages, level=0.0, augmentation="truncated").sample_block(indices, indices % 3, seed=1)
    assert torch.equal(plain[1].images, truncated[1].images)
    low_res = low_res_input(stages[1].stage, plain[0], indices, KeyedDraws(0, "x"), kind="non_truncated", level=0.0)
    assert torch.equal(low_res.image, plain[0].images)
    torch.testing.assert_close(low_res.aug_logsnr, torch.full((4,), 15.0))


def test_truncated_hands_over_z_s_and_its_logsnr(stages: list[TrainedStage]) -> None:
    below = Rung(torch.zeros(2, 3, 4, 4), {0.3: torch.ones(2, 3, 4, 4)})
    indices = torch.arange(2)
    cut = low_res_input(stages[1].stage, below, indices, KeyedDraws(0, "x"), kind="truncated", level=0.3)
    noised = low_res_input(stages[1].stage, below, indices, KeyedDraws(0, "x"), kind="non_truncated", level=0.3)
    assert torch.equal(cut.image, below.kept[0.3])
    assert torch.equal(cut.aug_logsnr, noised.aug_logsnr)
    assert not torch.equal(noised.image, below.images)


def test_oracle_is_the_same_call_with_real_low_res(stages: list[TrainedStage]) -> None:
    real = Rung(torch.linspace(-1, 1, 4 * 48).reshape(4, 3, 4, 4), {})
    indices = torch.arange(4)
    drawn = sample_stage(stages[1], StageSamplingSpec(steps=3), indices, indices % 3, real, seed=0)
    other = sample_stage(stages[1], StageSamplingSpec(steps=3), indices, indices % 3, Rung(-real.images, {}), seed=0)
    assert drawn.images.shape == (4, 3, 8, 8)
    assert drawn.images.abs().max() <= 1
    assert not torch.equal(drawn.images, other.images)
