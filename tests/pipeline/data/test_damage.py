"""Nothing is lost silently: every cut and every flipped byte is refused by name or makes no difference.

Each test has a twin with the protection off (stock ``webdataset``, or our reader without checksums) on the same
damage, which must show losses: or else the damage was none, and the test could not fail.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import webdataset
from PIL import Image

from pipeline.data.cache import ShardCache
from pipeline.data.decoding import decode_square
from pipeline.data.drawn import draw
from pipeline.data.encoding import box_means
from pipeline.data.loading import Examples
from pipeline.data.manifest import MANIFEST_NAME, SUFFIXES, Form, Manifest, load_manifest
from pipeline.data.verifying import verify
from pipeline.errors import UserError
from pipeline.objects import open_objects

Pixels = npt.NDArray[np.uint8]
WriteDataSet = Callable[..., Manifest]

FLIPS, CUT = 100, 256  # places where a byte is flipped; bytes between two cuts
FORMS = (("jpeg", 1), ("png", 4), ("raw", 4))  # and how much smaller than the largest


def _drawn(count: int) -> Pixels:
    return np.stack([draw(0, index, 64)[0] for index in range(count)])


def _photographs(archive: Path, count: int, size: int) -> Pixels:
    """The first images of an archive."""
    images: list[Pixels] = []
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if member.isfile() and len(images) < count:
                file = tar.extractfile(member)
                assert file
                images.append(np.asarray(decode_square(file.read(), size)[0]))
    return np.stack(images)


IMAGES = [
    "8 drawn",
    pytest.param("8 of imagenet-sample at 256", marks=pytest.mark.real_data),
]


@pytest.fixture(scope="module", params=IMAGES)
def images(request: pytest.FixtureRequest) -> Pixels:
    count, *words = request.param.split()
    if words == ["drawn"]:
        return _drawn(int(count))
    return _photographs(request.getfixturevalue("real_data") / f"{words[1]}.tar.gz", int(count), int(words[3]))


class Damaged(NamedTuple):
    """A data set of one shard, to be damaged, and what reading the whole one gave."""

    folder: Path
    name: str
    suffix: str
    pixels: Pixels
    labels: list[int]

    @property
    def shard(self) -> Path:
        return self.folder / self.name

    @property
    def count(self) -> int:
        return len(self.labels)


@pytest.fixture(params=FORMS, ids=[name for name, _ in FORMS])
def damaged(request: pytest.FixtureRequest, tmp_path: Path, images: Pixels, write_data_set: WriteDataSet) -> Damaged:
    encoding, factor = request.param
    form = Form(size=images.shape[1] // factor, encoding=encoding, quality=90 if encoding == "jpeg" else None)
    small = np.stack([np.asarray(box_means(Image.fromarray(image), factor)) for image in images])
    labels = [number * 3 % 10 for number in range(len(images))]
    write_data_set(tmp_path, small, labels, forms=[form], shard_size=len(images))
    pixels, found = Examples(tmp_path, "train").read(np.arange(len(images)))
    assert found.tolist() == labels
    assert encoding == "jpeg" or np.array_equal(pixels, small)
    return Damaged(tmp_path, f"{form.name}/train-00000.tar", SUFFIXES[encoding], pixels, labels)


def _read(found: Damaged, *, checked: bool = True) -> list[str]:
    """What reading each example comes to: "right", "wrong", or what is told."""
    examples = Examples(found.folder, "train", checked=checked)
    outcomes = [_outcome(examples, found, number) for number in range(found.count)]
    told = [outcome for outcome in outcomes if outcome not in ("right", "wrong")]
    assert all(found.name in one and "\n" not in one for one in told)
    return outcomes


def _outcome(examples: Examples, found: Damaged, number: int) -> str:
    try:
        pixels, labels = examples.read([number])
    except UserError as error:
        return str(error)
    right = np.array_equal(pixels[0], found.pixels[number]) and labels.tolist() == [found.labels[number]]
    return "right" if right else "wrong"


def _stock(found: Damaged, decoder: str | None = None) -> list[tuple[str, bytes, Any]] | None:
    """The whole examples that stock webdataset finds in the shard; None when it raised."""
    samples = webdataset.WebDataset(str(found.shard), shardshuffle=False)
    if decoder:
        samples = samples.decode(decoder)
    try:
        wanted = {"__key__", found.suffix, "cls"}
        whole = [sample for sample in samples if wanted <= set(sample)]
    except Exception:  # whatever it raises, it was not silent
        return None
    return [(sample["__key__"], bytes(sample[found.suffix]), sample["cls"]) for sample in whole]


# Cut short


def test_a_shard_cut_anywhere_is_refused_by_name(damaged: Damaged) -> None:
    """At every 256 bytes: each example is refused, and so is the shard by ``verify``."""
    size = damaged.shard.stat().st_size
    for cut in reversed(range(0, size, CUT)):
        os.truncate(damaged.shard, cut)
        told = f"shard {damaged.name} of {damaged.folder} has {cut} bytes instead of the {size} in the manifest"
        assert all(outcome.startswith(told) for outcome in _read(damaged))
        (fault,) = verify(damaged.folder).faults
        assert damaged.name in fault


def test_stock_webdataset_reads_less_of_a_cut_shard_and_says_nothing(
    damaged: Damaged, record_property: Callable[[str, object], None]
) -> None:
    size = damaged.shard.stat().st_size
    cuts = range(0, size, CUT)
    assert _stock(damaged)
    silent = 0
    for cut in reversed(cuts):
        os.truncate(damaged.shard, cut)
        found = _stock(damaged)
        silent += found is not None and len(found) < damaged.count
    record_property("silent losses of stock webdataset", f"{silent} of {len(cuts)} cuts")
    assert silent > damaged.count, "at the least, at the end of each member"


@pytest.mark.s3
@pytest.mark.parametrize("cached", [False, True])
def test_a_cut_object_is_refused_by_name_or_read_whole(
    write_data_set: WriteDataSet, s3_store: Any, tmp_path: Path, cached: bool
) -> None:
    """Range reads do not ask for an object's size: what lies before the cut is read, and right."""
    remote, name, pixels = open_objects(f"s3://{s3_store.bucket()}/set"), "64-raw/train-00000.tar", _drawn(8)
    found = Damaged(tmp_path, name, "npy", pixels, list(range(8)))
    write_data_set(remote.address, pixels, found.labels, forms=[Form(size=64, encoding="raw")], shard_size=8)
    whole = remote.read(name)
    with ShardCache(tmp_path / "cache", 1 << 30) as cache:
        examples = Examples(remote.address, "train", cache=cache if cached else None, keep_bytes=0)
        for cut in range(0, len(whole), 17 * CUT):
            remote.write(name, whole[:cut])
            outcomes = [_outcome(examples, found, number) for number in range(8)]
            refused = [number for number, outcome in enumerate(outcomes) if name in outcome]
            assert set(outcomes) <= {"right", *(outcomes[number] for number in refused)}
            ends = examples._opened.index(0).ends
            assert refused == [number for number in range(8) if cached or ends[number] > cut]


