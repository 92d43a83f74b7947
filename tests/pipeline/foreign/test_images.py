"""Images from folders, tars, shards, data sets and .npz: every pixel arrives, and what does not fit is named."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from pipeline.foreign.images import Fit, Images, Pixels, is_data_set, open_images
from pipeline.foreign.npz_images import Mapped, Pixelled

SIZE, COUNT = 8, 11
ROWS = np.arange(COUNT)


def pixels(count: int = COUNT, size: int = SIZE, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def encoded(image: npt.NDArray[np.uint8], form: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    return file.getvalue()


def read(images: Images, fit: Fit | None = None, block: int = 4) -> Pixels:
    """All images, each block read on the far side of a pickle, as another process would."""
    blocks = images.blocks(len(images), block, fit or Fit(images.size))
    parts = [pickle.loads(pickle.dumps(one)).read() for one in blocks]
    assert [len(part) for part in parts[:-1]] == [block] * (len(parts) - 1)
    return np.concatenate(parts)


def same_set(a: Pixels, b: Pixels) -> bool:
    return sorted(one.tobytes() for one in a) == sorted(one.tobytes() for one in b)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images in three class folders."""
    for number, image in enumerate(pixels()):
        path = tmp_path / "tree" / "abc"[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return tmp_path / "tree"


def opened(path: Path, **options: Any) -> Images:
    return open_images(str(path), scratch=path.parent / "scratch", **options)


def refused(path: Path, fit: Fit | None = None, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read(opened(path, **options), fit)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_tree_gives_all_images_mixed_with_the_folders_as_labels(tree: Path) -> None:
    images = opened(tree)
    assert (len(images), images.size, images.lossy, images.split) == (COUNT, SIZE, False, None)
    found = read(images)
    assert same_set(found, pixels())
    assert images.labels is not None
    order = [next(at for at in ROWS if np.array_equal(pixels()[at], one)) for one in found]
    assert images.labels.tolist() == [at % 3 for at in order]
    assert sorted(images.labels.tolist()) != images.labels.tolist(), "classes must be mixed"


def test_a_flat_folder_has_no_labels_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, image in enumerate(pixels()):
        (folder / f"{number}.png").write_bytes(encoded(image))
    (folder / "arguments.txt").write_text("--steps 50")
    (folder / ".hidden.png").write_bytes(b"")
    images = opened(folder)
    assert len(images) == COUNT
    assert images.labels is None
    assert sorted(images.left_out) == [".hidden.png: hidden file", "arguments.txt: no image by its suffix"]


def tar_of(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_a_tar_packed_or_not_gives_all_images(tmp_path: Path, name: str, mode: str) -> None:
    members = {f"{number}.png": encoded(image) for number, image in enumerate(pixels())}
    assert same_set(read(opened(tar_of(tmp_path / name, members, mode))), pixels())


def shard(start: int, stop: int) -> dict[str, bytes]:
    members = {}
    for number in range(start, stop):
        members[f"{number:05d}.png"] = encoded(pixels()[number])
        members[f"{number:05d}.cls"] = str(number % 4).encode()
        members[f"{number:05d}.json"] = b"{}"
    return members


def test_shards_one_or_a_folder_of_them_have_the_labels_of_their_cls_members(tmp_path: Path) -> None:
    single = opened(tar_of(tmp_path / "one.tar", shard(0, COUNT)))
    folder = tmp_path / "shards"
    folder.mkdir()
    tar_of(folder / "00000.tar", shard(0, 6))
    tar_of(folder / "00001.tar", shard(6, COUNT))
    for images in (single, opened(folder)):
        assert same_set(read(images), pixels())
        assert images.labels is not None
        by_image = {one.tobytes(): label for one, label in zip(read(images), images.labels.tolist(), strict=True)}
        assert [by_image[one.tobytes()] for one in pixels()] == [number % 4 for number in ROWS]


def test_shards_without_labels_are_welcome(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(2):
        tar_of(folder / f"{number}.tar", {"0.png": encoded(pixels()[number])})
    images = opened(folder)
    assert images.labels is None
    assert same_set(read(images), pixels()[:2])


def stored(path: Path, save: Callable[..., None] = np.savez, **arrays: npt.NDArray[Any]) -> Path:
    save(path, **arrays)
    return path


@pytest.mark.parametrize(("save", "kind"), [(np.savez, "Stretch"), (np.savez_compressed, "Pixelled")])
def test_an_npz_gives_its_images_in_order_mapped_or_streamed(
    tmp_path: Path, save: Callable[..., None], kind: str
) -> None:
    path = stored(tmp_path / "samples.npz", save, arr_0=pixels(), arr_1=ROWS % 5)
    images = opened(path)
    assert np.array_equal(read(images), pixels())
    assert images.labels is not None
    assert images.labels.tolist() == (ROWS % 5).tolist()
    assert {type(block).__name__ for block in images.blocks(5, 2, Fit(SIZE))} == {kind}
    assert sum(len(block.read()) for block in images.blocks(5, 2, Fit(SIZE))) == 5


def test_a_mapped_npz_is_sent_as_its_place_and_not_as_its_pixels(tmp_path: Path) -> None:
    path = stored(tmp_path / "samples.npz", arr_0=pixels(200))
    block = next(iter(opened(path).blocks(200, 200, Fit(SIZE))))
    assert len(pickle.dumps(block)) < 2000 < pixels(200).nbytes
    assert Mapped.__name__ in repr(block)
    assert Pixelled.__name__ not in repr(block)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    forms = make_forms([(16, "png"), (8, "raw")])
    ingest_drawn(tmp_path / "data", seed=0, forms=forms, train=24, val=6, shard_size=10)
    return tmp_path / "data"


def test_a_data_set_gives_a_split_at_a_stored_size_and_others_only_when_asked(data: Path) -> None:
    images = opened(data, split="val")
    assert (len(images), images.size, images.split) == (6, 16, "val")
    whole, _ = Examples(data, "val").read(range(6))
    assert np.array_equal(read(images), whole)
    assert np.array_equal(read(images, Fit(8)), Examples(data, "val", size=8).read(range(6))[0])
    assert "--resize" in refused(data, Fit(4), split="val")
    assert np.array_equal(read(images, Fit(4, "box")), Examples(data, "val", size=4).read(range(6))[0])
    bicubic = np.stack([np.asarray(Image.fromarray(one).resize((4, 4), Image.Resampling.BICUBIC)) for one in whole])
    assert np.array_equal(read(images, Fit(4, "bicubic")), bicubic)
    assert images.made(Fit(4, "box")).endswith("box mean to 4 px")
    assert images.made(Fit(4, "bicubic")).endswith("stored as 16-png; bicubic to 4 px (Pillow)")


def test_a_data_set_without_a_split_says_what_it_holds(data: Path) -> None:
    message = refused(data, option="--sample-split")
    assert "24 of train and 6 of val; say --sample-split train or --sample-split val" in message


def test_digests_follow_the_bytes_and_not_the_place(tree: Path, data: Path, tmp_path: Path) -> None:
    before = opened(tree).digest
    moved = shutil.copytree(tree, tmp_path / "elsewhere")
    assert opened(moved).digest == before
    path = next(moved.rglob("*.png"))
    path.write_bytes(encoded(pixels(seed=1)[0]))
    assert opened(moved).digest != before
    assert opened(data, split="train").digest == opened(data, split="val").digest == load_manifest(data).digest
    archives = [stored(tmp_path / f"{seed}.npz", arr_0=pixels(seed=seed)) for seed in (0, 1)]
    assert opened(archives[0]).digest != opened(archives[1]).digest


def test_another_size_is_refused_by_name_or_resized_by_the_filter_that_was_said(tree: Path) -> None:
    (tree / "a" / "large.png").write_bytes(encoded(pixels(1, 2 * SIZE)[0]))
    assert "a/large.png is of 16 x 16 px, where all images must be of 8 x 8 px" in refused(tree, Fit(SIZE))
    images = opened(tree)
    assert read(images, Fit(SIZE, "box")).shape == (COUNT + 1, SIZE, SIZE, 3)
    means = pixels(1, 2 * SIZE)[0].reshape(SIZE, 2, SIZE, 2, 3).mean(axis=(1, 3))
    smallest = min(np.abs(one - means).max() for one in read(images, Fit(SIZE, "box")))
    assert smallest <= 0.5, "box is the mean of the block, rounded"


def test_images_that_are_no_squares_are_refused_and_cut_to_the_centre_with_a_filter(tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    wide = np.zeros((8, 12, 3), dtype=np.uint8)
    wide[:, 2:10] = 200
    (folder / "wide.png").write_bytes(encoded(wide))
    assert "wide.png is of 12 x 8 px" in refused(folder)
    images = opened(folder)
    assert (read(images, Fit(8, "box")) == 200).all()
    told = "cut to the centre square where they were none; box to 8 px (Pillow) where they were of another size"
    assert images.changed(Fit(8, "box")) == images.made(Fit(8, "box")) == told
    assert images.changed(Fit(8)) is None


def test_jpeg_is_lossy_and_webp_may_be(tree: Path) -> None:
    (tree / "a" / "000.png").rename(tree / "a" / "000.webp")
    assert opened(tree).lossy is None
    (tree / "a" / "photo.jpg").write_bytes(encoded(pixels()[0], "jpeg"))
    assert opened(tree).lossy is True


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def damaged_npz(path: Path) -> Path:
    """A compressed member that ends early, whose directory is in order."""
    np.savez_compressed(path, arr_0=pixels())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("arr_0.npy").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 600 : offset + 700] = bytes(100)
    return write(path, bytes(data))


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent folder": (lambda at: at / "nothing", "there is no folder and no archive at"),
    "absent npz": (lambda at: at / "nothing.npz", "there is no file"),
    "empty folder": (lambda at: at, "there is no image in"),
    "text file": (lambda at: write(at / "notes.txt", b"x"), "neither a folder nor .tar, .tar.gz or .npz"),
    "npz of text": (lambda at: write(at / "x.npz", b"no zip"), "x.npz cannot be read as an .npz"),
    "npz without images": (lambda at: stored(at / "x.npz", mu=np.zeros(3)), "holds no images: they are arr_0"),
    "npz of floats": (lambda at: stored(at / "x.npz", arr_0=np.zeros((2, 4, 4, 3))), "is float64 (2, 4, 4, 3)"),
    "npz in planes": (lambda at: stored(at / "x.npz", arr_0=np.zeros((2, 3, 4, 4), np.uint8)), "(2, 3, 4, 4)"),
    "npz of no image": (lambda at: stored(at / "x.npz", arr_0=np.zeros((0, 4, 4, 3), np.uint8)), "N above 0"),
    "npz of columns": (lambda at: stored(at / "x.npz", arr_0=np.asfortranarray(pixels())), "in C order"),
    "npz of objects": (lambda at: stored(at / "x.npz", arr_0=np.array([{}, []], dtype=object)), "is object"),
    "npz of rectangles": (
        lambda at: stored(at / "x.npz", arr_0=np.zeros((2, 4, 6, 3), np.uint8)),
        "6 x 4 px; cut them to squares",
    ),
    "damaged npz": (lambda at: damaged_npz(at / "x.npz"), "x.npz"),
    "cut tar": (
        lambda at: write(at / "x.tar", tar_of(at / "y.tar", {"0.png": encoded(pixels()[0])}).read_bytes()[:700]),
        "x.tar",
    ),
    "undecodable": (lambda at: write(at / "broken.png", b"no image"), "broken.png cannot be decoded"),
    "cut image": (lambda at: write(at / "cut.png", encoded(pixels()[0])[:-60]), "cut.png cannot be decoded"),
    "array of text": (lambda at: write(at / "x.npy", b"\x93NUMPY"), "x.npy cannot be decoded"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(case: str, tmp_path: Path) -> None:
    make, expected = WRONG[case]
    path = make(tmp_path)
    assert expected in refused(path.parent if path.suffix in (".png", ".npy") else path)


@pytest.mark.parametrize("labels", [np.arange(3), np.zeros(COUNT)])
def test_labels_of_an_npz_must_be_one_integer_for_each_image(tmp_path: Path, labels: npt.NDArray[Any]) -> None:
    images = opened(stored(tmp_path / "x.npz", arr_0=pixels(), arr_1=labels))
    with pytest.raises(UserError, match="labels are integers, one for each of the 11 images"):
        _ = images.labels


def test_a_folder_with_somebody_elses_manifest_is_a_folder(tree: Path, data: Path) -> None:
    (tree / "manifest.json").write_text('{"name": "an app"}')
    assert not is_data_set(str(tree))
    assert len(opened(tree)) == COUNT
    assert is_data_set(str(data))


@pytest.mark.s3
def test_a_store_gives_what_a_folder_does(tree: Path, data: Path, tmp_path: Path, s3_store: Any) -> None:
    client, bucket = s3_store.client(), s3_store.bucket()
    shards = tar_of(tmp_path / "shards.tar", shard(0, COUNT))
    for root in (tree, data):
        for path in root.rglob("*.*"):
            if path.is_file():
                name = f"{root.name}/{path.relative_to(root)}"
                client.put_object(Bucket=bucket, Key=name, Body=path.read_bytes())
    client.put_object(Bucket=bucket, Key="shards.tar", Body=shards.read_bytes())
    cases: list[tuple[Path, dict[str, Any]]] = [(tree, {}), (shards, {}), (data, {"split": "val"})]
    for here, options in cases:
        there = open_images(f"s3://{bucket}/{here.name}", scratch=tmp_path / "scratch", **options)
        local = opened(here, **options)
        assert np.array_equal(read(there), read(local))
        assert there.digest == local.digest
        assert there.labels is not None
        assert local.labels is not None
        assert there.labels.tolist() == local.labels.tolist()
    with pytest.raises(UserError, match="no object"):
        open_images(f"s3://{bucket}/nothing", scratch=tmp_path)
    with pytest.raises(UserError, match="get the file to this machine"):
        open_images(f"s3://{bucket}/x.npz", scratch=tmp_path)
