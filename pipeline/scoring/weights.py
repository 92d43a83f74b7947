"""Weights files of public nets: found where the user says, and known by their sha256. No net is built here.

Nothing is downloaded behind anyone's back. A path is read; a URL is fetched, because the user wrote it; a file that is
not there is a sentence that says which one it is, where it is published and where to put it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.scorer_specs import DinoScorer, InceptionScorer

_PIECE = 1 << 20  # bytes per read
_PATIENCE = 60.0  # seconds that a server may be silent


@dataclass(frozen=True)
class KnownFile:
    """A published weights file: the net it is of, its name, and the address it can be had from."""

    net: str
    name: str
    source: str


class WeightsFile(NamedTuple):
    """A file on this machine and the sha256 of its bytes (hexadecimal)."""

    path: Path
    sha256: str


def _dino(net: str, model: str) -> KnownFile:
    name = f"{model}_pretrain.pth"
    return KnownFile(f"DINOv2 {net}", name, f"https://dl.fbaipublicfiles.com/dinov2/{model}/{name}")


INCEPTION_FILE = KnownFile(
    "Inception-v3",
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
DINO_FILES: Mapping[str, KnownFile] = {
    "dinov2-vit-s-14": _dino("ViT-S/14", "dinov2_vits14"),
    "dinov2-vit-b-14": _dino("ViT-B/14", "dinov2_vitb14"),
    "dinov2-vit-l-14": _dino("ViT-L/14", "dinov2_vitl14"),
    "dinov2-vit-g-14": _dino("ViT-g/14", "dinov2_vitg14"),
}


def resolve_scorer_weights(scorer: InceptionScorer | DinoScorer, cache: Path) -> WeightsFile:
    """``resolve_weights`` of a scorer's settings."""
    known = INCEPTION_FILE if scorer.kind == "inception" else DINO_FILES[scorer.model]
    return resolve_weights(scorer.weights, sha256=scorer.sha256, known=known, cache=cache)


def resolve_weights(weights: str, *, sha256: str | None, known: KnownFile, cache: Path) -> WeightsFile:
    """The file that ``weights`` names: a path, or an http(s) URL, which is fetched into the folder ``cache`` once.

    Raises UserError when there is no such file, when the fetch fails (nothing is left behind), or when the sha256 is
    not the one expected; ``sha256`` None takes what there is.
    """
    scheme, apart, _ = weights.partition("://")
    if not apart:
        return checked_file(_present(Path(weights).expanduser(), known), sha256)
    if scheme.lower() not in ("http", "https"):
        raise UserError(f"{weights} cannot be read as {known.net} weights: name a file, or an http or https URL")
    name = Path(urlsplit(weights).path).name or known.name
    kept = cache / f"{hashlib.sha256(weights.encode()).hexdigest()[:16]}-{name}"
    if kept.is_file():
        return checked_file(kept, sha256)
    return WeightsFile(kept, _fetch(weights, kept, sha256))


def _present(path: Path, known: KnownFile) -> Path:
    if not path.is_file():
        raise UserError(
            f"there is no {known.net} weights file at {path}; get {known.name} from {known.source} and put it there, "
            "or name that URL instead of a path, since nothing is downloaded unasked"
        )
    return path


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_file(path: Path, expected: str | None) -> WeightsFile:
    """The file with its sha256. UserError when there is none, or when another sha256 was ``expected``."""
    if not path.is_file():
        raise UserError(f"there is no weights file at {path}; put it there or name another path")
    found = digest_of(path)
    if expected is not None and found != expected:
        raise UserError(
            f"{path} has the sha256 {found} and not the expected {expected}; put the right file there or correct sha256"
        )
    return WeightsFile(path, found)


def _fetch(url: str, target: Path, expected: str | None) -> str:
    """Fetch ``url``, check it, and only then let it appear as ``target``; returns its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")  # two that fetch at once do not meet
    digest = hashlib.sha256()
    try:
        with part.open("wb") as file:
            for piece in _pieces(url, verified=expected is not None):
                digest.update(piece)
                file.write(piece)
        found = digest.hexdigest()
        if expected is not None and found != expected:
            raise UserError(f"what {url} gives has the sha256 {found} and not the expected {expected}; it was not kept")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return found


def _pieces(url: str, *, verified: bool) -> Iterator[bytes]:
    """The body of ``url``. UserError unless all of it came; without a length only a sha256 (``verified``) can tell."""
    count = 0
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
            length = response.headers.get("Content-Length")
            if length is None and not response.chunked and not verified:
                raise UserError(f"{url} does not say how long its file is; give its sha256 so that it can be checked")
            while piece := response.read(_PIECE):
                count += len(piece)
                yield piece
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url} cannot be fetched, and nothing of it was kept: {error}") from error
    if length is not None and count != int(length):  # the library takes a cut connection for the end
        raise UserError(f"{url} broke off after {count} of {length} bytes, and nothing of it was kept; try again")


def read_state(path: Path, shapes: Mapping[str, Sequence[int]], known: KnownFile) -> dict[str, Tensor]:
    """Name -> tensor of a weights file, exactly those of ``shapes``, on the CPU; counters of batches are left out.

    Nothing that a pickle may hold is executed. Raises UserError when the file is of another kind or of another net.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a foreign file fails in as many ways as there are formats
        found = None
    if isinstance(found, Mapping):
        state = {name: value for name, value in found.items() if not str(name).endswith("num_batches_tracked")}
        if {name: list(getattr(value, "shape", ())) for name, value in state.items()} == {
            name: list(shape) for name, shape in shapes.items()
        }:
            return state
    raise UserError(f"{path} does not hold the {known.net} weights of {known.name}; get them from {known.source}")