# Altered


class Flip(NamedTuple):
    place: int
    kind: str
    example: int


def _flips(shard: Path) -> list[Flip]:
    """100 places: 60 within images, 10 within labels, 20 within headers, 10 within padding and the end of the tar."""
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    spans: dict[str, list[tuple[int, int, int]]] = {"image": [], "label": [], "header": [], "padding": []}
    for number, member in enumerate(members):
        begin, end = member.offset_data, member.offset_data + member.size
        spans["header"].append((member.offset, begin, number // 2))
        if member.name.endswith(".npy"):
            begin += 128  # the header of the array, which stock webdataset reads
            spans["header"].append((begin - 128, begin, number // 2))
        spans["label" if number % 2 else "image"].append((begin, end, number // 2))
        spans["padding"].append((end, -(-end // 512) * 512, number // 2))
    spans["padding"].append((spans["padding"][-1][1], shard.stat().st_size, -1))
    lot = np.random.default_rng(5)
    flips = []
    for kind, count in (("image", 60), ("label", 10), ("header", 20), ("padding", 10)):
        places = [(place, example) for begin, end, example in spans[kind] for place in range(begin, end)]
        chosen = lot.choice(len(places), count, replace=len(places) < count)  # labels have one digit each
        flips += [Flip(places[at][0], kind, places[at][1]) for at in chosen.tolist()]
    assert len(flips) == FLIPS
    return flips


def _each_flip(shard: Path, flips: list[Flip]) -> Iterator[Flip]:
    """Each flip in turn, in the file; the bit is drawn too. The file is whole again between them."""
    lot = np.random.default_rng(6)
    with shard.open("r+b", buffering=0) as file:
        for flip in flips:
            byte = os.pread(file.fileno(), 1, flip.place)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 1 << int(lot.integers(8))]), flip.place)
            yield flip
            os.pwrite(file.fileno(), bytes([byte]), flip.place)


def test_a_flipped_byte_is_refused_by_name_or_makes_no_difference(damaged: Damaged) -> None:
    """Of an example's image it is always refused, and the other examples are read; ``verify`` finds every one."""
    for flip in _each_flip(damaged.shard, _flips(damaged.shard)):
        outcomes = _read(damaged)
        assert "wrong" not in outcomes
        refused = [number for number, outcome in enumerate(outcomes) if outcome != "right"]
        assert refused == ([flip.example] if flip.kind == "image" else [])
        (fault,) = verify(damaged.folder).faults
        assert damaged.name in fault
    assert _read(damaged) == ["right"] * damaged.count
    assert verify(damaged.folder).faults == []


def test_without_the_checksums_a_flipped_byte_gives_other_pixels(
    damaged: Damaged, record_property: Callable[[str, object], None]
) -> None:
    """The twin: our own reader without its checks, and stock webdataset, which also loses examples and labels."""
    whole = _stock(damaged, "rgb8")
    assert whole
    assert len(whole) == damaged.count
    flips = _flips(damaged.shard)
    ours = stock = 0
    for _ in _each_flip(damaged.shard, flips):
        ours += "wrong" in _read(damaged, checked=False)
        stock += (found := _stock(damaged, "rgb8")) is not None and found != whole
    record_property("silently wrong", f"{ours} of {FLIPS} flips without checksums, {stock} with stock webdataset")
    # PNG has checks of its own, which Pillow obeys: hardly a flip passes.
    assert stock > 10
    assert ours > 10 or damaged.suffix == "png"


# What describes the shards


def test_a_damaged_index_is_refused_by_name(damaged: Damaged) -> None:
    index = damaged.shard.with_suffix(".index")
    whole, name = index.read_bytes(), damaged.name.replace(".tar", ".index")
    changed = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 7)]
    for data in changed + [whole[:cut] for cut in range(0, len(whole), 16)]:
        index.write_bytes(data)
        with pytest.raises(UserError, match=f"the index {name} "):
            Examples(damaged.folder, "train").read([0])
        (fault,) = verify(damaged.folder).faults
        assert name in fault
    index.unlink()
    with pytest.raises(UserError, match=f"the index {name} of .* is missing"):
        Examples(damaged.folder, "train").read([0])
    assert name in verify(damaged.folder).faults[0]


def test_a_damaged_manifest_is_refused_or_says_the_same(damaged: Damaged) -> None:
    """The same it may say where a space became another kind of space."""
    path = damaged.folder / MANIFEST_NAME
    whole, manifest = path.read_bytes(), load_manifest(damaged.folder)
    lot = np.random.default_rng(8)
    changed = [
        whole[:place] + bytes([whole[place] ^ 1 << int(lot.integers(8))]) + whole[place + 1 :]
        for place in range(len(whole))
    ]
    told = []
    for data in changed + [whole[:cut] for cut in range(0, len(whole) - 1, 16)]:
        path.write_bytes(data)
        try:
            assert load_manifest(damaged.folder) == manifest
        except UserError as error:
            told.append(str(error))
    assert all(MANIFEST_NAME in one and "\n" not in one for one in told)
    assert len(told) > len(whole) * 0.99


def test_a_missing_shard_is_refused_by_name(damaged: Damaged) -> None:
    damaged.shard.unlink()
    assert all(f"shard {damaged.name} of {damaged.folder} is missing" in outcome for outcome in _read(damaged))
    (fault,) = verify(damaged.folder).faults
    assert damaged.name in fault
