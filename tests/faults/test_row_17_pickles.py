"""Row 17: what a pickle would execute is executed nowhere that a file comes in from outside."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pipeline.data.ingest import ingest, make_forms
from pipeline.foreign.images import open_images
from pipeline.foreign.npz_images import load_arrays
from pipeline.scoring import weights
from stages.checkpoints import load_state, load_trained, rebuilt_average

pytestmark = pytest.mark.faults

SETTINGS: dict[str, Any] = {"forms": make_forms([(8, "raw")]), "val_fraction": 0.0, "shard_size": 16}


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def object_array(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def torch_file(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": bomb}, buffer)
    return buffer.getvalue()


def shard(path: Path, bomb: Bomb, suffix: str) -> Path:
    """A shard of two images, one with a pickle beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = torch_file(bomb) if suffix == "pth" else pickle.dumps(bomb)
    members = {"a.png": png(), "a.cls": b"0", "b.png": png(), "b.cls": b"1", f"a.{suffix}": content}
    with tarfile.open(path, "w") as archive:
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def npz(path: Path, bomb: Bomb) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", object_array(bomb))
    return path


def attempts(tiny: Any, folder: Path, bomb: Bomb) -> dict[str, Callable[[], object]]:
    """Ways of a pickle into the process, by what is opened."""
    run = tiny.train(tiny.settings(folder / "store", steps=1))
    found = tiny.log(folder / "store").latest_whole()
    assert found is not None
    ways: dict[str, Callable[[], object]] = {}
    for name in ("net", "optimizer", "ema"):
        copy = shutil.copytree(found[1], folder / f"checkpoint-{name}")
        (copy / f"{name}.safetensors").write_bytes(torch_file(bomb))
        ways[f"checkpoint {name}"] = lambda copy=copy: load_state(copy, run.state)  # type: ignore[misc]
    trained = folder / "checkpoint-ema"
    ways["trained weights"] = lambda: load_trained(trained)
    (trained / "averages").mkdir()
    (trained / "averages/00000001.safetensors").write_bytes(pickle.dumps(bomb))
    ways["stored averages"] = lambda: rebuilt_average(trained, 0.1)
    for suffix in ("pyd", "pkl", "pickle", "pth"):
        shard(folder / f"set-{suffix}/train-0.tar", bomb, suffix)
        ways[f"shard with .{suffix}"] = lambda suffix=suffix: ingest(  # type: ignore[misc]
            folder / f"set-{suffix}", folder / f"out-{suffix}", **SETTINGS
        )
    for kind in ("a", "b"):
        (folder / "tree" / kind).mkdir(parents=True)
        (folder / "tree" / kind / "good.png").write_bytes(png())
    (folder / "tree/a/bad.npy").write_bytes(object_array(bomb))
    ways["array of objects among images"] = lambda: ingest(
        folder / "tree", folder / "out-tree", max_undecodable=1, **SETTINGS
    )
    ways["npz of images"] = lambda: open_images(str(npz(folder / "x.npz", bomb)), scratch=folder / "scratch")
    ways["npz of statistics"] = lambda: load_arrays(npz(folder / "y.npz", bomb), ["arr_0"])
    (folder / "scorer.pt").write_bytes(torch_file(bomb))
    known = next(value for value in vars(weights).values() if isinstance(value, weights.KnownFile))
    ways["weights of a scorer"] = lambda: weights.read_state(folder / "scorer.pt", {"weight": [1]}, known)
    return ways


def test_no_pickle_is_executed(tiny: Any, tmp_path: Path, record_figure: Any) -> None:
    bomb, refused = Bomb(tmp_path / "executed"), 0
    ways = attempts(tiny, tmp_path, bomb)
    for name, way in ways.items():
        try:
            way()
        except Exception:  # of whatever kind: here it counts only that nothing ran
            refused += 1
        assert not bomb.mark.exists(), name
    record_figure(
        17,
        "pickles in checkpoints, shards, arrays and weights",
        f"executions 0 of {len(ways)}; {refused} refused, the others left out by name",
    )


def test_the_same_files_execute_elsewhere(tmp_path: Path, record_figure: Any) -> None:
    """The twin: what these files do to who reads them with pickles allowed."""
    bomb, executed = Bomb(tmp_path / "executed"), 0
    (tmp_path / "w.pt").write_bytes(torch_file(bomb))
    ways: list[Callable[[], object]] = [
        lambda: torch.load(tmp_path / "w.pt", weights_only=False),
        lambda: np.load(npz(tmp_path / "x.npz", bomb), allow_pickle=True)["arr_0"],
        lambda: np.load(io.BytesIO(object_array(bomb)), allow_pickle=True),
    ]
    ways += [
        lambda suffix=suffix: list(  # type: ignore[misc]
            webdataset.WebDataset(str(shard(tmp_path / f"{suffix}.tar", bomb, suffix)), shardshuffle=False).decode(
                "rgb8"
            )
        )
        for suffix in ("pyd", "pkl", "pickle")
    ]
    for way in ways:
        way()
        executed += bomb.mark.exists()
        if bomb.mark.exists():
            bomb.mark.rmdir()
    assert executed >= 5
    record_figure(
        17, "the same with weights_only=False, allow_pickle=True and stock webdataset",
        f"executions {executed} of {len(ways)}", protected=False,
    )  # fmt: skip
