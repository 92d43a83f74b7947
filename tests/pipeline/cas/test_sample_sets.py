"""Samples of a cascade as a data set: whose labels, which forms, and the same bytes whoever draws them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cas.sample_sets import draw_sample_set
from pipeline.dag import Task
from pipeline.data.datasets import open_examples
from pipeline.data.manifest import load_manifest
from pipeline.data.verifying import verify
from pipeline.errors import UserError
from stages.cascade import Cascade
from stages.checkpoints import load_trained
from stages.images import to_uint8
from stages.specs import StageSamplingSpec

MakeTask = Callable[..., Task]


def files(task: Task) -> dict[str, bytes]:
    """All files of a task's result, by name."""
    return {str(path.relative_to(task.out)): path.read_bytes() for path in task.out.rglob("*") if path.is_file()}


@pytest.fixture
def drawn(make_task: MakeTask) -> Task:
    """A task that was done at once, in this process."""
    task = make_task("straight")
    draw_sample_set(task)
    return task


def test_sample_i_has_the_label_of_training_image_i(make_task: MakeTask, real: Path) -> None:
    task = make_task("all", images=None, stages=[{"name": "base", "sampling": {"steps": 1}}])
    assert draw_sample_set(task)["images"] == 640
    samples, originals = open_examples(task.out, "train"), open_examples(real, "train")
    assert np.array_equal(samples.labels, originals.labels)
    assert np.array_equal(samples.read(np.arange(640))[1], originals.labels)
    assert samples.classes == originals.classes


def test_kept_samples_may_go_through_all_classes_in_turn(make_task: MakeTask) -> None:
    task = make_task("uniform", labels="uniform")
    draw_sample_set(task)
    samples = open_examples(task.out, "train")
    assert samples.labels.tolist() == [index % len(samples.classes) for index in range(26)]


def test_more_samples_than_training_images_go_through_the_labels_again(make_task: MakeTask, real: Path) -> None:
    task = make_task("more", images=650, stages=[{"name": "base", "sampling": {"steps": 1}}])
    draw_sample_set(task)
    samples = open_examples(task.out, "train")
    assert np.array_equal(samples.labels[640:], samples.labels[:10])
    pixels, _ = samples.read(np.arange(650))
    assert not np.array_equal(pixels[640:], pixels[:10])  # samples of their own


