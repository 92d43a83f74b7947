"""Images of any source to a data set: nothing lost, nothing invented, the same bytes each time, and real archives."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.data.decoding import decode_square
from pipeline.data.encoding import decode_image
from pipeline.data.indices import parse_index
from pipeline.data.ingest import ingest, ingest_drawn, make_forms
from pipeline.data.manifest import MANIFEST_NAME, Form, Manifest, SplitName
from pipeline.data.publishing import MARKER
from pipeline.data.verifying import verify
from pipeline.errors import UserError

CLASSES = ("ant", "bee", "cow")
FORM = Form(size=8, encoding="png")


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


def _ingest(source: Path, dest: Path, **changes: Any) -> Manifest:
    settings: dict[str, Any] = {"forms": (FORM,), "val_fraction": 0.2, "shard_size": 10, **changes}
    return ingest(source, dest, **settings)


def _read(folder: Path, manifest: Manifest, split: SplitName, form: Form) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """All images of a split, uint8 (N, S, S, 3), and their labels."""
    images, labels = [], []
    for shard in manifest.shards(split, form):
        data = (folder / shard.name).read_bytes()
        for begin, length, label, _ in parse_index((folder / shard.index_name).read_bytes(), "index").rows.tolist():
            images.append(decode_image(data[begin : begin + length], form, form.size))
            labels.append(label)
    return np.array(images), labels


def _files(folder: Path) -> dict[str, bytes]:
    """Everything but the manifest, which names the source."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _counts(manifest: Manifest) -> dict[str, int]:
    return {name: split.examples for name, split in manifest.splits.items()}


