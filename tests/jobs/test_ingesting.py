"""``rayfall ingest`` as a person types it: what it says, what it refuses in a sentence, how it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.data.verifying import verify

RAYFALL = [sys.executable, "-c", "from jobs.cli import main; main()"]


def ingest(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["ingest", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The sentence with which a user's mistake is answered."""
    answer = ingest(*arguments)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1, "one sentence on one line"
    return answer.stderr


def png(seed: int, size: int = 12) -> bytes:
    file = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes of ten images, and three images without a class beside them."""
    for number in range(20):
        path = tmp_path / "tree" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (tmp_path / "flat").mkdir()
    for number in range(3):
        (tmp_path / "flat" / f"{number}.png").write_bytes(png(number))
    return tmp_path / "tree"


def test_ingest_says_what_came_in_and_what_was_left_out(tree: Path, tmp_path: Path) -> None:
    (tree / "dog" / ".DS_Store").write_bytes(b"x")
    command = (tree, tmp_path / "data", "--size", 12, "--size", "4:raw", "--val-fraction", 0.2)
    answer = ingest(*command, "--json")
    assert answer.exit_code == 0, answer.output
    figures = json.loads(answer.stdout)
    assert figures["examples"] == {"train": 16, "val": 4}
    assert (figures["classes"], figures["forms"]) == (2, ["12-png", "4-raw"])
    assert figures["left_out"] == ["dog/.DS_Store: hidden file"]
    assert answer.stderr.splitlines()[0] == "ingest: started"
    words = ingest(*command)
    assert f"{tmp_path / 'data'}: 16 train and 4 val examples of 2 classes, stored as 12-png, 4-raw\n" in words.stdout
    assert "left out: 1\n  dog/.DS_Store: hidden file" in words.stdout
    assert words.stderr.startswith("ingest: done in "), "nothing was to be done, so nothing was started"


def test_a_data_set_of_two_shards_needs_no_cluster(tree: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from jobs.cli import app; app(sys.argv[1:], standalone_mode=False); print('ray' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "ingest", str(tree), str(tmp_path / "data")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "False"


def test_what_cannot_be_decoded_is_refused_or_counted(tree: Path, tmp_path: Path) -> None:
    (tree / "dog" / "broken.png").write_bytes(png(1)[:40])
    answer = ingest(tree, tmp_path / "data")
    assert answer.exit_code == 2
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("a file of the source cannot be decoded, 'dog/broken.png': ")
    assert "say with --max-undecodable how many may be left out" in last
    allowed = ingest(tree, tmp_path / "data", "--max-undecodable", 1, "--json")
    assert [line.split(":")[0] for line in json.loads(allowed.stdout)["left_out"]] == ["dog/broken.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("tree out --size abc", "--size abc: give a number of px, or one with an encoding such as 64:raw"),
        ("tree out --size 64:gif", "'gif' is no encoding of images here; known are png, webp, jpeg, raw"),
        ("tree out --encoding bmp", "'bmp' is no encoding of images here"),
        ("tree out --size 0", "the image size must be 1 to 4096 px, not 0"),
        ("tree out --size 64 --size 48", "48 px does not divide the largest size, 64 px"),
        ("tree out --size 64 --size 64:png", "64-png is asked for twice"),
        ("tree out --quality 101", "the quality of jpeg must be 1 to 100, not 101"),
        ("tree out --val-fraction 1.5", "the held-out fraction must be at least 0 and below 1, not 1.5"),
        ("tree out --shard-size 0", "a shard must hold at least 1 example, not 0"),
        ("tree out --max-undecodable -1", "must be at least 0, not -1"),
        ("tree", "ingest needs a DEST, a new or empty folder or s3://bucket/prefix"),
        ("nowhere out", "there is no folder and no archive at nowhere"),
        ("tree tree/out", "would lie inside its own source tree; name another place for it"),
        ("tree flat/0.png", "0.png is a file; give a folder or s3://BUCKET/PREFIX"),
        ("tree flat/0.png/below", "cannot be made: Not a directory"),
        ("tree flat", "is no data set but holds '0.png', which is not ours; name a new or empty folder"),
        ("tree ftp://host/path", "ftp://host/path is no address of data"),
        ("tree s3://bucket/data", "there are no credentials for s3://bucket/data"),
        ("s3://bucket/tree out", "there are no credentials for s3://bucket/tree"),
        ("flat out", "flat holds no training image in a class folder"),
        ("flat out --labels missing", "labels.txt has no label for '2.png'; each file needs a line FILE CLASS"),
        ("flat out --labels bad", "line 2 of labels.txt is '1.png'; it must be a file's name and its class"),
        ("flat out --labels nothing", "the labels labels.txt cannot be read: No such file or directory"),
        ("tree out --val flat", "flat holds no image with a class; give it class folders or name a file of --labels"),
        ("tree out --val flat --labels other", "flat has the class 'cow', which tree has no training image of"),
        ("tree out --val nowhere", "there is no folder and no archive at nowhere"),
        ("tree out --in-process --address auto", "--in-process works without Ray, so it takes no --address"),
        ("tree out --verify", "--verify looks at one data set; name it and nothing else"),
        ("tree --verify", "there is no data set in"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, sentence: str
) -> None:
    labels = {
        "missing": "0.png cat\n1.png dog\n",
        "bad": "0.png cat\n1.png\n2.png dog\n",
        "other": "0.png cat\n1.png dog\n2.png cow\n",
    }
    typed = arguments.split()
    if "--labels" in typed:
        if typed[-1] in labels:
            (tmp_path / "labels.txt").write_text(labels[typed[-1]])
        typed[-1] = "labels.txt"
    for name in [name for name in os.environ if name.startswith("AWS_") and "FILE" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert sentence in refused(*typed)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] in ([], [tmp_path / "out"])


def test_a_mended_mistake_may_have_the_same_place(tree: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("0.png cat\n1.png dog\n")
    command = (tmp_path / "flat", tmp_path / "out", "--labels", labels, "--val-fraction", 0)
    assert "has no label for '2.png'" in refused(*command)
    labels.write_text("0.png cat\n1.png dog\n2.png cat\n")
    assert ingest(*command).exit_code == 0


def test_verify_tells_every_fault_and_leaves_with_2(tree: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert ingest(tree, data, "--size", 12, "--size", "4:raw", "--shard-size", 6, "--in-process").exit_code == 0
    good = ingest(data, "--verify")
    assert good.exit_code == 0, good.output
    assert good.stdout.startswith(f"{data}: 8 shards, 20 examples, ")
    assert good.stdout.endswith(" bytes are as they should be\n")
    assert json.loads(ingest(data, "--verify", "--json").stdout)["faults"] == []

    shard, index = data / "12-png" / "train-00001.tar", data / "4-raw" / "val-00000.index"
    content = shard.read_bytes()
    shard.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    index.unlink()
    words = ingest(data, "--verify")
    assert (words.exit_code, len(words.stdout.splitlines())) == (2, 2)
    assert words.stdout.startswith("shard 12-png/train-00001.tar was altered")
    assert f"{data} has 2 faults, the first: shard 12-png/train-00001.tar was altered" in words.stderr
    answer = ingest(data, "--verify", "--json")
    assert answer.exit_code == 2
    first, second = json.loads(answer.stdout)["faults"]
    assert "12-png/train-00001.tar" in first
    assert "4-raw/val-00000.index" in second
    shard.write_bytes(content)
    assert f"{data} has 1 fault, the first: " in ingest(data, "--verify").stderr


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough images for seconds of work."""
    source = tmp_path / "many.tar"
    with tarfile.open(source, "w") as archive:
        for number in range(600):
            data = png(number, 48)
            member = tarfile.TarInfo(f"many/{'ab'[number % 2]}/{number}.png")
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return source


