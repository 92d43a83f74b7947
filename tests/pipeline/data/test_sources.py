"""Sources of every kind listed alike, each file's bytes found where the listing says, and each named by its content."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import listings
from pipeline.data.sources import Listing, identify, list_source, open_reader
from pipeline.errors import UserError

FILES = {
    "top/a/1.png": b"one",
    "top/a/2.png": b"two" * 1000,
    "top/b/.hidden": b"x",
    "top/b/3.png": b"",
    "top/n": b"n",
}


def _tree(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _bytes(listing: Listing) -> dict[str, bytes]:
    reader = open_reader(listing.address)
    return {file.name: reader.read(file) for file in listing.files}


def _tar_of_tars(classes: Mapping[str, Mapping[str, bytes]]) -> bytes:
    return _tar({f"{label}.tar": _tar(files) for label, files in classes.items()})


@pytest.mark.parametrize("make", [lambda data: data, gzip.compress])
def test_folder_and_archive_give_the_same_files(tmp_path: Path, make: Callable[[bytes], bytes]) -> None:
    folder = _tree(tmp_path / "tree")
    archive = _write(tmp_path / "archive", make(_tar({f"./{name}": data for name, data in FILES.items()})))
    for listing in (list_source(folder), list_source(archive, spool=tmp_path / "spool")):
        assert _bytes(listing) == {name: data for name, data in FILES.items() if "hidden" not in name}
        assert listing.files == sorted(listing.files)
        assert listing.left_out == [("top/b/.hidden", "hidden file")]
        assert {(file.split, file.label) for file in listing.files} == {(None, None)}


def test_links_pipes_and_odd_names_of_a_folder(tmp_path: Path) -> None:
    folder = _tree(tmp_path / "tree", {"a/1.png": b"1", "a/.git/x/2.png": b"2", "a/größe.png": b"3", "b.tar": b"4"})
    Path(folder, os.fsdecode(b"a/\xff.png")).write_bytes(b"odd")
    (folder / "a/2.png").symlink_to(_write(tmp_path / "elsewhere.png", b"5"))
    (folder / "a/broken.png").symlink_to("nowhere")
    (folder / "a/loop").symlink_to(folder)
    os.mkfifo(folder / "a/pipe")
    listing = list_source(folder)
    assert _bytes(listing) == {"a/1.png": b"1", "a/2.png": b"5", "a/größe.png": b"3", "a/\\udcff.png": b"odd"}
    assert dict(listing.left_out) == {
        "a/.git/x/2.png": "hidden file",
        "a/broken.png": "not a regular file",
        "a/loop": "symbolic link to a folder, not followed",
        "a/pipe": "not a regular file",
        "b.tar": "an archive among other files, not looked into",
    }
    assert identify(folder).files == len(listing.files) + len(listing.left_out)


def test_files_too_large_for_an_image_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "LARGEST_FILE", 2999)
    for source in (_tree(tmp_path / "tree"), _write(tmp_path / "t.tar", _tar(FILES))):
        assert ("top/a/2.png", "larger than 0 MiB") in list_source(source).left_out


def test_a_tar_of_tars_is_read_without_unpacking(tmp_path: Path) -> None:
    classes = {
        "n02": {"n02_1.JPEG": b"2-1", "n02_0.JPEG": b"2-0" * 999, ".x": b""},
        "n01": {"./n01_7.JPEG": b"1-7"},
        "n03": {},
    }
    outer = _tar({"README": b"me", "n02.tar": b"replaced"} | {f"{k}.tar": _tar(v) for k, v in classes.items()})
    listing = list_source(_write(tmp_path / "train.tar", outer))
    assert _bytes(listing) == {"n01/n01_7.JPEG": b"1-7", "n02/n02_0.JPEG": b"2-0" * 999, "n02/n02_1.JPEG": b"2-1"}
    assert [file.label for file in listing.files] == ["n01", "n02", "n02"]
    assert {file.split for file in listing.files} == {None}
    assert dict(listing.left_out) == {"README": "not an archive, among archives of classes", "n02/.x": "hidden file"}


def test_inner_tars_are_listed_wherever_the_caller_likes(tmp_path: Path) -> None:
    classes = {f"n{number:02d}": {f"{index}.JPEG": b"%d" % index for index in range(20)} for number in range(5)}
    path = _write(tmp_path / "train.tar", _tar_of_tars(classes))
    with ProcessPoolExecutor(2) as pool:
        assert list_source(path, mapper=pool.map) == list_source(path)


def test_folders_in_a_tar_of_tars_say_the_split(tmp_path: Path) -> None:
    names = ["x/train/a", "x/train/train", "x/val/a", "x/b", "x/test/a"]
    listing = list_source(_write(tmp_path / "t.tar", _tar({f"{name}.tar": _tar({"1.png": b""}) for name in names})))
    assert [(file.name, file.split, file.label) for file in listing.files] == [
        ("x/b/1.png", None, "b"),
        ("x/train/a/1.png", "train", "a"),
        ("x/train/train/1.png", "train", "train"),
        ("x/val/a/1.png", "val", "a"),
    ]
    assert listing.left_out == [("x/test/a.tar", "test, and there is val")]


@pytest.mark.parametrize(
    ("outer", "message"),
    [
        ({"train.tar": _tar({"a/1.png": b""}), "val.tar": _tar({})}, "named like splits"),
        ({"s-0.tar": _tar({"0.png": b"", "0.cls": b"0"})}, "is a shard and not a class"),
        ({"n01.tar": _tar({"1.png": bytes(900)})[:1536]}, r"n01\.tar in .*o\.tar is cut short"),
        ({"n01.tar": _tar({"1.png": bytes(900)})[:1000]}, r"n01\.tar in .*o\.tar is cut short within 1\.png"),
        ({"n01.tar": b""}, r"n01\.tar in .*o\.tar is damaged"),
        ({"n01.tar": _tar({"../1.png": b""})}, "leads outside"),
    ],
)
def test_tars_of_tars_that_are_refused(tmp_path: Path, outer: dict[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list_source(_write(tmp_path / "o.tar", _tar(outer)))


def test_an_archive_beside_images_is_named_and_not_looked_into(tmp_path: Path) -> None:
    listing = list_source(_write(tmp_path / "t.tar", _tar({"a/1.png": b"1", "a/more.tar": _tar({})})))
    assert [file.name for file in listing.files] == ["a/1.png"]
    assert listing.left_out == [("a/more.tar", "an archive among other files, not looked into")]


@pytest.mark.parametrize("make", [lambda data: data, gzip.compress])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_a_cut_archive_is_refused(tmp_path: Path, make: Callable[[bytes], bytes], share: float) -> None:
    whole = make(_tar({f"a/{index}.png": os.urandom(700) for index in range(40)}))
    length = int((len(whole) if whole[:2] == b"\x1f\x8b" else 40 * 1536) * share)
    for kept in (length, length - length % 1536):  # within a member, and between two
        cut = _write(tmp_path / "cut.tar", whole[:kept])
        with pytest.raises(UserError, match=r"cut\.tar is (damaged|cut short)"):
            list_source(cut, spool=tmp_path / "spool")


def test_a_whole_zip_of_a_cut_archive_is_refused_by_its_own_name(tmp_path: Path) -> None:
    cut = _tar({"a/1.png": b"1", "a/2.png": b"2"})[:1024]
    with pytest.raises(UserError, match=r"zipped\.tgz is cut short"):
        list_source(_write(tmp_path / "zipped.tgz", gzip.compress(cut)), spool=tmp_path)


@pytest.mark.parametrize("data", [b"", b"some text", b"\x1f\x8b", b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match=r"odd is damaged or no \.tar or \.tar\.gz"):
        list_source(_write(tmp_path / "odd", data), spool=tmp_path)


def test_a_compressed_archive_needs_a_spool(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a spool folder"):
        list_source(_write(tmp_path / "a.tar.gz", gzip.compress(_tar(FILES))))


@pytest.mark.parametrize("name", ["nothing", "http://host/x.tar"])
def test_a_missing_source_is_refused(tmp_path: Path, name: str) -> None:
    for call in (identify, list_source):
        with pytest.raises(UserError, match=r"there is no folder and no archive at .*(nothing|x\.tar)"):
            call(name if "://" in name else tmp_path / name)


def test_labels_from_a_file(tmp_path: Path) -> None:
    images = {"x_1.JPEG": b"1", "x_2.JPEG": b"2"}
    labels = _write(tmp_path / "val.txt", b"x_1.JPEG cat\nx_2.JPEG dog\n")
    for source in (_tree(tmp_path / "flat", images), _write(tmp_path / "val.tar", _tar(images))):
        listing = list_source(source, labels=labels)
        assert [(file.name, file.label) for file in listing.files] == [("x_1.JPEG", "cat"), ("x_2.JPEG", "dog")]
        assert _bytes(listing) == images
        other = _write(tmp_path / "other.txt", b"x_1.JPEG dog\nx_2.JPEG dog\n")
        prints = {identify(source, given).fingerprint for given in (None, labels, other)}
        assert len(prints) == 3
    train = _write(tmp_path / "train.tar", _tar_of_tars({"a": images}))
    with pytest.raises(UserError, match="have labels of their own"):
        list_source(train, labels=labels)


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    folder = _tree(tmp_path / "tree")
    before = identify(folder)
    assert (before.kind, before.name, before.files) == ("folder", "tree", len(FILES))
    os.utime(folder / "top/n", (0, 0))
    assert identify(folder) == before
    assert identify(shutil.copytree(folder, tmp_path / "b/tree")) == before
    (folder / "top/n").write_bytes(b"longer")
    assert identify(folder).fingerprint != before.fingerprint
    archive = _write(tmp_path / "a.tar", _tar({"a/1": b"1"}))
    first = identify(archive)
    assert tuple(first) == ("tar", "a.tar", hashlib.sha256(archive.read_bytes()).hexdigest(), None)
    assert identify(_write(archive, _tar({"a/1": b"2"}))).fingerprint != first.fingerprint


def test_the_fingerprint_of_shards_follows_content_names_and_classes(tmp_path: Path) -> None:
    shard = _tar({"0.png": b"0", "0.cls": b"0"})
    folder = _tree(tmp_path / "shards", {"train-0.tar": shard, "readme.md": b"x"})
    prints = [identify(folder)]
    assert prints[0][:2] == ("shards", "shards")
    (folder / "readme.md").write_bytes(b"another")
    assert identify(folder) == prints[0]
    (folder / "train-0.tar").write_bytes(_tar({"0.png": b"1", "0.cls": b"0"}))
    prints.append(identify(folder))
    (folder / "classes.txt").write_text("cat")
    prints.append(identify(folder))
    (folder / "train-0.tar").rename(folder / "val-0.tar")
    prints.append(identify(folder))
    assert len({one.fingerprint for one in prints}) == 4


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    classes = {name: {"1.png": bytes(99)} for name in "abc"}
    path = _write(tmp_path / "train.tar.gz", gzip.compress(_tar_of_tars(classes)))
    list_source(path, spool=tmp_path / "spool", progress=lambda *done: told.append(done))
    assert told[0] == (path.stat().st_size,) * 2
    assert told[-3:] == [(10240, 30720), (20480, 30720), (30720, 30720)]


def test_a_reader_can_be_sent_elsewhere_and_names_what_is_gone(tmp_path: Path) -> None:
    folder = _tree(tmp_path / "tree", {"a/1.png": b"1", "a/2.png": b"22"})
    listing = list_source(folder)
    reader = pickle.loads(pickle.dumps(open_reader(listing.address)))
    (folder / "a/1.png").unlink()
    (folder / "a/2.png").write_bytes(b"2")
    for file in listing.files:
        with pytest.raises(UserError, match=r"a/[12]\.png"):
            reader.read(file)


@pytest.mark.parametrize("kind", ["tree", "tar", "tar.gz", "tars", "shards"])
def test_s3_and_this_machine_give_the_same(tmp_path: Path, s3_store: Any, kind: str) -> None:
    """Names, bytes and fingerprints; only the addresses differ."""
    files = {f"{label}/{index}.png": os.urandom(3000) for label in "abc" for index in range(9)}
    shard = _tar({"0.png": b"0", "0.cls": b"0", "1.png": b"", "1.cls": b"1"})
    contents: dict[str, dict[str, bytes]] = {
        "tree": files | {"a/.hidden": b"", "b/größe.png": b""},
        "tar": {"x.tar": _tar(files)},
        "tar.gz": {"x.tar": gzip.compress(_tar(files))},
        "tars": {"x.tar": _tar_of_tars({label: {"1.JPEG": os.urandom(9000)} for label in "abc"})},
        "shards": {"train-0.tar": shard, "val-0.tar": shard, "classes.txt": b"x\ny\n"},
    }
    folder = _tree(tmp_path / "source", contents[kind])
    bucket = s3_store.bucket()
    client = s3_store.client()
    for name, data in contents[kind].items():
        client.put_object(Bucket=bucket, Key=f"some/source/{name}", Body=data)
    client.put_object(Bucket=bucket, Key="some/source-of-others/a.png", Body=b"")
    tail = "/x.tar" if "x.tar" in contents[kind] else ""
    here, there = f"{folder}{tail}", f"s3://{bucket}/some/source{tail}"
    assert identify(here) == identify(there)
    local = list_source(here, spool=tmp_path / "1")
    remote = list_source(there, spool=tmp_path / "2", block=4096)
    assert local[:2] == remote[:2]
    assert _bytes(local) == _bytes(remote)


def test_nothing_on_s3_is_refused(s3_store: Any) -> None:
    bucket = s3_store.bucket()
    for source in (f"s3://{bucket}/no/such", f"s3://{bucket}", f"s3://{bucket}-none/x.tar"):
        with pytest.raises(UserError, match=bucket):
            identify(source)


@pytest.mark.real_data
def test_photographs_as_imagenet_ships_them(tmp_path: Path, real_data: Path) -> None:
    """A tar of per-class tars made of the real sample gives the bytes and labels of the sample's own tree."""
    with tarfile.open(real_data / "imagenet-sample.tar.gz") as archive:
        sample = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    classes: dict[str, dict[str, bytes]] = {}
    for name, data in sample.items():
        classes.setdefault(name.split("/")[-2], {})[name.split("/")[-1]] = data
    listing = list_source(_write(tmp_path / "ILSVRC2012_img_train.tar", _tar_of_tars(classes)))
    expected = {f"{label}/{name}": data for label, files in classes.items() for name, data in files.items()}
    assert len(expected) == 400
    assert _bytes(listing) == expected
    assert all(file.label == file.name.split("/")[0] for file in listing.files)
    assert listing.left_out == []
    tree = list_source(real_data / "imagenet-sample.tar.gz", spool=tmp_path / "spool")
    assert _bytes(tree) == sample


@pytest.mark.real_data
def test_all_of_cifar10(tmp_path: Path, real_data: Path) -> None:
    listing = list_source(real_data / "cifar10.tar.gz", spool=tmp_path)
    reader = open_reader(listing.address)
    digests = {file.name: hashlib.sha256(reader.read(file)).digest() for file in listing.files}
    with tarfile.open(real_data / "cifar10.tar.gz", "r|gz") as archive:
        expected = {m.name: hashlib.sha256(archive.extractfile(m).read()).digest() for m in archive if m.isfile()}  # type: ignore[union-attr]
    assert len(expected) == 60000
    assert digests == expected
    assert listing.left_out == []
