"""Row 18: a name in an archive, a manifest or a commit is never used as a path that leads out of its folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.ingest import ingest, make_forms
from pipeline.errors import UserError
from pipeline.foreign.images import open_images
from pipeline.inside import stays_inside
from pipeline.storage import open_storage

pytestmark = pytest.mark.faults

SETTINGS: dict[str, Any] = {"forms": make_forms([(8, "raw")]), "val_fraction": 0.0, "shard_size": 16}
OUTSIDE = [
    "../up.png",
    "a/../../up.png",
    "a/b/../../../up.png",
    "..",
    "/{root}/absolute.png",
    "..\\up.png",
    "a/..\\..\\x.png",
]
ODD = ["a/with\0nul.png", "a/" + "long" * 60 + ".png", "a/./b/dots.png", "a//double.png", "a/..hidden..png"]
LINKS = [(tarfile.SYMTYPE, "../../etc"), (tarfile.LNKTYPE, "../up.png"), (tarfile.SYMTYPE, "/etc/passwd")]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def archive_of(path: Path, name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "", shard: bool = False) -> Path:
    """A tar of two good images and one of the given name, or link of the given target."""
    path.parent.mkdir(parents=True, exist_ok=True)
    good = ["c.png", "c.cls", "d.png", "d.cls"] if shard else ["a/c.png", "b/d.png"]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in [*good, name]:
            info, data = tarfile.TarInfo(member), b"0" if member.endswith(".cls") else png()
            if member == name:
                info.type, info.linkname = kind, target
            info.size = len(data) if info.type == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def files_below(folder: Path) -> set[str]:
    """Everything below a folder, also where links lead."""
    return {str(path) for path in folder.rglob("*")}


def cases(root: Path) -> list[tuple[str, bytes, str]]:
    regular = [(name.format(root=str(root).lstrip("/")), tarfile.REGTYPE, "") for name in (*OUTSIDE, *ODD)]
    return regular + [("a/link.png", kind, target) for kind, target in LINKS]


def test_archives_write_nothing_outside(tmp_path: Path, record_figure: Any) -> None:
    refused = left = 0
    outside: set[str] = set()
    for number, (name, kind, target) in enumerate(cases(tmp_path / "outside")):
        for shard in (False, True):
            place = tmp_path / f"case-{number}-{shard}"
            source = archive_of(place / "source" / "train-0.tar", name, kind=kind, target=target, shard=shard)
            before = files_below(tmp_path)
            try:
                manifest = ingest(source.parent if shard else source, place / "set", **SETTINGS)
                left += len(manifest.undecodable) > 0
            except UserError:
                refused += 1
            written = files_below(tmp_path) - before
            outside |= {path for path in written if not path.startswith(str(place / "set"))}
    assert outside == set()
    assert refused >= 2 * len(OUTSIDE)
    count = 2 * len(cases(tmp_path))
    record_figure(
        18,
        "names and links in tars that lead outside",
        f"files outside 0 of {count}; {refused} refused, {left} left out",
    )


def test_the_same_archives_write_outside_where_they_are_unpacked(tmp_path: Path, record_figure: Any) -> None:
    outside = 0
    for number, (name, kind, target) in enumerate(cases(tmp_path / "outside")):
        place = tmp_path / f"case-{number}"
        source, inside = archive_of(place / "x.tar", name, kind=kind, target=target), place / "a/b/c"
        inside.mkdir(parents=True)
        before = files_below(tmp_path)
        with tarfile.open(source) as archive, contextlib.suppress(OSError, ValueError, KeyError):
            archive.extractall(inside, filter="fully_trusted")
        written = files_below(tmp_path) - before
        outside += any(not path.startswith(str(inside)) or os.path.islink(path) for path in written)
    assert outside >= 5
    record_figure(
        18, "the same tars, unpacked", f"{outside} of {len(cases(tmp_path))} write or link outside", protected=False
    )


def test_a_zip_writes_nothing_outside(tmp_path: Path) -> None:
    path = tmp_path / "in" / "x.npz"
    path.parent.mkdir()
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 8, 8, 3), dtype=np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../up.npy", "/absolute.npy", "arr_0.npy"):
            archive.writestr(name, buffer.getvalue())
    before = files_below(tmp_path)
    assert len(open_images(str(path), scratch=tmp_path / "in/scratch")) == 2
    assert all(one.startswith(str(tmp_path / "in")) for one in files_below(tmp_path) - before)


@pytest.mark.parametrize("where", ["files", "folder"])
@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "a\\..\\secret", "nul\0", "", "./secret"]
)
def test_a_commit_names_nothing_outside(tiny: Any, tmp_path: Path, where: str, name: str) -> None:
    """An entry that somebody altered: it is refused, and what it names is not looked at."""
    tiny.train(tiny.settings(tmp_path / "store", steps=1))
    log = tmp_path / "store/runs/sr/log"
    path = sorted(log.iterdir())[-1]
    told = json.loads(path.read_text())
    if where == "files":
        told["files"][name] = next(iter(told["files"].values()))
    else:
        told["folder"] = name
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match=f"{path.name}, an entry of a commit log, was cut or altered"):
        tiny.log(tmp_path / "store").latest_whole()
    with pytest.raises(ValueError, match="is no name"):
        stays_inside(name)


def test_names_of_commits_and_keys_of_the_store(tmp_path: Path, record_figure: Any) -> None:
    storage = open_storage(tmp_path / "store")
    (tmp_path / "secret").write_text("x")
    for key in ("../secret", "a/../../secret", str(tmp_path / "secret")):
        for verb in (storage.read, storage.exists, storage.remove):
            with pytest.raises(ValueError, match="outside"):
                verb(key)
    assert (tmp_path / "secret").read_text() == "x"
    assert [stays_inside(name) for name in ("a", "deep/more", "a.b..c")] == ["a", "deep/more", "a.b..c"]
    record_figure(18, "names in commits and keys of the store that lead outside", "read or removed 0 of 23")
