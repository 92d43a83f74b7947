"""One shard: a function of its job, in every form at once, written once, and never half there."""

from __future__ import annotations

import hashlib
import io
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import writing
from pipeline.data.encoding import box_means, decode_image
from pipeline.data.indices import ShardIndex, parse_index
from pipeline.data.listings import Listed
from pipeline.data.manifest import SPLITS, Form, Undecodable
from pipeline.data.writing import DrawnContent, FileContent, ShardJob, Square, write_shard, write_shards, written_shard
from pipeline.errors import UserError
from pipeline.fan_out import in_turn
from pipeline.objects import open_objects

LARGE, SMALL = Form(size=12, encoding="png"), Form(size=4, encoding="raw")
FORMS = (LARGE, Form(size=12, encoding="webp"), SMALL)


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def job(tmp_path: Path) -> ShardJob:
    """Five images of which the third is none."""
    (tmp_path / "source").mkdir()
    files = []
    for number in range(5):
        data = b"no image" if number == 2 else _png(number)
        (tmp_path / "source" / f"{number}.png").write_bytes(data)
        listed = Listed(f"ant/{number}.png", f"{number}.png", 0, len(data))
        files.append((f"{number:08d}", listed, number % 3))
    content = FileContent(str(tmp_path / "source"), tuple(files))
    return ShardJob(str(tmp_path / "data"), FORMS, "train", 7, content, max_undecodable=1)


def _index(folder: Path, form: Form) -> ShardIndex:
    return parse_index((folder / form.name / "train-00007.index").read_bytes(), "index")


def _pixels(folder: Path, form: Form) -> list[np.ndarray]:
    data = (folder / form.name / "train-00007.tar").read_bytes()
    spans = [(int(row["offset"]), int(row["length"])) for row in _index(folder, form).rows]
    return [decode_image(data[begin : begin + length], form, form.size) for begin, length in spans]


