"""Random access: the right pixels in any order, cached or not, and unfit data sets refused."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import loading
from pipeline.data.decoding import encode_png
from pipeline.data.loading import Examples
from pipeline.data.manifest import Manifest, Source, Split, save_manifest
from pipeline.data.shards import write_split
from pipeline.errors import UserError

COUNT, SIZE = 23, 8
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3


def _save(folder: Path, train: Split, image_size: int = SIZE) -> None:
    manifest = Manifest(
        classes=("a", "b", "c"),
        image_size=image_size,
        resize="none",
        source=Source(kind="drawn", name="test", lossy=False, fingerprint="0" * 64),
        request={},
        splits={"train": train, "val": Split(examples=0, shards=())},
    )
    save_manifest(folder, manifest.sealed())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    examples = [(f"{i:08d}", encode_png(Image.fromarray(PIXELS[i])), int(LABELS[i])) for i in range(COUNT)]
    _save(tmp_path, write_split(tmp_path, "train", examples, 5))
    return tmp_path


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_any_example_in_any_order(folder: Path, cache_bytes: int) -> None:
    examples = Examples(folder, "train", cache_bytes=cache_bytes)
    assert len(examples) == COUNT
    assert examples.labels.tolist() == LABELS.tolist()
    assert (examples.classes, examples.image_size) == (("a", "b", "c"), SIZE)
    order = np.random.default_rng(1)
    for indices in (
        np.arange(COUNT),
        order.permutation(COUNT),
        np.array([22, 0, 22, 7]),
        np.array([], dtype=np.int64),
    ):
        images, labels = examples.read(indices)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.shape == (len(indices), SIZE, SIZE, 3)
        assert np.array_equal(images, PIXELS[indices])
        assert np.array_equal(labels, LABELS[indices])


@pytest.mark.parametrize(
    ("cache_bytes", "decodings"), [(COUNT * SIZE * SIZE * 3, 7), (COUNT * SIZE * SIZE * 3 - 1, 21)]
)
def test_an_image_is_decoded_once_when_the_split_fits(
    folder: Path, cache_bytes: int, decodings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    decode = Examples._decode

    def counting(self: Examples, index: int) -> np.ndarray:
        nonlocal count
        count += 1
        return decode(self, index)

    monkeypatch.setattr(loading.Examples, "_decode", counting)
    examples = Examples(folder, "train", cache_bytes=cache_bytes)
    assert count == 0  # nothing is decoded by opening
    for _ in range(3):
        examples.read(np.arange(7))
    assert count == decodings


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_what_was_read_belongs_to_the_reader(folder: Path, cache_bytes: int) -> None:
    examples = Examples(folder, "train", cache_bytes=cache_bytes)
    images, labels = examples.read([3])
    images[:], labels[:] = 0, 9
    again, label = examples.read([3])
    assert np.array_equal(again[0], PIXELS[3])
    assert label[0] == LABELS[3]
    assert not examples.labels.flags.writeable


def test_examples_travel_to_another_process(folder: Path) -> None:
    examples = pickle.loads(pickle.dumps(Examples(folder, "train", cache_bytes=0)))
    assert np.array_equal(examples.read([5, 20])[0], PIXELS[[5, 20]])
    assert len(pickle.dumps(examples)) < 1000


def test_threads_may_share_the_examples(folder: Path) -> None:
    examples = Examples(folder, "train")
    orders = [np.random.default_rng(seed).permutation(COUNT) for seed in range(20)]
    with ThreadPoolExecutor(4) as pool:
        for order, (images, _) in zip(orders, pool.map(examples.read, orders), strict=True):
            assert np.array_equal(images, PIXELS[order])


@pytest.mark.parametrize("indices", [[-1], [COUNT], [0, 1, 99]])
def test_indices_outside_are_refused(folder: Path, indices: list[int]) -> None:
    with pytest.raises(IndexError, match=f"a split that holds {COUNT}"):
        Examples(folder, "train").read(indices)


def test_a_missing_shard_is_refused_by_name(folder: Path) -> None:
    (folder / "train-00002.tar").unlink()
    with pytest.raises(UserError, match=r"shard train-00002\.tar .* is missing"):
        Examples(folder, "train")


def test_a_short_shard_is_refused_by_name(folder: Path) -> None:
    path = folder / "train-00003.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"shard train-00003\.tar .* bytes instead of"):
        Examples(folder, "train")


def test_a_shard_with_another_count_is_refused_by_name(folder: Path) -> None:
    path = folder / "train-00003.tar"
    data = path.read_bytes()
    at = data.index(b"00000019.png")
    path.write_bytes(data[:at] + bytes(len(data) - at))  # same size, one example less
    with pytest.raises(UserError, match=r"shard train-00003\.tar holds 4 examples instead of the 5"):
        Examples(folder, "train")


def test_an_empty_or_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"the split val of .* is empty"):
        Examples(folder, "val")
    with pytest.raises(UserError, match="has no split 'test'; it has train and val"):
        Examples(folder, "test")  # type: ignore[arg-type]


def test_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data set in"):
        Examples(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_damaged_image_is_refused_with_its_shard(folder: Path, cache_bytes: int) -> None:
    path = folder / "train-00001.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 0xFF
    path.write_bytes(data)
    examples = Examples(folder, "train", cache_bytes=cache_bytes)
    with pytest.raises(UserError, match=r"an image of shard train-00001\.tar \(byte \d+\) cannot be decoded"):
        examples.read([5])


def test_an_image_of_another_shape_is_refused_with_its_shard(tmp_path: Path) -> None:
    grey = Image.fromarray(PIXELS[0]).convert("L")
    _save(tmp_path, write_split(tmp_path, "train", [("0", encode_png(grey), 0)], 5))
    with pytest.raises(UserError, match=r"an image of shard train-00000\.tar .* has shape \(8, 8\)"):
        Examples(tmp_path, "train").read([0])
