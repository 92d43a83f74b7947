"""Where weights come from: a file, or a URL that a person wrote; a real server, and one that hangs up."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.scorer_specs import DinoScorer, InceptionScorer
from pipeline.scoring.weights import (
    DINO_FILES,
    INCEPTION_FILE,
    WeightsFile,
    digest_of,
    read_state,
    resolve_scorer_weights,
    resolve_weights,
)

BODY = bytes(range(256)) * 5000  # more than one read
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.endswith("absent.pth"):
            self.send_error(404)
            return
        self.send_response(200)
        if not self.path.endswith("endless.pth"):
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[: len(BODY) // 2] if self.path.endswith("cut.pth") else BODY)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def resolve(weights: str, cache: Path, sha256: str | None = None) -> WeightsFile:
    return resolve_weights(weights, sha256=sha256, known=INCEPTION_FILE, cache=cache)


def test_a_file_is_known_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(BODY)
    cache = tmp_path / "cache"
    assert resolve(str(tmp_path / "w.pth"), cache) == (tmp_path / "w.pth", DIGEST)
    assert resolve(str(tmp_path / "w.pth"), cache, DIGEST).sha256 == digest_of(tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"w.pth has the sha256 {DIGEST} and not the expected {'0' * 64}"):
        resolve(str(tmp_path / "w.pth"), cache, "0" * 64)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("scorer", "name", "source"),
    [
        (
            InceptionScorer(kind="inception", weights="nowhere/a.pth"),
            "weights-inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/",
        ),
        (
            DinoScorer(kind="dinov2", model="dinov2-vit-b-14", weights="nowhere/a.pth"),
            "dinov2_vitb14_pretrain.pth",
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/",
        ),
    ],
)
def test_an_absent_file_is_told_from_where_to_where(
    scorer: InceptionScorer | DinoScorer, name: str, source: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as told:
        resolve_scorer_weights(scorer, tmp_path)
    for part in (f"get {name} from {source}{name} and put it there", "nowhere/a.pth"):
        assert part in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_fetched_once(server: str, tmp_path: Path) -> None:
    found = resolve(f"{server}/some/good.pth?token=1", tmp_path / "cache", DIGEST)
    assert found.path.read_bytes() == BODY
    assert found.sha256 == DIGEST
    assert found.path.name.endswith("-good.pth")
    assert list((tmp_path / "cache").iterdir()) == [found.path]
    found.path.write_bytes(b"marked")  # so it is seen that this is what is read again
    assert resolve(f"{server}/some/good.pth?token=1", tmp_path / "cache").sha256 == digest_of(found.path)
    with pytest.raises(UserError, match="not the expected"):
        resolve(f"{server}/some/good.pth?token=1", tmp_path / "cache", DIGEST)
    assert resolve(f"{server}/other/good.pth", tmp_path / "cache").path != found.path


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("good.pth", "0" * 64, f"has the sha256 {DIGEST} and not the expected {'0' * 64}; it was not kept"),
        ("cut.pth", None, f"broke off after {len(BODY) // 2} of {len(BODY)} bytes"),
        ("cut.pth", DIGEST, "broke off after"),
        ("absent.pth", None, "cannot be fetched.* 404"),
        ("endless.pth", None, "does not say how long its file is; give its sha256"),
    ],
)
def test_nothing_of_a_bad_fetch_is_left(
    server: str, tmp_path: Path, path: str, sha256: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve(f"{server}/{path}", tmp_path, sha256)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_length_is_taken_when_its_digest_is_right(server: str, tmp_path: Path) -> None:
    assert resolve(f"{server}/endless.pth", tmp_path, DIGEST).path.read_bytes() == BODY


def test_nobody_there_and_other_schemes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be fetched"):
        resolve("http://127.0.0.1:9/w.pth", tmp_path)
    with pytest.raises(UserError, match="name a file, or an http or https URL"):
        resolve("s3://bucket/w.pth", tmp_path)
    assert list(tmp_path.iterdir()) == []


class Malicious:
    """A pickle that would write a file when it is read trustingly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return Path.write_text, (self.target, "executed")


def test_weights_are_read_without_executing_anything(tmp_path: Path) -> None:
    path, shapes = tmp_path / "w.pth", {"a.weight": (2, 3)}
    good = {"a.weight": torch.ones(2, 3), "a.num_batches_tracked": torch.tensor(0)}
    torch.save(good, path)
    assert read_state(path, shapes, INCEPTION_FILE).keys() == {"a.weight"}
    for other in ({}, {"a.weight": torch.ones(3, 2)}, good | {"b": torch.ones(1)}, [1], {"a.weight": 1}):
        torch.save(other, path)
        with pytest.raises(UserError, match="does not hold the DINOv2 ViT-S/14 weights of dinov2_vits14_pretrain"):
            read_state(path, shapes, DINO_FILES["dinov2-vit-s-14"])
    for raw in (b"not weights", pickle.dumps(Malicious(tmp_path / "proof"), protocol=2)):
        path.write_bytes(raw)
        with pytest.raises(UserError, match="does not hold"):
            read_state(path, shapes, INCEPTION_FILE)
    assert not (tmp_path / "proof").exists()
