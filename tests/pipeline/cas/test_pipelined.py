"""A set of samples drawn by a line of actors: the bytes of workers that draw whole chains, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cas.pipelined import Block, StageActor, stage_line
from pipeline.cas.sample_sets import Drawing, draw_sample_set
from pipeline.dag import Task
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from stages.cascade import Cascade
from stages.checkpoints import load_trained
from stages.images import to_uint8
from stages.specs import StageSamplingSpec

MakeTask = Callable[..., Task]
ROOMS = ("scratch/x", "turns", "absent", "small")  # by the names of tasks and lines here
PIPELINED = {"sampling_workers": 2, "pipelined": True}


def two_stages(steps: int = 2, **middle: Any) -> list[dict[str, Any]]:
    """As many as there are CPUs for: the settings of the lower two stages."""
    sampling = {"steps": steps, "augmentation": "truncated", "level": 0.3} | middle
    return [{"name": "base", "sampling": {"steps": steps}}, {"name": "middle", "sampling": sampling}]


@pytest.fixture
def drawing(cascade: dict[str, Path]) -> Drawing:
    """Of the lower two stages."""
    sampling = tuple(StageSamplingSpec.model_validate(stage["sampling"]) for stage in two_stages())
    folders = (cascade["base"], cascade["middle"])
    return Drawing(("base", "middle"), folders, sampling, seed=3, block=4, precision="f32", device="cpu", threads=1)


def files(task: Task) -> dict[str, bytes]:
    """All files of a task's result, by name."""
    return {str(path.relative_to(task.out)): path.read_bytes() for path in task.out.rglob("*") if path.is_file()}


def published(task: Task) -> dict[Path, tuple[int, int]]:
    """The indices of the shards that a task has published so far, and what tells that they were not written again."""
    found = task.storage.path(f"{task.scratch}/shards").glob("*/*.index")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def actors(*, alive: bool = True) -> list[Any]:
    """What the cluster knows of actors of stages, in the order in which they were started."""
    import ray
    from ray.util.state import list_actors

    here = ray.get_runtime_context().gcs_address  # of this cluster, there may be others on the machine
    found = list_actors(here, filters=[("class_name", "=", "StageActor")], detail=True, limit=1000)
    return [one for one in found if not alive or one.state != "DEAD"]


def none_is_left() -> bool:
    """Whether all actors of stages end within seconds, and what was set aside for them is given back."""
    import ray

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rooms = [one["state"] for one in ray.util.placement_group_table().values() if one["name"] in ROOMS]
        if not actors() and set(rooms) == {"REMOVED"}:
            return True
        time.sleep(0.2)
    return False


def test_an_actor_draws_what_the_chain_draws_and_looks_at_what_is_stored(
    drawing: Drawing, cascade: dict[str, Path], without_class: Any
) -> None:
    labels, indices = (0, 1, 2, 3), torch.arange(8, 12)
    trained = [load_trained(cascade[name]) for name in drawing.names]
    rungs = Cascade(trained, drawing.sampling).sample_block(indices, torch.tensor(labels), seed=3)
    base, middle = StageActor(drawing, 0), StageActor(drawing, 1)
    handed, small = base.draw(Block(8, labels, 4), None)
    above, large = middle.draw(Block(8, labels, 4), handed)
    assert handed is not None
    assert list(handed.kept) == [0.3], "what the stage above begins with"
    assert above is None
    assert np.array_equal(small, to_uint8(rungs[0].images))
    assert np.array_equal(large, to_uint8(rungs[1].images))
    assert base.busy() > 0
    broken = StageActor(replace(drawing, stages=(without_class("base", 3)["train base"], cascade["middle"])), 0)
    broken.draw(Block(8, labels, 3), None)
    with pytest.raises(FloatingPointError, match=r"1 of 4 images of stage base are not finite.* number 11\b"):
        broken.draw(Block(8, labels, 4), None)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "precision", "asked"),
    [
        ("truncated", "f32", True),
        ("non_truncated", "f32", {"middle": 1}),
        ("truncated", "bf16", {"base": 1, "middle": 1}),
        ("non_truncated", "bf16", True),
    ],
)
def test_a_line_draws_the_same_bytes(
    make_task: MakeTask, kind: str, precision: str, asked: Any, ray_cluster: None
) -> None:
    before = len(actors(alive=False))
    settings: dict[str, Any] = {"stages": two_stages(augmentation=kind), "precision": precision}
    straight, line = make_task("straight", **settings), make_task("line", PIPELINED | {"pipelined": asked}, **settings)
    assert draw_sample_set(line)["digest"] == draw_sample_set(straight)["digest"]
    assert files(line) == files(straight)
    assert len(actors(alive=False)) == before + 2
    assert none_is_left()


@pytest.mark.ray
def test_one_stage_has_no_line(make_task: MakeTask, ray_cluster: None) -> None:
    before = len(actors(alive=False))
    draw_sample_set(make_task("one", PIPELINED, stages=two_stages()[:1]))
    assert len(actors(alive=False)) == before