def _files(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder: inode, time of change and bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_shard_is_written_in_every_form_and_described(job: ShardJob, tmp_path: Path) -> None:
    written = write_shard(job)
    folder = tmp_path / "data"
    names = {f"{form.name}/train-00007.{kind}" for form in FORMS for kind in ("tar", "index")}
    assert set(_files(folder)) == names
    for form, shard in zip(FORMS, written, strict=True):
        data = (folder / shard.head.shard).read_bytes()
        assert shard.head.shard == f"{form.name}/train-00007.tar"
        assert (shard.head.bytes, shard.head.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        index = (folder / form.name / "train-00007.index").read_bytes()
        assert hashlib.sha256(index).hexdigest() == shard.index_sha256
        assert shard.head.undecodable == (Undecodable(name="ant/2.png", reason="not an image of a known format"),)


def test_all_forms_hold_the_same_examples_and_small_ones_are_box_means(job: ShardJob, tmp_path: Path) -> None:
    write_shard(job)
    large, webp, small = (_pixels(tmp_path / "data", form) for form in FORMS)
    sources = [np.asarray(Image.open(io.BytesIO(_png(number)))) for number in (0, 1, 3, 4)]
    assert np.array_equal(large, sources)
    assert np.array_equal(webp, sources)
    assert np.array_equal(small, [np.asarray(box_means(Image.fromarray(pixels), 3)) for pixels in sources])
    for form in FORMS:
        assert _index(tmp_path / "data", form).rows["label"].tolist() == [0, 1, 0, 1]


def test_every_image_is_decoded_once(job: ShardJob, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    decode = writing.decode_square
    monkeypatch.setattr(writing, "decode_square", lambda data, size: (calls.append(size), decode(data, size))[1])
    write_shard(job)
    assert calls == [12] * 5


def test_a_shard_that_is_there_is_not_written_again(job: ShardJob, tmp_path: Path) -> None:
    first = write_shard(job)
    before = _files(tmp_path / "data")
    shutil.rmtree(tmp_path / "source")
    assert write_shard(job) == first
    assert _files(tmp_path / "data") == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", ["no index", "cut index", "cut shard", "no shard", "index of another"])
def test_a_shard_that_is_not_whole_is_written_again(job: ShardJob, tmp_path: Path, form: Form, damage: str) -> None:
    first, folder = write_shard(job), tmp_path / "data"
    before = {name: data for name, (_, _, data) in _files(folder).items()}
    shard, index = (folder / form.name / f"train-00007.{kind}" for kind in ("tar", "index"))
    match damage:
        case "no index":
            index.unlink()
        case "cut index":
            index.write_bytes(index.read_bytes()[:-1])
        case "cut shard":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "no shard":
            shard.unlink()
        case "index of another":
            index.write_bytes(index.read_bytes().replace(b"00007", b"00008"))
    assert written_shard(open_objects(folder), job) is None
    assert write_shard(job) == first
    assert {name: data for name, (_, _, data) in _files(folder).items()} == before


@dataclass(frozen=True)
class Stopping:
    """Images that end in an error."""

    content: FileContent
    error: type[BaseException]

    def __len__(self) -> int:
        return len(self.content)

    def squares(self, size: int) -> Iterator[Square | Undecodable]:
        yield from self.content.squares(size)
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_shard_leaves_nothing(job: ShardJob, tmp_path: Path, error: type[BaseException]) -> None:
    assert isinstance(job.content, FileContent)
    with pytest.raises(error):
        write_shard(replace(job, content=Stopping(job.content, error)))
    assert _files(tmp_path / "data") == {}


def test_more_than_the_allowed_undecodable_images_stop_the_shard(job: ShardJob, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be decoded, 'ant/2\.png': not an image .* --max-undecodable"):
        write_shard(replace(job, max_undecodable=0))
    (tmp_path / "source" / "4.png").write_bytes(bytes(len(_png(4))))
    with pytest.raises(UserError, match=r"more than the 1 files that --max-undecodable allows .* 'ant/2\.png'"):
        write_shard(job)
    assert _files(tmp_path / "data") == {}


def test_the_allowance_is_for_all_shards_together(job: ShardJob, tmp_path: Path) -> None:
    jobs = [replace(job, number=number) for number in range(3)]
    objects = open_objects(job.address)
    with pytest.raises(UserError, match="more than the 2 files"):
        write_shards(objects, [replace(one, max_undecodable=2) for one in jobs], 2, in_turn, None)
    splits = write_shards(objects, jobs, 3, in_turn, None)
    assert [len(splits[split]) for split in SPLITS] == [3, 0]


def test_progress_begins_with_what_was_there(job: ShardJob) -> None:
    jobs, told = [replace(job, number=number) for number in range(4)], list[tuple[int, int]]()
    write_shard(jobs[1])
    write_shards(open_objects(job.address), jobs, 4, in_turn, lambda done, total: told.append((done, total)))
    assert told == [(5, 20), (10, 20), (15, 20), (20, 20)]
    told.clear()
    write_shards(open_objects(job.address), jobs, 4, in_turn, lambda done, total: told.append((done, total)))
    assert told == [(20, 20)]


def test_a_disk_that_takes_no_more_is_said_and_leaves_no_shard(job: ShardJob, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # bytes of a file
    try:
        with pytest.raises(UserError, match=r"shards cannot be written in .*: File too large; make room there"):
            write_shard(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _files(tmp_path / "data") == {}


def test_drawn_images_have_the_labels_of_the_sorted_classes(tmp_path: Path) -> None:
    from pipeline.data.drawn import CLASSES, draw

    form = Form(size=16, encoding="png")
    write_shard(ShardJob(str(tmp_path), (form,), "train", 7, DrawnContent(3, 40, 45, 30), 0))
    for place, (pixels, row) in enumerate(zip(_pixels(tmp_path, form), _index(tmp_path, form).rows, strict=True)):
        expected, label = draw(3, 40 + place, 16)
        assert np.array_equal(pixels, expected)
        assert sorted(CLASSES)[row["label"]] == CLASSES[label]
    assert b"00000010.png" in (tmp_path / "16-png" / "train-00007.tar").read_bytes()
