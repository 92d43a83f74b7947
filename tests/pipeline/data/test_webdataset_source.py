"""Shards of others, and our own, listed with labels and splits; each that does not fit refused by shard and key."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from pipeline.data import listings
from pipeline.data.manifest import Form, Manifest, ShardColumns, Source, Split, save_manifest
from pipeline.data.sources import Listing, list_source, open_reader
from pipeline.errors import UserError
from pipeline.objects import open_objects


def _shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _pairs(labels: Mapping[str, int], suffix: str = "jpg") -> list[tuple[str, bytes]]:
    return [
        member
        for key, label in labels.items()
        for member in ((f"{key}.{suffix}", key.encode()), (f"{key}.cls", b"%d" % label))
    ]


def _said(listing: Listing) -> list[tuple[str, str | None, str | None]]:
    return [(file.name, file.split, file.label) for file in listing.files]


def test_members_in_any_order_with_others_counted(tmp_path: Path) -> None:
    first = [("b.cls", b"1\n"), ("b.json", b"{}"), ("a.JPEG", b"A"), ("b.x.png", b"mask"), ("a.txt", b"")]
    rest = [("b.webp", b"B"), ("a.cls", b" 0"), ("d/a.npy", b"N"), ("d/a.cls", b"1")]
    _shard(tmp_path / "0000.tar", first + rest)
    _shard(tmp_path / "0001.tar", [("a.ppm", b"2"), ("a.cls", b"0"), ("a.json", b"")])
    (tmp_path / "readme.md").write_text("x")
    (tmp_path / ".part.tar").write_bytes(b"")
    listing = list_source(tmp_path)
    assert _said(listing) == [
        ("0000/a.JPEG", None, "0"),
        ("0000/b.webp", None, "1"),
        ("0000/d/a.npy", None, "1"),
        ("0001/a.ppm", None, "0"),
    ]
    assert dict(listing.left_out) == {
        "*.json": "2 of them, neither image nor label",
        "*.txt": "1 of them, neither image nor label",
        "*.x.png": "1 of them, neither image nor label",
        "*.md": "1 of them beside the shards, not read",
        ".part.tar": "hidden file",
    }
    reader = open_reader(listing.address)
    assert [reader.read(file) for file in listing.files] == [b"A", b"B", b"N", b"2"]


@pytest.mark.parametrize(
    ("shards", "splits"),
    [
        (["train-0", "val-0"], ["train", "val"]),
        (["train/00", "validation/00"], ["train", "val"]),
        (["imagenet1k-train-0", "imagenet1k-test-0"], ["train", "val"]),
        (["train_0", "test_0", "valid_0"], ["train", None, "val"]),  # None here: left out
        (["a", "trainers/b"], ["", ""]),
        (["Train0", "train-val-0"], ["train", ""]),
    ],
)
def test_splits_are_said_by_file_or_folder(tmp_path: Path, shards: list[str], splits: list[str | None]) -> None:
    for name in shards:
        _shard(tmp_path / f"{name}.tar", _pairs({"k": 0}))
    listing = list_source(tmp_path)
    found = {file.name.removesuffix("/k.jpg"): file.split or "" for file in listing.files}
    assert found == {name: split for name, split in zip(shards, splits, strict=True) if split is not None}
    assert [name for name, _ in listing.left_out] == [
        f"{name}.tar" for name, split in zip(shards, splits, strict=True) if split is None
    ]


def test_labels_without_names_are_padded_to_sort_as_numbers(tmp_path: Path) -> None:
    _shard(tmp_path / "0.tar", _pairs({"a": 7, "b": 999}))
    _shard(tmp_path / "1.tar", _pairs({"a": 12}))
    assert [file.label for file in list_source(tmp_path).files] == ["007", "999", "012"]


@pytest.mark.parametrize(("name", "text"), [("classes.txt", "cat\ngolden retriever\n"), ("manifest.json", "")])
def test_class_names_beside_the_shards(tmp_path: Path, name: str, text: str) -> None:
    _shard(tmp_path / "train/0.tar", _pairs({"a": 1, "b": 0}))
    (tmp_path / name).write_text(text or json.dumps({"format": 1, "classes": ["cat", "golden retriever"]}))
    assert [file.label for file in list_source(tmp_path).files] == ["golden retriever", "cat"]
    _shard(tmp_path / "train/1.tar", _pairs({"c": 2}))
    with pytest.raises(UserError, match=r"train/1/c\.jpg has the label 2, and there are only 2 class names"):
        list_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("classes.txt", b"a\nb\na\n", "names the class 'a' twice"),
        ("classes.txt", b"a\n\nb", "no list of names"),
        ("classes.txt", b"\xff", "is not UTF-8"),
        ("manifest.json", b"{", "is not JSON"),
        ("manifest.json", b'{"classes": [1]}', "no list of names"),
        ("manifest.json", b'{"format": 2}', "is not a manifest of this version"),
    ],
)
def test_class_names_that_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    _shard(tmp_path / "0.tar", _pairs({"a": 0}))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        list_source(tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("k.jpg", b"")], r"s-1\.tar holds no k\.cls"),
        ([("k.cls", b"1")], r"s-1\.tar holds k\.cls without an image"),
        ([("k.jpg", b""), ("K.cls", b"1")], r"s-1\.tar holds K\.cls without"),
        ([("k.jpg", b""), ("k.png", b""), ("k.cls", b"1")], r"s-1\.tar holds two images of the key k;"),
        ([("k.jpg", b""), ("k.cls", b"cat")], r"s-1\.tar: k\.cls holds b'cat', which is not a label"),
        ([("k.jpg", b""), ("k.cls", b"-1")], r"s-1\.tar: k\.cls holds b'-1'"),
        ([("k.jpg", b""), ("k.cls", b"")], r"s-1\.tar: k\.cls holds b''"),
        ([("k.jpg", b""), ("k.cls", b"1" * 40)], r"s-1\.tar: k\.cls holds b'1111"),
    ],
)
def test_shards_that_are_refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    _shard(tmp_path / "s-0.tar", _pairs({"a": 0}))
    _shard(tmp_path / "s-1.tar", [*_pairs({"b": 0}), *members])
    with pytest.raises(UserError, match=message):
        list_source(tmp_path)


def test_a_key_twice_in_a_shard_is_its_last_member(tmp_path: Path) -> None:
    _shard(tmp_path / "0.tar", [*_pairs({"a": 1}), ("a.jpg", b"later"), ("a.cls", b"2")])
    listing = list_source(tmp_path)
    assert [(file.length, file.label) for file in listing.files] == [(5, "2")]
    assert listing.left_out == [("0/a.cls", listings.REPLACED), ("0/a.jpg", listings.REPLACED)]


def test_an_image_left_out_takes_its_label_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "LARGEST_FILE", 99)
    _shard(tmp_path / "0.tar", [("a.jpg", bytes(100)), ("a.cls", b"0"), *_pairs({"b": 0})])
    listing = list_source(tmp_path)
    assert [file.name for file in listing.files] == ["0/b.jpg"]
    assert listing.left_out == [("0/a.jpg", "larger than 0 MiB")]


@pytest.mark.parametrize("kept", [1024, 1536, 2048, 2500])
def test_a_cut_shard_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    path = _shard(tmp_path / "train-7.tar", _pairs({"a": 0, "b": 1}))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"train-7\.tar is cut short"):
        list_source(tmp_path)


def test_shards_are_listed_wherever_the_caller_likes(tmp_path: Path) -> None:
    for number in range(4):
        _shard(tmp_path / f"train-{number}.tar", _pairs({f"{key}": key % 3 for key in range(50)}))
    with ProcessPoolExecutor(2) as pool:
        assert list_source(tmp_path, mapper=pool.map) == list_source(tmp_path)


def test_what_is_a_folder_of_shards_and_what_is_not(tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    _shard(classes / "a/1.tar", [])
    (classes / "a/1.png").write_bytes(b"")
    assert [file.name for file in list_source(classes).files] == ["a/1.png"]
    deep = tmp_path / "deep"
    _shard(deep / "a/b/1.tar", _pairs({"k": 0}))
    assert list_source(deep).left_out == [("a/b/1.tar", "an archive among other files, not looked into")]


def _data_set(folder: Path) -> Path:
    """A data set of ours: two forms, three shards each, and one that an interrupted ingest left."""
    forms = (Form(size=64, encoding="png"), Form(size=8, encoding="raw"))
    splits = {}
    for split, numbers in (("train", (0, 1)), ("val", (0,))):
        columns = {}
        for form, suffix in zip(forms, ("png", "npy"), strict=True):
            paths = [folder / form.name / f"{split}-{number:05d}.tar" for number in (*numbers, 7)]
            sizes = [_shard(path, _pairs({f"{n}": n for n in range(2)}, suffix)).stat().st_size for path in paths]
            count = len(numbers)
            hashes = ("0" * 64,) * count
            columns[form.name] = ShardColumns(bytes=tuple(sizes[:count]), sha256=hashes, index_sha256=hashes)
            paths[0].with_suffix(".index").write_bytes(b"index")
        splits[split] = Split(counts=(2,) * len(numbers), shards=columns)
    source = Source(kind="drawn", name="drawn", lossy=False, fingerprint="0" * 64)
    manifest = Manifest(classes=("cat", "dog"), resize="none", forms=forms, source=source, request={}, splits=splits)
    save_manifest(open_objects(folder), manifest.sealed())
    return folder


def test_of_a_data_set_of_ours_the_largest_form_is_read(tmp_path: Path) -> None:
    listing = list_source(_data_set(tmp_path))
    assert _said(listing) == [
        (f"64-png/{shard}/{key}.png", shard.partition("-")[0], label)
        for shard in ("train-00000", "train-00001", "val-00000")
        for key, label in (("0", "cat"), ("1", "dog"))
    ]
    reasons = dict(listing.left_out)
    assert reasons["*.index"] == "4 of them beside the shards, not read"
    others = "not a shard of the largest form in the manifest"
    assert {name for name, reason in reasons.items() if reason == others} == {
        *(f"8-raw/{name}.tar" for name in ("train-00000", "train-00001", "train-00007", "val-00000", "val-00007")),
        *("64-png/train-00007.tar", "64-png/val-00007.tar"),
    }


def test_a_shard_that_our_manifest_lists_must_be_there(tmp_path: Path) -> None:
    path = _data_set(tmp_path) / "64-png/train-00001.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(
        UserError, match=r"64-png/train-00001\.tar of .* has 10752 bytes, where its manifest lists 10240"
    ):
        list_source(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"64-png/train-00001\.tar of .* is missing"):
        list_source(tmp_path)
