"""Random access: the pixels that were stored, of any form, at any size, in any order, from here or from a store."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from pipeline.data import loading
from pipeline.data.cache import ShardCache
from pipeline.data.forms import Reduction, form_for
from pipeline.data.ingest import ingest, make_forms
from pipeline.data.loading import Examples
from pipeline.data.manifest import SPLITS, Encoding, Form, Manifest, ShardColumns, Source, Split, save_manifest
from pipeline.errors import UserError
from pipeline.objects import LocalObjects, open_objects

Pixels = npt.NDArray[np.uint8]
WriteDataSet = Callable[..., Manifest]

COUNT, SIZE = 23, 16
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) * 7 % 10
PNG, RAW = Form(size=SIZE, encoding="png"), Form(size=SIZE, encoding="raw")
FORMS = {
    "png": PNG,
    "webp": Form(size=SIZE, encoding="webp"),
    "raw": RAW,
    "jpeg": Form(size=SIZE, encoding="jpeg", quality=90),
}


@pytest.fixture
def folder(tmp_path: Path, write_data_set: WriteDataSet) -> Path:
    write_data_set(tmp_path / "set", PIXELS, LABELS, forms=[PNG, RAW], shard_size=5)
    return tmp_path / "set"


# What is read


def _pixels_by_pillow(folder: Path, form: Form, size: int, reduction: Reduction) -> Pixels:
    """Every image of a split by another way: tarfile, Pillow and sums of whole numbers."""
    images = []
    for path in sorted(folder.glob(f"{form.name}/train-*.tar")):
        with tarfile.open(path) as tar:
            images += [tar.extractfile(member).read() for member in tar if not member.name.endswith(".cls")]  # type: ignore[union-attr]
    factor = form.size // size
    if form.encoding == "raw":
        pixels = np.stack([np.load(io.BytesIO(image)) for image in images])
    else:
        opened = [Image.open(io.BytesIO(image)) for image in images]
        if reduction == "dct":  # Pillow's name for it
            [image.draft("RGB", (form.size // min(factor, 8),) * 2) for image in opened]
            factor = max(1, factor // 8)
        pixels = np.stack([np.asarray(image) for image in opened])
    blocks = pixels.reshape(len(pixels), size, factor, size, factor, 3).astype(np.int64)
    return ((2 * blocks.sum(axis=(2, 4)) + factor**2) // (2 * factor**2)).astype(np.uint8)


@pytest.mark.parametrize("reduction", ["box", "dct"])
@pytest.mark.parametrize("size", [16, 8, 4, 2, 1])
@pytest.mark.parametrize("encoding", FORMS)
def test_every_form_size_and_reduction_gives_what_pillow_gives(
    tmp_path: Path, write_data_set: WriteDataSet, encoding: str, size: int, reduction: Reduction
) -> None:
    if reduction == "dct" and encoding != "jpeg":
        return
    form = FORMS[encoding]
    write_data_set(tmp_path, PIXELS, LABELS, forms=[form], shard_size=5)
    images, labels = Examples(tmp_path, "train", size=size, reduction=reduction).read(np.arange(COUNT))
    assert (images.shape, images.dtype) == ((COUNT, size, size, 3), np.uint8)
    assert np.array_equal(images, _pixels_by_pillow(tmp_path, form, size, reduction))
    assert np.array_equal(labels, LABELS)
    if encoding != "jpeg" and size == SIZE:
        assert np.array_equal(images, PIXELS)


def test_every_form_of_a_data_set_gives_the_same_examples(tmp_path: Path, write_data_set: WriteDataSet) -> None:
    small = Form(size=SIZE // 2, encoding="raw")
    write_data_set(tmp_path / "many", PIXELS, LABELS, forms=[PNG, small], shard_size=5)
    write_data_set(tmp_path / "one", PIXELS, LABELS, forms=[PNG], shard_size=9)
    stored, made = (Examples(tmp_path / name, "train", size=SIZE // 2) for name in ("many", "one"))
    assert (stored.form, made.form) == (small, PNG)
    for found, other in zip(stored.read(np.arange(COUNT)), made.read(np.arange(COUNT)), strict=True):
        assert np.array_equal(found, other)


def _squares(archive: Path, size: int) -> Iterator[tuple[str, str]]:
    """Class, and sha256 of the pixels, of every image of an archive, by Pillow alone: upright, centre, Lanczos."""
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)):
                image = ImageOps.exif_transpose(Image.open(io.BytesIO(file.read()))).convert("RGB")
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                square = image.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
                yield member.name.split("/")[-2], hashlib.sha256(square.tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("encoding", ["png", "raw"])
@pytest.mark.parametrize(("archive", "size", "count"), [("imagenet-sample", 256, 400), ("cifar10", 32, 60_000)])
def test_all_real_images_are_read_as_pillow_decodes_them(
    tmp_path: Path, real_data: Path, archive: str, size: int, count: int, encoding: Encoding
) -> None:
    """Every pixel of every image, and of the smaller form the box means."""
    source = real_data / f"{archive}.tar.gz"
    forms = make_forms([(size, encoding), (size // 4, "raw")])
    ingest(source, tmp_path, forms=forms, val_fraction=0.1, shard_size=count // 20)
    found: Counter[tuple[str, str]] = Counter()
    for split in SPLITS:
        examples = Examples(tmp_path, split, size=size, keep_bytes=0)
        small = Examples(tmp_path, split, size=size // 4, keep_bytes=0)
        assert (examples.form, small.form) == forms
        for batch in np.array_split(np.arange(len(examples)), -(-len(examples) // 100)):
            images, labels = examples.read(batch)
            blocks = images.reshape(len(images), size // 4, 4, size // 4, 4, 3).sum(axis=(2, 4), dtype=np.int64)
            assert np.array_equal(small.read(batch)[0], (blocks + 8) // 16)
            digests = (hashlib.sha256(image.tobytes()).hexdigest() for image in images)
            found.update(zip((examples.classes[label] for label in labels), digests, strict=True))
    assert found.total() == count
    assert found == Counter(_squares(source, size))


@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
@pytest.mark.parametrize("size", [SIZE, SIZE // 4])
def test_any_example_in_any_order(folder: Path, size: int, keep_bytes: int) -> None:
    examples = Examples(folder, "train", size=size, keep_bytes=keep_bytes)
    assert (len(examples), examples.image_size, examples.classes) == (COUNT, size, tuple("abcdefghij"))
    assert examples.labels.tolist() == LABELS.tolist()
    every = examples.read(np.arange(COUNT))[0]
    order = np.random.default_rng(1)
    for indices in ([22, 0, 22, 7], [4], [], *(order.permutation(COUNT) for _ in range(5)), order.integers(0, 23, 99)):
        images, labels = examples.read(indices)
        assert images.shape == (len(indices), size, size, 3)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        chosen = np.asarray(indices, dtype=np.int64)
        assert np.array_equal(images, every[chosen])
        assert np.array_equal(labels, LABELS[chosen])


@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
def test_what_was_read_belongs_to_the_reader(folder: Path, keep_bytes: int) -> None:
    examples = Examples(folder, "train", keep_bytes=keep_bytes)
    images, labels = examples.read([3])
    images[:], labels[:] = 0, 9
    again, label = examples.read([3])
    assert np.array_equal(again[0], PIXELS[3])
    assert label[0] == LABELS[3]
    assert not examples.labels.flags.writeable


@pytest.mark.parametrize("indices", [[-1], [COUNT], [0, 1, 99]])
def test_indices_outside_are_refused(folder: Path, indices: list[int]) -> None:
    with pytest.raises(IndexError, match=f"a split that holds {COUNT}"):
        Examples(folder, "train").read(indices)


@pytest.mark.parametrize(("spare", "decodings"), [(0, 7), (-1, 21)])
def test_an_image_is_decoded_once_when_the_split_fits(
    tmp_path: Path, write_data_set: WriteDataSet, spare: int, decodings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data_set(tmp_path, PIXELS, LABELS, forms=[PNG], shard_size=5)
    decoded = []
    decode = loading.decode_image
    monkeypatch.setattr(loading, "decode_image", lambda *those: decoded.append(1) or decode(*those))
    examples = Examples(tmp_path, "train", keep_bytes=PIXELS.nbytes + spare)
    for _ in range(3):
        examples.read(np.arange(7))
    assert len(decoded) == decodings


def test_threads_may_share_the_examples(folder: Path) -> None:
    """With threads that change places as often as Python can; also where they decode the same images at once."""
    orders = [np.random.default_rng(seed).integers(0, COUNT, 40) for seed in range(40)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for arguments in ({"keep_bytes": 0}, {}, {"size": SIZE // 2}):
            whole = Examples(folder, "train", **arguments).read(np.arange(COUNT))[0]  # type: ignore[arg-type]
            shared = Examples(folder, "train", **arguments)  # type: ignore[arg-type]
            with ThreadPoolExecutor(4) as pool:
                for order, (images, labels) in zip(orders, pool.map(shared.read, orders), strict=True):
                    assert np.array_equal(images, whole[order])
                    assert np.array_equal(labels, LABELS[order])
    finally:
        sys.setswitchinterval(interval)


# Which form is read


def _manifest(*forms: Form) -> Manifest:
    shards = {form.name: ShardColumns(bytes=(), sha256=(), index_sha256=()) for form in forms}
    split = Split(counts=(), shards=shards)
    source = Source(kind="drawn", name="given", lossy=False, fingerprint="0" * 64)
    splits = {"train": split, "val": split}
    return Manifest(classes=("a",), resize="none", forms=forms, source=source, request={}, splits=splits)  # type: ignore[arg-type]


def test_the_form_to_read_is_the_smallest_that_has_the_size_and_the_fastest_of_those() -> None:
    jpeg = Form(size=256, encoding="jpeg", quality=90)
    small = Form(size=64, encoding="jpeg", quality=90)
    png, raw = Form(size=64, encoding="png"), Form(size=64, encoding="raw")
    several = _manifest(jpeg, small, png, raw)
    assert [form_for(several, size) for size in (256, 128, 64, 32)] == [jpeg, jpeg, raw, raw]
    assert [form_for(several, size, "dct") for size in (256, 128, 64, 32)] == [jpeg, jpeg, small, small]
    assert form_for(_manifest(jpeg, small, png), 64) == png


def test_a_size_that_cannot_be_had_is_refused_with_the_forms_that_there_are() -> None:
    jpeg, png = Form(size=256, encoding="jpeg", quality=90), Form(size=64, encoding="png")
    with pytest.raises(UserError, match=r"48 px cannot be made \(box\) of any .* the data set has 256-jpeg, 64-png$"):
        form_for(_manifest(jpeg, png), 48)
    with pytest.raises(UserError, match="images of 512 px cannot be made"):
        form_for(_manifest(jpeg, png), 512)
    with pytest.raises(UserError, match=r"ask for a size that divides 64$"):
        form_for(_manifest(png), 0)
    with pytest.raises(UserError, match="the data set is stored as 64-png; leave the reduction at box"):
        form_for(_manifest(png), 64, "dct")
    with pytest.raises(UserError, match=r"images of 64 px cannot be made \(dct\) of any stored form"):
        form_for(_manifest(png, Form(size=64, encoding="raw")), 64, "dct")


# What is opened, and when


def test_opening_reads_the_manifest_alone_and_reading_the_shard_that_is_asked_for(
    tmp_path: Path, write_data_set: WriteDataSet
) -> None:
    """999 of 1,000 shards are not even there."""
    one = write_data_set(tmp_path / "one", PIXELS[:5], LABELS[:5], forms=[RAW], shard_size=5)
    column = one.splits["train"].shards["16-raw"]
    thousand = ShardColumns(**{name: value * 1000 for name, value in column})  # type: ignore[arg-type]
    train = Split(counts=(5,) * 1000, shards={"16-raw": thousand})
    many = LocalObjects(tmp_path / "many")
    save_manifest(many, one.model_copy(update={"splits": {**one.splits, "train": train}}).sealed())
    examples = Examples(many.root, "train")
    assert len(examples) == 5000
    for suffix in ("tar", "index"):
        many.write(f"16-raw/train-00617.{suffix}", (tmp_path / f"one/16-raw/train-00000.{suffix}").read_bytes())
    assert np.array_equal(examples.read([617 * 5 + 3])[0][0], PIXELS[3])
    with pytest.raises(UserError, match=r"the index 16-raw/train-00616\.index of .* is missing"):
        examples.read([616 * 5 + 3])


def test_examples_travel_to_another_process_as_their_arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    sent = pickle.dumps(Examples("set", "train", size=8, keep_bytes=0, checked=False))
    assert len(sent) < 1000
    monkeypatch.chdir("/")
    there = pickle.loads(sent)
    assert (there.image_size, there.checked, there.split) == (8, False, "train")
    assert np.array_equal(there.read([5, 20])[0], Examples(folder, "train", size=8).read([5, 20])[0])


def test_a_data_set_that_was_replaced_is_not_read_as_the_one_before(folder: Path, write_data_set: WriteDataSet) -> None:
    """By a process that joins later; who has it open finds the shards altered."""
    before = Examples(folder, "train", keep_bytes=0)
    sent = pickle.dumps(before)
    write_data_set(folder, PIXELS[::-1], LABELS[::-1], forms=[PNG, RAW], shard_size=5)
    with pytest.raises(UserError, match="was replaced by another one while it was in use"):
        pickle.loads(sent)
    with pytest.raises(UserError, match=r"the index 16-raw/train-00000\.index was altered"):
        before.read([0])


def test_an_empty_split_and_no_data_set_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"the split val of .* is empty"):
        Examples(folder, "val")
    with pytest.raises(UserError, match="there is no data set in"):
        Examples(folder / "nowhere", "train")


# What is refused (`test_damage` has every cut and flip)


@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
def test_an_altered_example_is_refused_by_name_and_read_when_it_is_back(folder: Path, keep_bytes: int) -> None:
    path = folder / "16-raw/train-00001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(PIXELS[6].tobytes(), bytes(PIXELS[6].nbytes)))
    examples = Examples(folder, "train", keep_bytes=keep_bytes)
    told = r"^shard 16-raw/train-00001\.tar of /.*: example 1 \(byte \d+\) was altered .*; put the shard back"
    for _ in range(2):
        with pytest.raises(UserError, match=told):
            examples.read(np.arange(COUNT))
    assert np.array_equal(examples.read([5, 7])[0], PIXELS[[5, 7]]), "the others are as they were"
    path.write_bytes(whole)
    assert np.array_equal(examples.read(np.arange(COUNT))[0], PIXELS)


def test_an_example_that_was_stored_wrong_is_refused_by_name(tmp_path: Path, write_data_set: WriteDataSet) -> None:
    """Shard, index and manifest agree; what they hold is not what they say it is."""
    for encoding, why in (("png", r"cannot be decoded \(cannot identify"), ("raw", "has 768 bytes instead of 192")):
        folder = tmp_path / encoding
        written = write_data_set(folder, PIXELS, LABELS, forms=[RAW], shard_size=5)
        (folder / "16-raw").rename(folder / f"8-{encoding}")
        renamed = {
            split: entry.model_copy(update={"shards": {f"8-{encoding}": entry.shards["16-raw"]}})
            for split, entry in written.splits.items()
        }
        forms = (Form(size=8, encoding=encoding),)  # type: ignore[arg-type]
        manifest = written.model_copy(update={"forms": forms, "splits": renamed}).sealed()
        save_manifest(LocalObjects(folder), manifest)
        with pytest.raises(UserError, match=rf"shard 8-{encoding}/train-00000\.tar of .*: example 2 .* {why}"):
            Examples(folder, "train").read([2])


# From a store


@pytest.fixture
def remote(write_data_set: WriteDataSet, fault_proxy: Any, s3_store: Any) -> Iterator[str]:
    address = f"s3://{s3_store.bucket()}/some/set"
    write_data_set(address, PIXELS, LABELS, forms=[PNG, RAW], shard_size=5)
    fault_proxy.faults.seen.clear()
    return address


@pytest.mark.s3
@pytest.mark.parametrize("size", [SIZE, SIZE // 2])
def test_a_remote_data_set_is_read_like_a_local_one(remote: str, folder: Path, size: int, tmp_path: Path) -> None:
    local = Examples(folder, "train", size=size)
    with ShardCache(tmp_path / "cache", 1 << 20) as cache, ShardCache(tmp_path / "other", 1 << 20) as ahead:
        ways = {name: Examples(remote, "train", size=size, cache=of) for name, of in (("ranges", None), ("c", cache))}
        ways["ahead"] = Examples(remote, "train", size=size, cache=ahead)
        ways["ahead"].prefetch([2, 0], range(5))
        ways["sent"] = pickle.loads(pickle.dumps(ways["c"]))
        for way, examples in ways.items():
            assert examples.labels.tolist() == LABELS.tolist(), way
            for indices in (np.random.default_rng(3).permutation(COUNT), [22, 0, 22]):
                for found, other in zip(examples.read(indices), local.read(indices), strict=True):
                    assert np.array_equal(found, other), way


@pytest.mark.s3
def test_without_a_cache_nothing_is_fetched_but_what_is_asked_for(remote: str, fault_proxy: Any) -> None:
    examples = Examples(remote, "train", keep_bytes=0)
    assert len(fault_proxy.faults.seen) == 1, "the manifest"
    examples.read([7])
    assert fault_proxy.faults.seen[1:] == [f"GET /{remote[5:]}/16-raw/train-00001.{x}" for x in ("index", "tar")]


@pytest.mark.s3
def test_a_cached_shard_is_fetched_once_and_one_fetched_ahead_before_it_is_asked_for(
    remote: str, fault_proxy: Any, tmp_path: Path
) -> None:
    def gets(suffix: str) -> list[int]:
        return [fault_proxy.faults.gets(f"16-raw/train-0000{number}.{suffix}") for number in range(5)]

    with ShardCache(tmp_path, 1 << 20) as cache:
        examples = Examples(remote, "train", cache=cache, keep_bytes=0)
        examples.prefetch([1, 3])
        deadline = time.monotonic() + 20
        while sum(len(path.name) == 64 for path in tmp_path.iterdir()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (gets("tar"), gets("index")) == ([0, 1, 0, 1, 0], [0] * 5)
        for _ in range(3):
            examples.read(np.arange(COUNT))
        assert (gets("tar"), gets("index")) == ([1] * 5, [1] * 5)


@pytest.mark.s3
@pytest.mark.parametrize("cached", [False, True])
def test_an_altered_cut_or_missing_remote_shard_is_refused_by_name(remote: str, tmp_path: Path, cached: bool) -> None:
    objects, name = open_objects(remote), "16-raw/train-00001.tar"
    whole = objects.read(name)
    for number, damaged in enumerate((whole.replace(PIXELS[6].tobytes(), PIXELS[5].tobytes()), whole[:1536], None)):
        if damaged is None:
            objects.remove(name)
        else:
            objects.write(name, damaged)
        cache = ShardCache(tmp_path / str(number), 1 << 20) if cached else None
        with pytest.raises(UserError, match=r"16-raw/train-00001\.tar"):
            Examples(remote, "train", cache=cache).read([5, 6])
    objects.write(name, whole)
    assert np.array_equal(Examples(remote, "train").read([5, 6])[0], PIXELS[5:7])


@pytest.mark.s3
@pytest.mark.parametrize("size", [SIZE, SIZE // 2])
def test_a_copy_that_was_damaged_on_this_node_is_refused_and_then_fetched_anew(
    remote: str, tmp_path: Path, size: int
) -> None:
    with ShardCache(tmp_path / "cache", 1 << 20) as cache:
        examples = Examples(remote, "train", size=size, cache=cache, keep_bytes=0)
        right = examples.read(np.arange(COUNT))[0]
        process = pickle.loads(pickle.dumps(examples))  # as another process of the node has it
        process.read(np.arange(COUNT))
        for path in (tmp_path / "cache").iterdir():
            with path.open("r+b") as file:  # in place: what is mapped changes with it
                file.seek(512 + 128 + 5)
                file.write(b"\x00\x01\x02\x03")
        for one in (examples, process):
            for _ in range(5):
                with pytest.raises(UserError, match=r"copy of shard 16-raw/train-0000\d\.tar in the cache .* removed"):
                    one.read(np.arange(COUNT))
            assert np.array_equal(one.read(np.arange(COUNT))[0], right)