def _interrupted_and_again(source: Path, dest: Path, *options: str) -> None:
    command = [
        *RAYFALL,
        "ingest",
        str(source),
        str(dest),
        *["--size", "48", "--encoding", "webp", "--shard-size", "20"],
        *options,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == ("ingest: started\n" if "--in-process" in options else "starting Ray\n")
        while len(list(dest.glob("*-*/*.index"))) < 3:  # nothing in folders that come and go
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the command get it
        rest = process.stderr.read().removeprefix("ingest: started\n")
    assert (process.returncode, rest) == (130, "Interrupted; the same command goes on from what is stored.\n")
    written = {path: path.stat() for path in dest.rglob("*.index")}
    assert 3 <= len(written) < 30
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert sum(json.loads(again.stdout)["examples"].values()) == 600
    assert verify(dest).faults == []
    for path, status in written.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert [path for path in dest.rglob("*") if path.name.startswith((".", "INCOMPLETE"))] == []


def test_ctrl_c_leaves_with_130_and_the_same_command_goes_on(many: Path, tmp_path: Path) -> None:
    _interrupted_and_again(many, tmp_path / "data", "--in-process")


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_with_a_cluster_of_its_own_leaves_with_130_and_the_same_command_goes_on(
    many: Path, tmp_path: Path
) -> None:
    _interrupted_and_again(many, tmp_path / "data")


@pytest.mark.ray
def test_a_cluster_gives_the_same_data_set(many: Path, tmp_path: Path, ray_cluster: None) -> None:
    options = ("--size", 16, "--size", "8:raw", "--shard-size", 100, "--json")
    digests = [
        json.loads(ingest(many, tmp_path / name, *options, *more).stdout)["digest"]
        for name, more in (("here", ["--in-process"]), ("there", ["--address", _address()]))
    ]
    assert digests[0] == digests[1]


def _address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.mark.s3
def test_a_compressed_archive_reaches_a_bucket(many: Path, tmp_path: Path, s3_store: Any) -> None:
    import gzip

    (tmp_path / "many.tar.gz").write_bytes(gzip.compress(many.read_bytes(), 1))
    dest = f"s3://{s3_store.bucket()}/many"
    answer = ingest(tmp_path / "many.tar.gz", dest, "--size", 8, "--shard-size", 300, "--in-process")
    assert answer.exit_code == 0, answer.output
    assert ingest(dest, "--verify").exit_code == 0


def test_lines_show_progress_and_time_left_and_of_the_listing_only_where_it_takes_long() -> None:
    from io import StringIO

    from jobs.ingesting import Told
    from jobs.progress import Lines

    stream, now = StringIO(), [0.0]
    told = Told(Lines(stream, every=15.0, clock=lambda: now[0]), clock=lambda: now[0])
    told.listed(1 << 20, 100 << 20)
    assert stream.getvalue() == ""
    for now[0], done in ((5.0, 10), (25.0, 30)):
        told.listed(done << 20, 100 << 20)
    now[0] = 60.0
    told.progress(2000, 10_000)  # what an earlier ingest had written
    for now[0], done in ((80.0, 4000), (100.0, 6000)):
        told.progress(done, 10_000)
    told.finished()
    assert stream.getvalue().splitlines() == [
        "listing (MB): started",
        "listing (MB): 30 of 100, 1 min 10 s left",
        "listing (MB): done in 1 min 00 s",
        "ingest: started",
        "ingest: 4000 of 10000, 1 min 00 s left",
        "ingest: 6000 of 10000, 40 s left",
        "ingest: done in 1 min 40 s",
    ]
