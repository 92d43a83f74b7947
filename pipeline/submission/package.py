"""What is carried to the cluster: our code as one zip, measured before it is sent.

Which files is decided by Ray's own reading of .gitignore and .rayignore, and by ``EXCLUDED``. Ray takes 100 MiB.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pipeline.errors import UserError

ROOMS = ("stages", "pipeline", "jobs")  # all that is carried where they are installed beside other packages
LIMIT = 100 << 20  # bytes; what Ray's dashboard takes in one request
# As in .gitignore; a slash in front: at the top only, for there are packages of these names.
EXCLUDED = (
    ".git", ".venv", "venv", "__pycache__", ".*_cache", ".cache", ".hypothesis", "*.egg-info", "node_modules",
    ".env", ".env.*", ".netrc", "*.pem", ".aws", ".ssh",
    "/build", "/dist", "/data", "/outputs", "/mlruns", "/mlflow.db", "/rayfall-store",
)  # fmt: skip


@dataclass(frozen=True)
class Cargo:
    """The files to carry, by their names below ``root``, with their bytes; and what stands beside them and stays."""

    root: Path
    files: Mapping[str, int]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def told(self) -> str:
        """What is carried and what is not, as one line."""
        stays = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{len(self.files):,} files of {self.root}, {mebibytes(self.size)}{stays}"


def mebibytes(size: int) -> str:
    """``1.4 MiB``."""
    return f"{size / (1 << 20):,.1f} MiB"


def cargo_of(root: Path, excluded: tuple[str, ...] = ()) -> Cargo:
    """What of the tree at ``root`` is carried, less what is ``excluded`` besides (as in .gitignore). Sends nothing."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    root = root.resolve()
    whole = (root / "pyproject.toml").is_file()
    files: dict[str, int] = {}

    def take(path: Path) -> None:
        if path.is_file():
            files[path.relative_to(root).as_posix()] = path.stat().st_size

    gitignored = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    quiet = logging.Logger("rayfall.package", logging.ERROR)
    for start in [root] if whole else [root / room for room in ROOMS]:
        _dir_travel(start, [_get_excludes(root, [*EXCLUDED, *excluded])], take, gitignored, quiet)
    kept = {name.split("/")[0] for name in files}
    left = sorted(path.name for path in root.iterdir() if path.name not in kept) if whole else []
    return Cargo(root, files, tuple(left))


def require_small(cargo: Cargo, limit: int = LIMIT) -> None:
    """UserError naming what is biggest when there is more than Ray takes."""
    if cargo.size < limit:
        return
    sizes: Counter[str] = Counter()
    for name, size in cargo.files.items():
        sizes["/".join(name.split("/")[:2])] += size
    biggest = ", ".join(f"{name} ({mebibytes(size)})" for name, size in sizes.most_common(3))
    raise UserError(
        f"{cargo.root} has {mebibytes(cargo.size)} to carry and a cluster takes {mebibytes(limit)}; biggest are "
        f"{biggest}: name what the job does not need in .rayignore"
    )


def pack(cargo: Cargo, added: Mapping[str, bytes], path: Path) -> int:
    """Write the zip to ``path``: the same bytes for the same content, so that it is sent once. Returns its bytes."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name in sorted({*cargo.files, *added}):
            file = cargo.root / name
            entry = ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            executable = name not in added and os.access(file, os.X_OK)
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            archive.writestr(entry, added[name] if name in added else file.read_bytes(), ZIP_DEFLATED)
    return path.stat().st_size
