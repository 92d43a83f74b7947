"""One worker's part of the score, without Ray: it measures what it says, and killed anywhere it gives the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.cas.run import CasRun, CasSettings, counts_of_first
from pipeline.commits import OwnershipLost
from pipeline.data.datasets import open_examples
from pipeline.data.ingest import ingest, make_forms
from pipeline.errors import UserError

Train = Callable[..., CasRun]


def final(settings: CasSettings) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[Any]]:
    """What the run says of itself, its tensors and its history."""
    run = CasRun(settings, rank=0, world=1, device="cpu")
    found = run.commits.latest_whole(lambda entry: bool(entry.info.get("final")))
    assert found is not None
    entry, folder = found
    tensors = load_file(folder / "net.safetensors") | {
        f"momentum/{name}": value for name, value in load_file(folder / "momentum.safetensors").items()
    }
    info = {key: value for key, value in entry.info.items() if key != "seconds"}
    return info, tensors, json.loads((folder / "history.json").read_text())


def assert_equal_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory, real: Path) -> Path:
    """The training images of ``real`` under labels that say nothing of them, as a data node's result."""
    root = tmp_path_factory.mktemp("shuffled")
    examples = open_examples(real, "train")
    pixels, labels = examples.read(np.arange(len(examples)))
    wrong = np.random.default_rng(0).permutation(labels)
    for number, (image, label) in enumerate(zip(pixels, wrong, strict=True)):
        path = root / "tree" / examples.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    ingest(root / "tree", root / "shards", forms=make_forms([(16, "png")]), val_fraction=0.0, shard_size=256)
    shutil.rmtree(root / "tree")
    return root


def test_it_learns_what_can_be_learnt(train: Train, settings: CasSettings) -> None:
    train()
    info, _, history = final(settings)
    assert info["cas_top1"] > 0.95
    assert info["cas_top1"] <= info["cas_top5"] <= 1.0
    assert (info["images"], info["step"]) == (640, 300)
    assert [entry["step"] for entry in history] == list(range(10, 301, 10))
    assert history[-1]["loss"] < 0.5 < 2.0 < history[0]["loss"]


def test_it_learns_nothing_where_labels_say_nothing(train: Train, settings: CasSettings, shuffled: Path) -> None:
    train(train=str(shuffled))
    assert abs(final(settings)[0]["cas_top1"] - 0.1) < 0.1


@pytest.mark.parametrize("crop", [None, 0.875])
def test_a_resumed_run_equals_the_uninterrupted_one(
    crop: float | None, train: Train, settings: CasSettings, tmp_path: Path
) -> None:
    spec = {**settings.spec, "epochs": 1, "crop": crop, "net": {"kind": "small", "channels": [8]}, "precision": "bf16"}
    other = replace(settings, spec=spec, storage=str(tmp_path / "straight"), log_every=3)
    train(**vars(other))
    often = replace(other, storage=settings.storage, checkpoint_seconds=0.0)
    for stop_after in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            train(stop_after=stop_after, **vars(often))
    assert train(**vars(often)).step == 20
    (info, tensors, history), (_, expected, whole) = final(often), final(other)
    assert info == final(other)[0]
    assert history == whole
    assert_equal_bits(tensors, expected)


def test_kill_9_at_any_moment_changes_nothing(train: Train, settings: CasSettings, tmp_path: Path) -> None:
    straight = replace(settings, storage=str(tmp_path / "straight"), spec={**settings.spec, "epochs": 2})
    train(**vars(straight))
    often = replace(straight, storage=settings.storage, checkpoint_seconds=0.0, log_every=5)
    (tmp_path / "settings.json").write_text(json.dumps(asdict(often)))
    script = tmp_path / "loop.py"
    script.write_text(
        "import json, sys, torch\n"
        "from pipeline.cas.run import CasRun, CasSettings\n"
        "torch.set_num_threads(1)\n"
        "run = CasRun(CasSettings(**json.load(open(sys.argv[1]))), rank=0, world=1, device='cpu')\n"
        "run.resume()\n"
        "run.train(lambda entry: print(entry.info['step'], flush=True))\n"
    )
    for after in ("10", "25"):
        arguments = [sys.executable, str(script), str(tmp_path / "settings.json")]
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        while child.stdout.readline().strip() != after:
            assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    train(**vars(often))
    assert_equal_bits(final(often)[1], final(straight)[1])


def test_two_workers_share_batches_and_the_test(train: Train, settings: CasSettings, tmp_path: Path) -> None:
    """Two real processes train one net, and both say what a test by one process finds: each image counts once."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import json, sys, torch, torch.distributed as dist\n"
        "from pipeline.cas import run as module\n"
        "torch.set_num_threads(1)\n"
        "module.TEST_BLOCK = 64\n"
        "rank = int(sys.argv[2])\n"
        "dist.init_process_group('gloo', init_method=f'file://{sys.argv[3]}', rank=rank, world_size=2)\n"
        "run = module.CasRun(module.CasSettings(**json.load(open(sys.argv[1]))), rank=rank, world=2, device='cpu')\n"
        "run.resume()\n"
        "run.train(lambda entry: None)\n"
        "print(json.dumps(run.test()))\n"
        "dist.destroy_process_group()\n"
    )
    settings = replace(settings, spec={**settings.spec, "epochs": 3})
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings)))
    arguments = [sys.executable, str(script), str(tmp_path / "settings.json")]
    ranks = [
        subprocess.Popen([*arguments, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    said = [json.loads(rank.communicate(timeout=400)[0]) for rank in ranks]
    info, tensors, _ = final(settings)
    assert said[0] == said[1] == {key: info[key] for key in ("cas_top1", "cas_top5")}
    assert info["cas_top1"] > 0.25
    again = CasRun(settings, rank=0, world=1, device="cpu")
    again.net.load_state_dict({name: value for name, value in tensors.items() if not name.startswith("momentum/")})
    assert again.test() == said[0]


def test_the_ceiling_is_trained_on_as_many_real_images(train: Train, settings: CasSettings) -> None:
    run = train(spec={**settings.spec, "images": 100, "epochs": 1})
    assert (run.images, run.steps) == (100, 4)
    assert max(run.batches.order.of_step(step, 32).max() for step in range(4)) == 99


def test_counts_of_first() -> None:
    counts = np.array([4, 4, 2])
    for images, expected in [(None, [4, 4, 2]), (3, [3]), (4, [4]), (9, [4, 4, 1]), (50, [4, 4, 2])]:
        assert counts_of_first(counts, images).tolist() == expected


def test_a_stale_worker_cannot_commit(train: Train, settings: CasSettings) -> None:
    short = replace(settings, spec={**settings.spec, "epochs": 1})
    stale = CasRun(short, rank=0, world=1, device="cpu")
    stale.resume()
    train(**vars(short))
    with pytest.raises(OwnershipLost):
        stale.train(lambda entry: None)


def test_other_classes_are_refused(settings: CasSettings, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "tree" / label).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "tree" / label / "0.png")
    ingest(tmp_path / "tree", tmp_path / "two/shards", forms=make_forms([(16, "png")]), val_fraction=0.0, shard_size=8)
    with pytest.raises(UserError, match="have 2 classes and those to test on 10"):
        CasRun(replace(settings, train=str(tmp_path / "two")), rank=0, world=1, device="cpu")
