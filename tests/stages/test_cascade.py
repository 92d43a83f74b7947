"""The chain: the same image on any number of workers, s = 0 is the identity, each kind of augmentation is used."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from stages.cascade import Cascade, Rung, TrainedStage, blocks_of, grid_of, low_res_input, sample_stage
from stages.compiling import compiled
from stages.randomness import KeyedDraws
from stages.schedules import build_schedule
from stages.specs import (
    AugmentationSpec,
    CosineSchedule,
    HybridLossSpec,
    NoiseSpec,
    StageSamplingSpec,
    StageSpec,
    UNetSpec,
)
from stages.stage import Stage

SETTINGS = {
    "ancestral": {"sampler": "ancestral"},
    "ancestral beta": {"sampler": "ancestral", "variance": "beta"},
    "ddim eta": {"sampler": "ddim", "eta": 0.5},
    "dpmpp_2m": {"sampler": "dpmpp_2m", "thresholding": "dynamic", "percentile": 0.9},
    "heun": {"sampler": "heun", "guidance_interval": [-4.0, 4.0]},
}
LINEAR = {"kind": "linear_beta", "steps": 20, "beta_start": 0.01, "beta_end": 0.6}


def trained(spec: StageSpec) -> TrainedStage:
    """A stage with weights away from their initial ones, where the output of a net is zero."""
    stage = Stage.build(spec)
    net = stage.build_net(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return TrainedStage(stage, net.eval())


NET = UNetSpec(channels=8, multipliers=(1, 2), blocks=1, head_width=8)


@pytest.fixture(scope="module")
def stages() -> list[TrainedStage]:
    base = StageSpec(name="base", size=4, classes=3, net=NET)
    noise = AugmentationSpec(noise=NoiseSpec(levels=(0.0, 0.5)))
    sr = StageSpec(
        name="sr",
        size=8,
        low_res_size=4,
        low_res_schedule=CosineSchedule(),
        classes=3,
        net=NET,
        augmentation=noise,
    )
    return [trained(base), trained(sr)]


def chain(stages: list[TrainedStage], **sampling: object) -> Cascade:
    above = StageSamplingSpec.model_validate({"steps": 4, **sampling})
    return Cascade(stages, [StageSamplingSpec(steps=4, sampler="ancestral"), above])


def drawn_blocks(cascade: Cascade, order: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Image of each index; the blocks are made in ``order``."""
    blocks, found = [block for block, _ in blocks_of(10, 4)], {}
    for number in order:
        images = cascade.sample_block(blocks[number], blocks[number] % 3, seed=7)[-1].images
        found.update(zip(blocks[number].tolist(), images, strict=True))
    return found


