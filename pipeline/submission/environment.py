"""What is installed here, and whether it is what is installed there.

The first thing that a job does: with another Python or torch it would fail late, or give other numbers. Only the
standard library, in words that older Pythons read, too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

# What Rayfall imports; `pyproject.toml` has the same list, and constraints.txt the versions.
PACKAGES = (
    "boto3", "jinja2", "matplotlib", "mlflow", "numpy", "optuna", "pillow", "psutil", "pydantic", "ray", "rich",
    "ruamel.yaml", "safetensors", "scipy", "simplejpeg", "torch", "torch-fidelity", "typer", "webdataset", "xxhash",
)  # fmt: skip
ABSENT = "none"
ORDER = "rayfall-job.json"  # in the package: what the driver is to do, and what the client has
STARTED = "rayfall: the cluster has what the client has"  # the driver's first line


def versions() -> dict[str, str]:
    """Versions of Python (major.minor) and of every package; a build for another device ("+cu130") is the same one."""
    found = {"Python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = ABSENT
    return found


def difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    """One sentence on how the cluster (``ours``, called there) differs from the client (``theirs``), None if not."""
    pairs = [(name, given, ours.get(name, ABSENT)) for name, given in theirs.items()]
    unlike = [(name, given, found) for name, given, found in pairs if given != found]
    if not unlike:
        return None
    name, given, found = unlike[0]
    rest = [f"{name} {found} there and {given} here" for name, given, found in unlike[1:4]]
    more = f"; also {', '.join(rest)}{' and others' if len(unlike) > 4 else ''}" if rest else ""
    return (
        f"the cluster has {name} {found} and the machine that submitted has {given}{more}: install constraints.txt in "
        "both (docs/cluster.md, Environment)"
    )