@pytest.mark.ray
def test_actors_of_a_stage_take_turns_and_blocks_are_taken_as_images_are(
    drawing: Drawing, cascade: dict[str, Path], ray_cluster: None
) -> None:
    taken = list[int]()

    def blocks() -> Iterator[Block]:
        for first in range(0, 400, 4):
            taken.append(first)
            yield Block(first, (1, 2, 3, 4), 4)

    alone = replace(drawing, names=("base",), stages=drawing.stages[:1], sampling=drawing.sampling[:1])
    with stage_line(alone, (2,), gpus=0.0, name="turns") as line:
        images = line.drawn(blocks())
        (first,), (second,) = next(images), next(images)
        assert len(taken) <= line.in_flight + 2
        assert all(seconds > 0 for seconds in line.busy()[0])
        images.close()
    chain = Cascade([load_trained(cascade["base"])], alone.sampling)
    for place, pixels in ((0, first), (4, second)):
        (rung,) = chain.sample_block(torch.arange(place, place + 4), torch.tensor([1, 2, 3, 4]), seed=3)
        assert np.array_equal(pixels, to_uint8(rung.images))
    assert none_is_left()


@pytest.mark.ray
def test_a_killed_actor_is_started_again_and_the_bytes_are_the_same(make_task: MakeTask, ray_cluster: None) -> None:
    """Both actors are killed in the middle, one after the other."""
    settings: dict[str, Any] = {"stages": two_stages(steps=24), "images": 96}
    draw_sample_set(straight := make_task("straight", **settings))
    known = {one.actor_id for one in actors(alive=False)}
    line, killed = make_task("line", PIPELINED, **settings), list[int]()

    def kill() -> None:
        for number in range(2):
            while len(published(line)) < 2 + 6 * number:
                time.sleep(0.02)
            victim = [one for one in actors() if one.actor_id not in known][number]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    draw_sample_set(line)
    assert len(set(killed)) == 2
    assert sorted(int(one.num_restarts) for one in actors(alive=False) if one.actor_id not in known) == [1, 1]
    assert files(line) == files(straight)
    assert none_is_left()


@pytest.mark.ray
def test_what_a_stage_raises_is_raised_as_it_was(make_task: MakeTask, without_class: Any, ray_cluster: None) -> None:
    task = make_task("broken", PIPELINED, labels="uniform", stages=two_stages())
    with pytest.raises(FloatingPointError, match=r"1 of 4 images of stage middle are not finite.* number 6\b"):
        draw_sample_set(replace(task, inputs={**task.inputs, **without_class("middle", 6)}))
    assert not [path for path in published(task) if path.name == "train-00000.index"]
    assert none_is_left()


@pytest.mark.ray
def test_weights_that_cannot_be_read_are_named_before_anything_is_drawn(
    drawing: Drawing, tmp_path: Path, ray_cluster: None
) -> None:
    absent = replace(drawing, stages=(drawing.stages[0], tmp_path))
    with pytest.raises(ValueError, match="is not a checkpoint"), stage_line(absent, (1, 1), gpus=0.0, name="absent"):
        pass
    assert none_is_left()


@pytest.mark.ray
def test_a_node_does_not_wait_for_a_cluster_that_will_not_grow(make_task: MakeTask, ray_cluster: None) -> None:
    context = {**PIPELINED, "sampling_workers": 3, "grows": False}
    with pytest.raises(UserError, match=r"3 actors of 1 CPU each work at once, and the cluster has 2"):
        draw_sample_set(make_task("small", context, stages=two_stages()))
    assert none_is_left()


@pytest.mark.ray
def test_a_cluster_that_is_too_small_is_refused(drawing: Drawing, ray_cluster: None) -> None:
    says = r"resources.pipelined_sampling: 3 actors of 1 CPU each .* cluster has 2; lower resources.sampling_workers"
    with (
        pytest.raises(UserError, match=says),
        stage_line(drawing, (2, 1), gpus=0.0, name="small", patience=0.0),
    ):
        pass
    assert none_is_left()


@pytest.mark.ray
def test_one_that_is_interrupted_leaves_no_actor_and_goes_on_later(make_task: MakeTask, ray_cluster: None) -> None:
    draw_sample_set(straight := make_task("straight", stages=two_stages()))

    def interrupt(done: int, total: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    task = make_task("line", PIPELINED, stages=two_stages())
    with pytest.raises(KeyboardInterrupt):
        draw_sample_set(replace(task, progress=interrupt))  # type: ignore[arg-type]
    assert none_is_left()
    assert len(before := published(task)) >= 4
    draw_sample_set(again := make_task("line", PIPELINED, out="again", stages=two_stages()))
    assert before.items() <= published(again).items()
    assert files(again) == files(straight)


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_is_killed_leaves_no_actor_and_its_next_try_goes_on(
    make_task: MakeTask, tmp_path: Path, ray_cluster: None
) -> None:
    """What the killed process had set aside would else be missing for ever: there are no CPUs for another line."""
    import ray

    draw_sample_set(straight := make_task("straight", stages=two_stages()))
    task, mark = make_task("line", PIPELINED, stages=two_stages()), tmp_path / "killed"

    def die_once(done: int, total: int) -> None:
        if done >= 8 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    node: Any = ray.remote(draw_sample_set)
    summary = ray.get(node.options(num_cpus=0, max_retries=1).remote(replace(task, progress=die_once)))  # type: ignore[arg-type]
    assert mark.exists()
    assert summary["digest"] == load_manifest(straight.out / "shards").digest
    assert none_is_left()