@pytest.mark.parametrize("kind", ["truncated", "non_truncated"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_an_image_depends_on_its_index_alone(stages: list[TrainedStage], kind: str, setting: str) -> None:
    cascade = chain(stages, augmentation=kind, level=0.2, guidance=1.5, **SETTINGS[setting])
    drawn = drawn_blocks(cascade, (0, 1, 2))
    for order in ((2, 0, 1), (1,), (2, 0)):  # blocks in any order, on anybody
        for index, image in drawn_blocks(cascade, order).items():
            assert torch.equal(drawn[index], image)
    assert len(drawn) == 12
    assert not torch.equal(drawn[0], drawn[3])  # same label, another index
    assert torch.stack(list(drawn.values())).abs().max() <= 1.0


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


class Counting(torch.nn.Module):
    """A net that remembers how many images each call had, and the noise it was told of."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, list[tuple[int, float]]()

    def forward(self, images: torch.Tensor, noise: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(images), float(noise[0])))
        return self.net(images, noise, *rest)


@pytest.mark.parametrize("sampler", ["ancestral", "heun"])
def test_guidance_on_an_interval_doubles_the_batch_only_there(stages: list[TrainedStage], sampler: str) -> None:
    indices = torch.arange(4)

    def drawn(**settings: object) -> tuple[torch.Tensor, list[int]]:
        net = Counting(stages[0].net)
        spec = StageSamplingSpec.model_validate({"sampler": sampler, "steps": 6, **settings})
        found = sample_stage(TrainedStage(stages[0].stage, net), spec, indices, indices % 3, None, seed=0).images
        assert spec.net_calls >= sum(images for images, _ in net.calls) / 4
        return found, [images for images, _ in net.calls]

    plain, calls = drawn()
    assert set(calls) == {4}
    outside, calls = drawn(guidance=3.0, guidance_interval=[16.0, 20.0])
    assert torch.equal(plain, outside)
    assert set(calls) == {4}
    everywhere, calls = drawn(guidance=3.0)
    assert set(calls) == {8}
    inside, calls = drawn(guidance=3.0, guidance_interval=[-20.0, 20.0])
    assert torch.equal(everywhere, inside)
    partly, calls = drawn(guidance=3.0, guidance_interval=[-2.0, 2.0])
    assert set(calls) == {4, 8}
    assert not torch.equal(partly, everywhere)
    assert not torch.equal(partly, plain)


def test_a_schedule_of_its_own_is_walked_with_any_number_of_steps(stages: list[TrainedStage]) -> None:
    indices = torch.arange(4)
    for steps in (1, 2, 3, 9, 20):
        net = Counting(stages[0].net)
        own = StageSamplingSpec.model_validate({"sampler": "ancestral", "steps": steps, "schedule": LINEAR})
        found = sample_stage(TrainedStage(stages[0].stage, net), own, indices, indices % 3, None, seed=0, keep=[0.4])
        grid = grid_of(stages[0].stage, own)
        assert grid.shape == (steps + 1,)
        told = torch.tensor([noise for _, noise in net.calls])
        torch.testing.assert_close(told / told[0], (grid[:-1] / grid[0]).float())
        assert torch.isfinite(found.images).all()
        assert torch.isfinite(found.kept[0.4]).all()


def test_a_schedule_of_its_own_that_is_that_of_training_changes_nothing(stages: list[TrainedStage]) -> None:
    indices = torch.arange(4)
    same = StageSamplingSpec.model_validate({"steps": 3, "schedule": {"kind": "cosine"}})
    drawn = [
        sample_stage(stages[0], spec, indices, indices % 3, None, seed=0).images
        for spec in (StageSamplingSpec(steps=3), same)
    ]
    assert torch.equal(*drawn)


def test_what_a_level_means_is_said_by_the_schedule_of_training(stages: list[TrainedStage]) -> None:
    # z_s has the log-SNR that the stage above was told of in training, whichever grid the chain walks.
    own = StageSamplingSpec.model_validate({"steps": 5, "schedule": {"kind": "piecewise", "logsnr": [3.0, 2.0, -9.0]}})
    indices, level = torch.arange(4), torch.tensor(0.3, dtype=torch.float64)
    rung = sample_stage(stages[0], own, indices, indices % 3, None, seed=0, keep=[0.3])
    grid, stop = grid_of(stages[0].stage, own), build_schedule(CosineSchedule(), 4)(level)
    assert grid[0] < stop < grid[-2]
    assert set(rung.kept) == {0.3}
    short = StageSamplingSpec.model_validate({"steps": 5, "schedule": {"kind": "piecewise", "logsnr": [9.0, -3.5]}})
    with pytest.raises(ValueError, match="outside the sampling grid"):
        sample_stage(stages[0], short, indices, indices % 3, None, seed=0, keep=[0.95])


def test_a_learned_variance_reaches_the_sampler() -> None:
    spec = StageSpec.model_validate(
        {"name": "ddpm", "size": 4, "classes": 3, "net": NET, "schedule": LINEAR, "times": "steps"}
        | {"conditioning": "step", "prediction": "eps", "loss": HybridLossSpec(kind="hybrid")}
    )
    stage, indices = trained(spec), torch.arange(4)
    images = {}
    for variance in ("posterior", "beta", "learned"):
        sampling = StageSamplingSpec(sampler="ancestral", variance=variance, steps=20)
        images[variance] = sample_stage(stage, sampling, indices, indices % 3, None, seed=0).images
        assert torch.isfinite(images[variance]).all()
    assert not torch.equal(images["learned"], images["posterior"])
    assert not torch.equal(images["learned"], images["beta"])
    ddim = sample_stage(stage, StageSamplingSpec(steps=5), indices, indices % 3, None, seed=0)  # takes no notice of it
    assert torch.isfinite(ddim.images).all()


def test_a_stage_without_noise_augmentation_is_sampled_too(stages: list[TrainedStage]) -> None:
    spec = StageSpec(name="sr", size=8, low_res_size=4, low_res_schedule=CosineSchedule(), classes=3, net=NET)
    cascade = Cascade([stages[0], trained(spec)], [StageSamplingSpec(steps=2), StageSamplingSpec(steps=2)])
    indices = torch.arange(4)
    assert cascade.sample_block(indices, indices % 3, seed=0)[1].images.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    "net",
    [
        {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_width": 8},
        {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "patch": 2, "patching": "haar"},
        {"kind": "adm", "channels": 8, "multipliers": [1, 2], "blocks": 1, "heads": 2},
        {"kind": "uvit", "channels": 8, "multipliers": [1, 2], "blocks": 1, "depth": 1, "head_width": 8},
    ],
    ids=lambda net: f"{net['kind']} {net.get('patching', '')}".strip(),
)
def test_a_net_that_is_cast_once_gives_the_bits_of_autocast(net: dict[str, Any]) -> None:
    one = trained(StageSpec.model_validate({"name": "base", "size": 8, "classes": 3, "net": net}))
    before = [parameter.clone() for parameter in one.net.parameters()]
    images, label = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = one.net(images, torch.tensor([-3.0, 40.0]), label)
        found = one.net_in("bf16")(images, torch.tensor([-3.0, 40.0]), label)
    assert torch.equal(found, expected)
    assert one.net_in("f32") is one.net
    assert one.net_in("bf16") is one.net_in("bf16")
    assert any(parameter.dtype == torch.bfloat16 for parameter in one.net_in("bf16").parameters())
    assert all(torch.equal(*pair) for pair in zip(before, one.net.parameters(), strict=True))


GUIDED = {"sampler": "ddim", "steps": 3, "guidance": 2.0, "guidance_interval": (-20.0, 0.0)}


def blocks_of_compiled(stages: list[TrainedStage], precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same two blocks of a chain with guidance, by plain nets and by compiled ones."""
    torch.compiler.reset()
    found = []
    for asked in (False, True):
        cascade = chain([replace(stage, compiled=asked) for stage in stages], **GUIDED)
        blocks = [
            cascade.sample_block(torch.arange(first, first + 2), torch.tensor([0, 2]), seed=0, precision=precision)
            for first in (0, 2)
        ]
        found.append(torch.cat([rungs[-1].images for rungs in blocks]))
    return found[0], found[1]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_net_is_drawn_from_as_one_graph(
    stages: list[TrainedStage], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch refuses a net that it would have to cut; its own kernels give the same bits."""
    nets = list[torch.nn.Module]()

    def compiled_by_torch(net: torch.nn.Module, **asked: Any) -> Any:
        nets.append(net)
        return compiled(net, backend="eager", **asked)

    monkeypatch.setattr("stages.cascade.compiled", compiled_by_torch)
    plain, drawn = blocks_of_compiled(stages, precision)
    assert torch.equal(drawn, plain)
    assert len(nets) == 2, "one for each stage, compiled once"


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_what_a_call_overwrites_was_kept(sampler: str, in_one_place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both samplers look at an earlier answer again, and a net that says x is taken at its word."""
    monkeypatch.setattr("stages.cascade.compiled", partial(compiled, backend=in_one_place))
    plain = trained(StageSpec(name="base", size=8, classes=3, net=NET, prediction="x"))
    settings = StageSamplingSpec.model_validate({"sampler": sampler, "steps": 4, "thresholding": "none"})
    found = []
    for asked in (False, True):
        torch.compiler.reset()
        stage = replace(plain, compiled=asked)
        found.append(sample_stage(stage, settings, torch.arange(2), torch.tensor([0, 2]), None, seed=0).images)
    assert torch.equal(found[1], found[0])


@pytest.mark.slow
def test_images_of_compiled_nets_are_those_of_plain_ones_within_rounding(stages: list[TrainedStage]) -> None:
    plain, drawn = blocks_of_compiled(stages, "f32")
    assert drawn.sub(plain).abs().max() < 1e-4
    assert not torch.equal(drawn, plain), "if they were the same bits they could share results"