def test_every_image_arrives_once_with_its_class(tmp_path: Path) -> None:
    data = tmp_path / "data"
    manifest = _ingest(_tree(tmp_path / "tree"), data)
    assert verify(data).faults == []
    assert (manifest.classes, manifest.image_size, manifest.undecodable) == (CLASSES, 8, ())
    assert (manifest.source.kind, manifest.source.name, manifest.source.lossy) == ("folder", "tree", False)
    assert _counts(manifest) == {"train": 48, "val": 12}
    assert manifest.splits["train"].counts == (10, 10, 10, 10, 8)
    expected = {
        np.asarray(decode_square(_encode(1000 * number + index), 8)[0]).tobytes(): number
        for number in range(3)
        for index in range(20)
    }
    found: dict[bytes, int] = {}
    for split in ("train", "val"):
        images, labels = _read(data, manifest, split, FORM)
        found |= {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
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
        assert _files(tmp_path / str(number)) == _files(tmp_path / "0")


def test_two_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = _tree(tmp_path / "tree")
    first = _ingest(tree, tmp_path / "one")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    for path in tree.rglob("*.png"):
        os.utime(path, (1, 1))
    assert _ingest(tree, tmp_path / "two") == first
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_a_data_set_can_be_the_source_of_another(tmp_path: Path) -> None:
    first = _ingest(_tree(tmp_path / "tree"), tmp_path / "one")
    again = _ingest(tmp_path / "one", tmp_path / "two")
    assert (again.source.kind, again.classes, _counts(again)) == ("shards", CLASSES, _counts(first))
    for split in ("train", "val"):
        (one, of_one), (two, of_two) = (_read(tmp_path / n, first, split, FORM) for n in ("one", "two"))
        assert sorted(zip(map(bytes, one), of_one, strict=True)) == sorted(zip(map(bytes, two), of_two, strict=True))


def test_split_folders_are_kept(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    _tree(tree, 5, "set/train")
    _tree(tree, 2, "set/test")
    assert _counts(_ingest(tree, tmp_path / "data", val_fraction=0.5)) == {"train": 15, "val": 6}


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _imagenet(folder: Path) -> tuple[Path, Path, Path]:
    """The form in which ImageNet comes: a tar of a tar per class, a flat tar to validate with, and its labels."""
    inner = {
        f"{label}.tar": _tar(
            folder / "inner.tar", {f"{label}_{n}.JPEG": _encode(100 * number + n, "JPEG") for n in range(6)}
        ).read_bytes()
        for number, label in enumerate(CLASSES)
    }
    train = _tar(folder / "train.tar", inner)
    val = _tar(folder / "val.tar", {f"val_{n}.JPEG": _encode(900 + n, "JPEG") for n in range(4)})
    labels = folder / "labels.txt"
    labels.write_text("".join(f"val_{n}.JPEG {label}\n" for n, label in enumerate(("cow", "ant", "bee", "cow"))))
    return train, val, labels


def test_a_tar_of_tars_with_a_flat_validation_tar_and_its_labels(tmp_path: Path) -> None:
    train, val, labels = _imagenet(tmp_path)
    manifest = _ingest(train, tmp_path / "data", val=val, labels=labels)
    assert (manifest.classes, manifest.source.lossy) == (CLASSES, True)
    assert _counts(manifest) == {"train": 18, "val": 4}
    images, found = _read(tmp_path / "data", manifest, "val", FORM)
    of = {np.asarray(decode_square(_encode(900 + n, "JPEG"), 8)[0]).tobytes(): n for n in range(4)}
    assert {of[image.tobytes()]: label for image, label in zip(images, found, strict=True)} == {0: 2, 1: 0, 2: 1, 3: 2}
    assert np.bincount(_read(tmp_path / "data", manifest, "train", FORM)[1]).tolist() == [6, 6, 6]


def test_a_validation_source_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    train, val, labels = _imagenet(tmp_path)
    labels.write_text(labels.read_text().replace("bee", "emu"))
    with pytest.raises(UserError, match=r"val\.tar has the class 'emu', which .*train\.tar has no training image of"):
        _ingest(train, tmp_path / "data", val=val, labels=labels)
    with pytest.raises(UserError, match=r"val\.tar holds no image with a class; give it class folders or name"):
        _ingest(train, tmp_path / "data", val=val)
    _tree(tmp_path / "tree", 2, "train")
    _tree(tmp_path / "tree", 2, "val")
    with pytest.raises(UserError, match=r"tree has a held-out part of its own; leave --val .*val\.tar away"):
        _ingest(tmp_path / "tree", tmp_path / "other", val=val, labels=_imagenet(tmp_path)[2])


def test_another_validation_source_or_other_labels_are_another_request(tmp_path: Path) -> None:
    train, val, labels = _imagenet(tmp_path)
    _ingest(train, tmp_path / "data", val=val, labels=labels)
    with pytest.raises(UserError, match=r"data set with val 'val\.tar' instead of None; name"):
        _ingest(train, tmp_path / "data")
    labels.write_text(labels.read_text().replace("bee", "ant"))
    with pytest.raises(UserError, match=r"data set with an earlier content of 'val\.tar'; name"):
        _ingest(train, tmp_path / "data", val=val, labels=labels)


def test_what_was_never_an_image_is_named(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    (tree / "bee/.DS_Store").write_bytes(b"x")
    (tree / "logo.png").write_bytes(_encode(5))
    from_folder = _ingest(tree, tmp_path / "a")
    found = {item.name: item.reason for item in from_folder.undecodable}
    assert found == {"bee/.DS_Store": "hidden file", "logo.png": "outside every class folder"}
    from_archive = _ingest(_pack(tree, tmp_path / "tree.tar.gz"), tmp_path / "b")
    assert {item.name: item.reason for item in from_archive.undecodable} == {f"tree/{n}": r for n, r in found.items()}


def test_what_cannot_be_decoded_stops_the_ingest_or_is_counted(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    jpeg = _encode(0, "JPEG", (64, 64))
    (tree / "ant/cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tree / "bee/empty.png").write_bytes(b"")
    (tree / "cow/notes.txt").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"cannot be decoded, '(ant/cut.jpg|bee/empty.png|cow/notes.txt)': .* say with"):
        _ingest(tree, tmp_path / "data")
    assert not (tmp_path / "data" / MANIFEST_NAME).exists()
    with pytest.raises(UserError, match="more than the 2 files that --max-undecodable allows"):
        _ingest(tree, tmp_path / "data", max_undecodable=2)
    manifest = _ingest(tree, tmp_path / "data", max_undecodable=3)
    reasons = {item.name: item.reason for item in manifest.undecodable}
    assert list(reasons) == ["ant/cut.jpg", "bee/empty.png", "cow/notes.txt"]
    assert "truncated" in reasons["ant/cut.jpg"]
    assert reasons["bee/empty.png"] == reasons["cow/notes.txt"] == "not an image of a known format"
    assert sum(_counts(manifest).values()) == 60
    assert not manifest.source.lossy  # the only JPEG gave nothing
    assert verify(tmp_path / "data").faults == []


def test_a_path_that_comes_twice_counts_once_and_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for name, seed in (("a/1.png", 1), ("b/1.png", 2), ("a/1.png", 3)):
            info = tarfile.TarInfo(name)
            info.size = len(_encode(seed))
            archive.addfile(info, io.BytesIO(_encode(seed)))
    manifest = _ingest(tmp_path / "twice.tar", tmp_path / "data", val_fraction=0.0)
    assert [item.name for item in manifest.undecodable] == ["a/1.png"]
    assert "replaced by a later file" in manifest.undecodable[0].reason
    images, labels = _read(tmp_path / "data", manifest, "train", FORM)
    assert np.array_equal(images[labels.index(0)], np.asarray(decode_square(_encode(3), 8)[0]))


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
    with pytest.raises(UserError, match="forms 8-png instead of 4-raw, shard_size 10 instead of 5"):
        _ingest(tree, tmp_path / "data", forms=make_forms([(4, "raw")]), shard_size=5)
    (tree / "ant/new.png").write_bytes(_encode(77))
    with pytest.raises(UserError, match="an earlier content of 'tree'"):
        _ingest(tree, tmp_path / "data")


@pytest.mark.parametrize("packed", [False, True])
def test_progress_goes_from_nothing_to_the_number_of_files(tmp_path: Path, packed: bool) -> None:
    tree = _tree(tmp_path / "tree", 50)
    source = _pack(tree, tmp_path / "tree.tar.gz") if packed else tree
    calls, listed = list[tuple[int, int]](), list[tuple[int, int]]()
    _ingest(source, tmp_path / "data", progress=lambda *call: calls.append(call), listed=lambda *c: listed.append(c))
    assert calls == [(done, 150) for done in range(0, 151, 10)]
    assert bool(listed) == packed
    assert all(0 <= done <= total for done, total in listed)


def test_a_damaged_archive_leaves_no_data_set(tmp_path: Path) -> None:
    archive = _pack(_tree(tmp_path / "tree"), tmp_path / "tree.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"tree\.tar\.gz is damaged"):
        _ingest(archive, tmp_path / "data")
    assert not (tmp_path / "data" / MANIFEST_NAME).exists()


def test_sources_without_images_in_class_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no training image in a class folder"):
        _ingest(tmp_path / "empty", tmp_path / "data")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/1.png").write_bytes(_encode(1))
    with pytest.raises(UserError, match=r"one folder per class; .* '1\.png': outside every class folder"):
        _ingest(tmp_path / "flat", tmp_path / "data2")


def test_a_data_set_inside_its_source_is_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    for dest in (tree, tree / "data"):
        with pytest.raises(UserError, match="inside its own source"):
            _ingest(tree, dest)
    with pytest.raises(UserError, match="inside its own source"):
        _ingest(_tree(tmp_path / "other"), tree / "data", val=tree)
    assert not (tree / "data").exists()
    for dest in ("s3://bucket/photos", "s3://bucket/photos/data"):
        with pytest.raises(UserError, match="inside its own source"):
            ingest("s3://bucket/photos/", dest, forms=(FORM,), val_fraction=0.1, shard_size=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_size": 0}, "at least 1 example, not 0"),
        ({"max_undecodable": -1}, "at least 0, not -1"),
        ({"val_fraction": 1.0}, r"held-out fraction must be at least 0 and below 1, not 1\.0"),
        ({"val_fraction": float("nan")}, "held-out fraction"),
    ],
)
def test_impossible_requests_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ingest(_tree(tmp_path / "tree", 1), tmp_path / "data", **change)
    assert not (tmp_path / "data").exists()


def test_forms_are_sorted_by_size_and_refused_in_a_sentence() -> None:
    forms = make_forms([(8, "raw"), (32, "jpeg"), (32, "png")], quality=70)
    assert [form.name for form in forms] == ["32-jpeg", "32-png", "8-raw"]
    assert [form.quality for form in forms] == [70, None, None]
    for sizes, quality, message in [
        ([], 90, "at least one size"),
        ([(0, "png")], 90, "image size must be 1 to 4096 px, not 0"),
        ([(5000, "png")], 90, "image size must be 1 to 4096 px, not 5000"),
        ([(8, "raw"), (8, "raw")], 90, "8-raw is asked for twice"),
        ([(256, "jpeg"), (96, "raw")], 90, "96 px does not divide the largest size, 256 px"),
        ([(8, "jpeg")], 0, "quality of jpeg must be 1 to 100, not 0"),
    ]:
        with pytest.raises(UserError, match=message):
            make_forms(sizes, quality)  # type: ignore[arg-type]


def test_drawn_images_go_through_the_same_writer(tmp_path: Path) -> None:
    from pipeline.data.drawn import CLASSES as DRAWN
    from pipeline.data.drawn import draw

    forms, calls = make_forms([(16, "png"), (8, "raw")]), list[tuple[int, int]]()
    progress = {"progress": lambda *call: calls.append(call)}
    manifest = ingest_drawn(tmp_path, seed=3, forms=forms, train=30, val=7, shard_size=20, **progress)
    assert verify(tmp_path).faults == []
    assert manifest.classes == tuple(sorted(DRAWN))
    assert (manifest.source.kind, manifest.source.lossy) == ("drawn", False)
    assert calls == [(0, 37), (20, 37), (30, 37), (37, 37)]
    for split, start, count in (("train", 0, 30), ("val", 30, 7)):
        images, labels = _read(tmp_path, manifest, split, forms[0])  # type: ignore[arg-type]
        assert len(images) == count
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            pixels, drawn = draw(3, start + index, 16)
            assert np.array_equal(image, pixels)
            assert manifest.classes[label] == DRAWN[drawn]


def _drawn(dest: Path, *, seed: int = 3, size: int = 8, train: int = 5) -> Manifest:
    return ingest_drawn(dest, seed=seed, forms=make_forms([(size, "png")]), train=train, val=0, shard_size=20)


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
def test_imagenet_photographs_of_every_size_and_mode_arrive(tmp_path: Path, real_data: Path) -> None:
    forms = make_forms([(64, "raw"), (256, "jpeg")])
    manifest = _ingest(real_data / "imagenet-sample.tar.gz", tmp_path, forms=forms, val_fraction=0.1, shard_size=100)
    assert sum(_counts(manifest).values()) == 400
    assert (len(manifest.classes), manifest.undecodable) == (400, ())
    assert verify(tmp_path).faults == []
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST_NAME, "256-jpeg", "64-raw"}
    raw, labels = _read(tmp_path, manifest, "train", forms[1])
    jpeg, same = _read(tmp_path, manifest, "train", forms[0])
    assert labels == same
    grey = (raw == raw[..., :1]).all(axis=(1, 2, 3)).sum()
    assert 0 < grey < 40
    mean = raw.reshape(-1, 3).mean(0) / 255
    assert np.abs(mean - (0.485, 0.456, 0.406)).max() < 0.05  # ImageNet's usual means
    boxes = np.stack([np.asarray(Image.fromarray(image).reduce(4)) for image in jpeg])
    assert np.abs(boxes.astype(int) - raw).mean() < 1.0  # but for what JPEG lost


@pytest.mark.slow
@pytest.mark.real_data
def test_cifar10_arrives_whole(tmp_path: Path, real_data: Path) -> None:
    form = Form(size=32, encoding="png")
    manifest = _ingest(real_data / "cifar10.tar.gz", tmp_path, forms=(form,), val_fraction=0.1, shard_size=10_000)
    assert _counts(manifest) == {"train": 50_000, "val": 10_000}
    assert (len(manifest.classes), manifest.undecodable, manifest.source.lossy) == (10, (), True)
    assert not (tmp_path / MARKER).exists()
    images, labels = _read(tmp_path, manifest, "train", form)
    assert np.bincount(labels).tolist() == [5000] * 10
    mean = images[:2000].reshape(-1, 3).mean(0) / 255
    assert np.abs(mean - (0.4914, 0.4822, 0.4465)).max() < 0.02  # the well-known means of its training images
