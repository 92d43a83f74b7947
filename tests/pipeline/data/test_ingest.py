"""A tree or an archive of images to a data set: nothing lost, the same bytes each time, and real archives."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decoding import decode_square
from pipeline.data.ingest import ingest, ingest_drawn
from pipeline.data.loading import Examples
from pipeline.data.manifest import Manifest
from pipeline.data.shards import verify
from pipeline.errors import UserError

CLASSES = ("ant", "bee", "cow")


def _encode(seed: int, kind: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _tree(folder: Path, per_class: int = 20, prefix: str = "") -> Path:
    for number, label in enumerate(CLASSES):
        for index in range(per_class):
            path = folder / prefix / label / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_encode(1000 * number + index))
    return folder


def _pack(folder: Path, archive: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, folder.name)
    return archive


def _ingest(source: Path, dest: Path, **changes: object) -> Manifest:
    settings: dict[str, object] = {"size": 8, "val_fraction": 0.2, "shard_size": 10, **changes}
    return ingest(source, dest, **settings)  # type: ignore[arg-type]


def _shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_every_image_arrives_once_with_its_class(tmp_path: Path) -> None:
    manifest = _ingest(_tree(tmp_path / "tree"), tmp_path / "data")
    assert verify(tmp_path / "data") == manifest
    assert (manifest.classes, manifest.image_size, manifest.undecodable) == (CLASSES, 8, ())
    assert (manifest.source.kind, manifest.source.name, manifest.source.lossy) == ("folder", "tree", False)
    assert {name: split.examples for name, split in manifest.splits.items()} == {"train": 48, "val": 12}
    assert [shard.examples for shard in manifest.splits["train"].shards] == [10, 10, 10, 10, 8]
    expected = {
        np.asarray(decode_square(_encode(1000 * number + index), 8)[0]).tobytes(): number
        for number in range(3)
        for index in range(20)
    }
    found: dict[bytes, int] = {}
    for split in ("train", "val"):
        examples = Examples(tmp_path / "data", split)
        images, labels = examples.read(np.arange(len(examples)))
        found |= {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
        if split == "val":
            assert np.bincount(labels).tolist() == [4, 4, 4]
        else:
            assert all(len(set(labels[start : start + 10])) == 3 for start in range(0, 40, 10))
    assert found == expected


def test_folder_and_archives_give_the_same_shards(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    _ingest(tree, tmp_path / "0")
    for number, mode in ((1, "w"), (2, "w:gz")):
        manifest = _ingest(_pack(tree, tmp_path / f"{number}.tar", mode), tmp_path / str(number))
        assert manifest.source.kind == "tar"
        assert _shards(tmp_path / str(number)) == _shards(tmp_path / "0")


def test_two_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = _tree(tmp_path / "tree")
    first = _ingest(tree, tmp_path / "one")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    for path in tree.rglob("*.png"):
        os.utime(path, (1, 1))
    assert _ingest(tree, tmp_path / "two") == first
    assert _shards(tmp_path / "one") == _shards(tmp_path / "two")


def test_split_folders_are_kept(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    _tree(tree, 5, "set/train")
    _tree(tree, 2, "set/test")
    manifest = _ingest(tree, tmp_path / "data", val_fraction=0.5)
    assert {name: split.examples for name, split in manifest.splits.items()} == {"train": 15, "val": 6}


def test_what_gives_no_example_is_named(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    jpeg = _encode(0, "JPEG", (64, 64))
    (tree / "ant/cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tree / "ant/notes.txt").write_bytes(b"not an image")
    (tree / "bee/.DS_Store").write_bytes(b"x")
    (tree / "bee/empty.png").write_bytes(b"")
    (tree / "README").write_bytes(b"x")
    (tree / "logo.png").write_bytes(_encode(5))
    from_folder = _ingest(tree, tmp_path / "a")
    assert {item.name: item.reason for item in from_folder.undecodable} == {
        "README": "not an image of a known format",
        "ant/cut.jpg": from_folder.undecodable[1].reason,
        "ant/notes.txt": "not an image of a known format",
        "bee/.DS_Store": "hidden file",
        "bee/empty.png": "not an image of a known format",
        "logo.png": "outside every class folder",
    }
    assert "truncated" in from_folder.undecodable[1].reason
    assert sum(split.examples for split in from_folder.splits.values()) == 60
    assert not from_folder.source.lossy  # the only JPEG gave nothing
    from_archive = _ingest(_pack(tree, tmp_path / "tree.tar.gz"), tmp_path / "b")
    assert [(f"tree/{item.name}", item.reason) for item in from_folder.undecodable] == [
        (item.name, item.reason) for item in from_archive.undecodable
    ]


def test_a_path_that_comes_twice_counts_once_and_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for name, seed in (("a/1.png", 1), ("b/1.png", 2), ("a/1.png", 3)):
            info = tarfile.TarInfo(name)
            data = _encode(seed)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    manifest = _ingest(tmp_path / "twice.tar", tmp_path / "data", val_fraction=0.0)
    assert [item.name for item in manifest.undecodable] == ["a/1.png"]
    assert "replaced by a later file" in manifest.undecodable[0].reason
    images, labels = Examples(tmp_path / "data", "train").read([0, 1])
    last = np.asarray(decode_square(_encode(3), 8)[0])
    assert np.array_equal(images[labels == 0][0], last)


def test_jpeg_makes_a_data_set_lossy(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    (tree / "ant/photo.jpg").write_bytes(_encode(0, "JPEG"))
    assert _ingest(tree, tmp_path / "data").source.lossy


def test_the_same_request_is_answered_at_once_and_another_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    first = _ingest(tree, tmp_path / "data")
    calls: list[int] = []
    assert _ingest(tree, tmp_path / "data", progress=lambda done, _: calls.append(done)) == first
    assert calls == []
    with pytest.raises(UserError, match="image size 8 instead of 4, shard_size 10 instead of 5"):
        _ingest(tree, tmp_path / "data", size=4, shard_size=5)
    (tree / "ant/new.png").write_bytes(_encode(77))
    with pytest.raises(UserError, match="an earlier content of 'tree'"):
        _ingest(tree, tmp_path / "data")


def test_an_interrupted_ingest_can_be_repeated(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    whole = _ingest(tree, tmp_path / "whole")

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _ingest(tree, tmp_path / "data", progress=stop)
    assert not (tmp_path / "data" / "manifest.json").exists()
    assert _ingest(tree, tmp_path / "data") == whole


@pytest.mark.parametrize("packed", [False, True])
def test_progress_reaches_the_number_of_files(tmp_path: Path, packed: bool) -> None:
    tree = _tree(tmp_path / "tree", 50)
    source = _pack(tree, tmp_path / "tree.tar") if packed else tree
    calls: list[tuple[int, int | None]] = []
    _ingest(source, tmp_path / "data", progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (150, None if packed else 150)


def test_a_damaged_archive_leaves_no_data_set(tmp_path: Path) -> None:
    archive = _pack(_tree(tmp_path / "tree"), tmp_path / "tree.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"tree\.tar\.gz is damaged"):
        _ingest(archive, tmp_path / "data")
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_sources_without_images_in_class_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no training image in a class folder"):
        _ingest(tmp_path / "empty", tmp_path / "data")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/1.png").write_bytes(_encode(1))
    with pytest.raises(UserError, match=r"one folder per class; .* '1\.png': outside every class folder"):
        _ingest(tmp_path / "flat", tmp_path / "data")


def test_a_data_set_inside_its_source_is_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    for dest in (tree, tree / "data"):
        with pytest.raises(UserError, match="inside its own source"):
            _ingest(tree, dest)
    assert not (tree / "data").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "image size must be 1 to 4096 px, not 0"),
        ({"size": 5000}, "image size must be 1 to 4096 px, not 5000"),
        ({"shard_size": 0}, "at least 1 example, not 0"),
        ({"val_fraction": 1.0}, r"held-out fraction must be at least 0 and below 1, not 1\.0"),
        ({"val_fraction": float("nan")}, "held-out fraction"),
    ],
)
def test_impossible_requests_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ingest(_tree(tmp_path / "tree", 1), tmp_path / "data", **change)


def test_drawn_images_go_through_the_same_writer(tmp_path: Path) -> None:
    from pipeline.data.drawn import CLASSES as DRAWN
    from pipeline.data.drawn import draw

    calls: list[tuple[int, int | None]] = []
    manifest = ingest_drawn(
        tmp_path, seed=3, size=16, train=30, val=7, shard_size=20, progress=lambda *call: calls.append(call)
    )
    assert verify(tmp_path) == manifest
    assert manifest.classes == tuple(sorted(DRAWN))
    assert (manifest.source.kind, manifest.source.lossy) == ("drawn", False)
    assert calls[-1] == (37, 37)
    for split, start, count in (("train", 0, 30), ("val", 30, 7)):
        examples = Examples(tmp_path, split)  # type: ignore[arg-type]
        images, labels = examples.read(np.arange(count))
        assert len(examples) == count
        for index in range(count):
            pixels, label = draw(3, start + index, 16)
            assert np.array_equal(images[index], pixels)
            assert manifest.classes[labels[index]] == DRAWN[label]


def _drawn(dest: Path, *, seed: int = 3, size: int = 8, train: int = 5) -> Manifest:
    return ingest_drawn(dest, seed=seed, size=size, train=train, val=0, shard_size=20)


def test_drawn_requests_are_compared_and_checked(tmp_path: Path) -> None:
    first = _drawn(tmp_path / "data")
    assert _drawn(tmp_path / "data") == first
    assert _drawn(tmp_path / "again") == first
    with pytest.raises(UserError, match="seed 3 instead of 4"):
        _drawn(tmp_path / "data", seed=4)
    with pytest.raises(UserError, match="at least 1 image to train on"):
        _drawn(tmp_path / "none", train=0)
    with pytest.raises(UserError, match="1 to 64"):
        _drawn(tmp_path / "none", size=128)
    assert not (tmp_path / "none").exists()


@pytest.mark.real_data
def test_cifar10_arrives_whole(tmp_path: Path, real_data: Path) -> None:
    manifest = ingest(real_data / "cifar10.tar.gz", tmp_path, size=32, val_fraction=0.1, shard_size=10_000)
    assert {name: split.examples for name, split in manifest.splits.items()} == {
        "train": 50_000,
        "val": 10_000,
    }
    assert len(manifest.classes) == 10
    assert manifest.undecodable == ()
    assert manifest.source.lossy
    train, val = Examples(tmp_path, "train"), Examples(tmp_path, "val")
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(val.labels).tolist() == [1000] * 10
    images, _ = train.read(np.arange(2000))
    mean = images.reshape(-1, 3).mean(0) / 255
    assert np.abs(mean - (0.4914, 0.4822, 0.4465)).max() < 0.02  # the well-known means of its training images


@pytest.mark.real_data
def test_imagenet_photographs_of_every_size_and_mode_arrive(tmp_path: Path, real_data: Path) -> None:
    manifest = ingest(real_data / "imagenet-sample.tar.gz", tmp_path, size=64, val_fraction=0.1, shard_size=100)
    assert sum(split.examples for split in manifest.splits.values()) == 400
    assert len(manifest.classes) == 400
    assert manifest.undecodable == ()
    examples = Examples(tmp_path, "train")
    images, _ = examples.read(np.arange(len(examples)))
    grey = (images == images[..., :1]).all(axis=(1, 2, 3)).sum()
    assert 0 < grey < 40
    mean = images.reshape(-1, 3).mean(0) / 255
    assert np.abs(mean - (0.485, 0.456, 0.406)).max() < 0.05  # ImageNet's usual means
