"""An address turns into a data set at once or not at all, and nothing of another's is touched."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.indices import encode_index
from pipeline.data.manifest import MANIFEST_NAME, SPLITS, Form, Manifest, SplitName, Undecodable, load_manifest
from pipeline.data.publishing import MARKER, SCRATCH, Request, Written, WrittenShard, publish
from pipeline.data.shards import ShardWriter
from pipeline.errors import UserError
from pipeline.objects import Objects, open_objects

FORMS = (Form(size=8, encoding="jpeg", quality=90), Form(size=4, encoding="raw"))
NUMBERS: dict[str, int | float | str] = {"shard_size": 3, "val_fraction": 0.1}
REQUEST = Request("folder", "tree", "0" * 64, FORMS, "some way", NUMBERS)
BOTH = [f"{form.name}/train-0000{number}.tar" for form in FORMS for number in (0, 1)]


def _write(objects: Objects) -> Written:
    """Two shards of two examples in each form, none held out."""
    folder = Path(objects.address)
    splits: dict[SplitName, list[tuple[WrittenShard, ...]]] = {split: [] for split in SPLITS}
    for number in range(2):
        forms = []
        for form in FORMS:
            path = folder / form.name / f"train-0000{number}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            with ShardWriter(path, f"{form.name}/{path.name}", form.encoding) as writer:
                for key in ("0", "1"):
                    writer.add(key, bytes(48), 0)
                gone = Undecodable(name=f"z{number}", reason="cut")
                index = writer.finish(lossy=number == 1, undecodable=[gone])
            data = encode_index(index)
            path.with_suffix(".index").write_bytes(data)
            forms.append(WrittenShard(index.head, f"{len(data):064x}"))
        splits["train"].append(tuple(forms))
    return Written(("a",), splits, (Undecodable(name="a", reason="hidden"),))


def _publish(folder: Path, request: Request = REQUEST) -> Manifest:
    objects = open_objects(folder)
    return publish(objects, request, lambda: _write(objects))


def _never() -> Written:
    raise AssertionError("written again")


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_new_folder_becomes_a_data_set(tmp_path: Path) -> None:
    dest = tmp_path / "some" / "where"
    manifest = _publish(dest)
    assert load_manifest(dest) == manifest
    assert (manifest.request, manifest.forms, manifest.resize, manifest.classes) == (NUMBERS, FORMS, "some way", ("a",))
    assert manifest.source.model_dump() == {"kind": "folder", "name": "tree", "lossy": True, "fingerprint": "0" * 64}
    assert [shard.name for form in FORMS for shard in manifest.shards("train", form)] == BOTH
    assert {name: split.counts for name, split in manifest.splits.items()} == {"train": (2, 2), "val": ()}
    assert [item.name for item in manifest.undecodable] == ["a", "z0", "z1"]
    indices = [name.replace(".tar", ".index") for name in BOTH]
    assert _names(dest) == sorted([*BOTH, *indices, MANIFEST_NAME])


def test_an_equal_request_is_answered_by_what_is_there(tmp_path: Path) -> None:
    first = _publish(tmp_path)
    assert publish(open_objects(tmp_path), REQUEST, _never) == first


CHANGES = [
    ({"kind": "tar"}, "kind of source 'folder' instead of 'tar'"),
    ({"name": "other"}, "source 'tree' instead of 'other'"),
    ({"forms": FORMS[:1]}, "forms 8-jpeg of quality 90 and 4-raw instead of 8-jpeg of quality 90"),
    ({"resize": "another way"}, "way of resizing 'some way' instead of 'another way'"),
    ({"numbers": {**NUMBERS, "shard_size": 4}}, "shard_size 3 instead of 4"),
    ({"numbers": {"seed": 1, "val_fraction": 0.1}}, "seed None instead of 1, shard_size 3 instead of None"),
    ({"fingerprint": "1" * 64}, "an earlier content of 'tree'"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_a_different_request_is_refused_naming_what_differs(
    tmp_path: Path, change: dict[str, Any], message: str, finished: bool
) -> None:
    if finished:
        _publish(tmp_path)
    else:
        _begin(tmp_path)
    before = _names(tmp_path)
    what = "a data set" if finished else "the beginning of a data set"
    with pytest.raises(UserError, match=f"already holds {what} with {message}; name another folder or remove it"):
        publish(open_objects(tmp_path), REQUEST._replace(**change), _never)
    assert _names(tmp_path) == before


def _begin(folder: Path) -> None:
    """A writer that was stopped after its shards."""
    objects = open_objects(folder)

    def stop() -> Written:
        _write(objects)
        (folder / SCRATCH).mkdir()
        (folder / SCRATCH / "half").write_bytes(b"x")
        (folder / FORMS[0].name / f".{'0' * 32}.part").write_bytes(b"half an index")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(objects, REQUEST, stop)


def test_what_was_begun_is_gone_on_with_and_swept(tmp_path: Path) -> None:
    whole = _publish(tmp_path / "whole")
    _begin(tmp_path / "data")
    names = _names(tmp_path / "data")
    assert MARKER in names
    assert MANIFEST_NAME not in names
    assert {"8-jpeg/train-00000.tar", f"{SCRATCH}/half"} < set(names)
    assert _publish(tmp_path / "data") == whole
    assert _names(tmp_path / "data") == _names(tmp_path / "whole")
    assert not (tmp_path / "data" / SCRATCH).exists()


def test_a_mistake_that_is_found_before_the_first_shard_leaves_the_address_free(tmp_path: Path) -> None:
    def refuse() -> Written:
        (tmp_path / SCRATCH).mkdir()
        raise UserError("no images")

    with pytest.raises(UserError, match="no images"):
        publish(open_objects(tmp_path), REQUEST._replace(name="other"), refuse)
    assert list(tmp_path.iterdir()) == []
    _begin(tmp_path)
    (tmp_path / SCRATCH / "half").unlink()
    (tmp_path / SCRATCH).rmdir()
    with pytest.raises(UserError, match="no images"):
        publish(open_objects(tmp_path), REQUEST, refuse)
    assert MARKER in _names(tmp_path)


def test_stopping_between_manifest_and_end_leaves_a_data_set(tmp_path: Path) -> None:
    first = _publish(tmp_path)
    names = _names(tmp_path)
    (tmp_path / MARKER).touch()
    (tmp_path / SCRATCH / "shard").mkdir(parents=True)
    assert publish(open_objects(tmp_path), REQUEST, _never) == first
    assert _names(tmp_path) == names
    assert not (tmp_path / SCRATCH).exists()


@pytest.mark.parametrize("name", ["holiday.jpg", "8-jpeg/train-00000.tar", ".hidden", f"{SCRATCH}/theirs", "a/b/c"])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UserError, match=f"is no data set but holds '{name}', which is not ours; name a new or empty"):
        publish(open_objects(tmp_path), REQUEST, _never)
    assert (tmp_path / name).read_bytes() == b"precious"
    assert _names(tmp_path) == [name]


def test_files_of_others_are_left_alone_beside_our_own(tmp_path: Path) -> None:
    _begin(tmp_path)
    (tmp_path / "8-jpeg" / "holiday.jpg").write_bytes(b"precious")
    before = _names(tmp_path)
    with pytest.raises(UserError, match=r"holds '8-jpeg/holiday\.jpg' beside an unfinished data set; move it"):
        publish(open_objects(tmp_path), REQUEST, _never)
    assert _names(tmp_path) == before


def test_hidden_files_of_a_desktop_do_not_matter_to_a_finished_or_begun_data_set(tmp_path: Path) -> None:
    _begin(tmp_path)
    hidden = [tmp_path / SCRATCH / "theirs.part", tmp_path / ".DS_Store", tmp_path / "8-jpeg" / ".DS_Store"]
    for path in hidden:
        path.write_bytes(b"")
    first = _publish(tmp_path)
    assert [path.exists() for path in hidden] == [False, True, True]
    (tmp_path / SCRATCH).mkdir()  # somebody's own, for all we know: the data set is finished
    assert publish(open_objects(tmp_path), REQUEST, _never) == first
    assert (tmp_path / SCRATCH).exists()


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"5"])
def test_a_marker_that_cannot_be_read_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MARKER).write_bytes(text)
    with pytest.raises(UserError, match=f"{MARKER} cannot be read; remove it"):
        publish(open_objects(tmp_path), REQUEST, _never)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is a file; give a folder"):
        _publish(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made: Not a directory"):
        _publish(tmp_path / "file" / "below")


def test_two_at_once_write_once(tmp_path: Path) -> None:
    objects = open_objects(tmp_path)
    begun, go, results = threading.Event(), threading.Event(), list[Manifest]()
    writes = 0

    def write() -> Written:
        nonlocal writes
        writes += 1
        begun.set()
        assert go.wait(10)
        return _write(objects)

    def run() -> None:
        results.append(publish(objects, REQUEST, write))

    threads = [threading.Thread(target=run) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert writes == 1
    assert results[0] == results[1]


def _upload(objects: Objects, folder: Path) -> Written:
    """As ``_write``, below another address."""
    written = _write(open_objects(folder))
    for name in _names(folder):  # which are moved, where they can be
        objects.upload(name, folder / name)
    return written


@pytest.mark.s3
def test_in_a_bucket_too_one_writes_and_who_waited_is_given_its_data_set_or_refused(
    s3_store: Any, tmp_path: Path
) -> None:
    address = f"s3://{s3_store.bucket()}/set"
    writes, go_on = threading.Event(), threading.Event()

    def write() -> Written:
        writes.set()
        assert go_on.wait(60)
        return _upload(open_objects(address), tmp_path)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(publish, open_objects(address), REQUEST, write)
        assert writes.wait(60)
        others = [
            pool.submit(publish, open_objects(address), request, _never)
            for request in (REQUEST, REQUEST._replace(name="other"))
        ]
        with pytest.raises(TimeoutError):
            others[0].result(timeout=6)  # longer than it takes to see that the first one lives
        go_on.set()
        assert others[0].result() == first.result()
        with pytest.raises(UserError, match="already holds a data set with source 'tree' instead of 'other'"):
            others[1].result()
    found = [name for name, _ in open_objects(address).names()]
    assert found == sorted([MANIFEST_NAME, *BOTH, *(name.replace(".tar", ".index") for name in BOTH)])