def test_every_form_holds_what_its_stage_drew(drawn: Task, cascade: dict[str, Path], real: Path) -> None:
    stages = [load_trained(folder) for folder in cascade.values()]
    sampling = [StageSamplingSpec.model_validate(stage["sampling"]) for stage in drawn.config["stages"]]
    chain, size = Cascade(stages, sampling), drawn.config["block"]
    labels = torch.from_numpy(np.array(open_examples(real, "train").labels))
    at = {size: open_examples(drawn.out, "train", size=size).read(np.arange(26))[0] for size in (4, 8, 16)}
    for first in range(0, 26, size):
        block = torch.arange(first, first + size)
        for rung in chain.sample_block(block, labels[block], seed=3):
            pixels = to_uint8(rung.images).numpy()
            assert np.array_equal(at[pixels.shape[1]][first : first + size], pixels[: 26 - first])
    means = at[16].reshape(26, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    assert np.abs(means - at[8]).mean() > 5  # not what a data set of real images would hold there


def test_images_that_are_not_finite_are_refused(make_task: MakeTask, without_class: Any) -> None:
    """What the top stage makes of them is not finite either; the stage that drew them is named."""
    task = make_task("broken", labels="uniform")
    with pytest.raises(FloatingPointError, match=r"1 of 4 images of stage middle are not finite.* number 6\b"):
        draw_sample_set(replace(task, inputs={**task.inputs, **without_class("middle", 6)}))
    assert not list(task.storage.path(f"{task.scratch}/shards").glob("*/train-00000.index"))


def test_images_past_the_end_of_the_set_are_not_looked_at(make_task: MakeTask, without_class: Any) -> None:
    """They only fill the last block: samples 2 and 3, of classes 2 and 3, are not stored."""
    task = make_task("short", images=2, labels="uniform", stages=[{"name": "base", "sampling": {"steps": 1}}])
    assert draw_sample_set(replace(task, inputs={**task.inputs, **without_class("base", 3)}))["images"] == 2


def test_it_says_that_it_is_samples_and_is_whole(drawn: Task) -> None:
    manifest = load_manifest(drawn.out / "shards")
    assert (manifest.source.kind, manifest.source.name) == ("samples", "samples of base > middle > top")
    assert "resize" not in manifest.resize
    assert manifest.resize.startswith("none")
    assert [form.name for form in manifest.forms] == ["16-png", "8-png", "4-png"]
    assert (manifest.splits["train"].counts, manifest.splits["val"].counts) == ((8, 8, 8, 2), ())
    found = verify(drawn.out / "shards")
    assert (found.faults, found.shards) == ([], 12)


def test_sizes_between_the_stages_cannot_be_had(drawn: Task) -> None:
    """Box means of a larger stage's images are nobody's images, so they are never handed out as such."""
    for size in (2, 1):
        with pytest.raises(UserError, match=f"images of {size} px .* 16-png, 8-png, 4-png"):
            open_examples(drawn.out, "train", size=size)


def test_nothing_but_the_set_is_stored(drawn: Task) -> None:
    numbers = range(4)
    expected = {
        f"shards/{size}-png/train-{n:05d}.{end}" for size in (4, 8, 16) for n in numbers for end in ("tar", "index")
    }
    assert set(files(drawn)) == {*expected, "shards/manifest.json"}


def test_other_settings_are_another_set(make_task: MakeTask, drawn: Task) -> None:
    other = make_task("other", seed=4)
    draw_sample_set(other)
    first, second = load_manifest(drawn.out / "shards"), load_manifest(other.out / "shards")
    assert first.source.fingerprint != second.source.fingerprint
    assert first.splits["train"].shards["16-png"].sha256 != second.splits["train"].shards["16-png"].sha256
    with pytest.raises(UserError, match="already holds a data set with seed 3 instead of 4"):
        draw_sample_set(replace(other, storage=drawn.storage, scratch=drawn.scratch))


def test_a_killed_driver_loses_one_shard(make_task: MakeTask, drawn: Task, tmp_path: Path) -> None:
    """Killed inside its third shard and started again: the first two are not drawn again, the bytes are the same."""
    killed = make_task("killed", out="lost")
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, pickle, signal, sys\n"
        "from stages.cascade import Cascade\n"
        "from pipeline.cas.sample_sets import draw_sample_set\n"
        "whole = Cascade.sample_block\n"
        "def sample_block(self, indices, labels, **rest):\n"
        "    if int(indices[0]) == 20:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(self, indices, labels, **rest)\n"
        "Cascade.sample_block = sample_block\n"
        "draw_sample_set(pickle.load(open(sys.argv[1], 'rb')))\n"
    )
    (tmp_path / "task").write_bytes(pickle.dumps(killed))
    assert subprocess.run([sys.executable, str(script), str(tmp_path / "task")]).returncode == -signal.SIGKILL
    published = sorted(killed.storage.path(f"{killed.scratch}/shards").glob("*/*.index"))
    assert len(published) == 6
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in published}
    again = make_task("killed", out="again")
    draw_sample_set(again)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in published} == before
    assert files(again) == files(drawn)
    assert os.listdir(killed.out) == []


@pytest.mark.ray
def test_two_workers_draw_the_same_bytes(make_task: MakeTask, drawn: Task, ray_cluster: None) -> None:
    task = make_task("ray", context={"sampling_workers": 2})
    draw_sample_set(task)
    assert files(task) == files(drawn)
