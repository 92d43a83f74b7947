"""The wall: ``stages`` runs where neither Ray nor MLflow is, and ``pipeline`` never reaches back into ``jobs``."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABOVE = ("ray", "mlflow", "webdataset", "torch_fidelity", "ruamel", "typer", "pipeline", "jobs")


def test_stages_imports_nothing_above_the_wall() -> None:
    paths = [path for path in (ROOT / "stages").rglob("*.py") if path.stem != "__init__"]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    code = f"import sys, {', '.join(modules)}; print(*[m for m in {ABOVE!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == ""


def test_reading_an_experiment_imports_no_torch() -> None:
    code = "import sys, pipeline.experiment, pipeline.workflow, pipeline.nodes; print(*[m for m in "
    code += "('torch', 'ray', 'mlflow', 'matplotlib', 'scipy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize(("package", "forbidden"), [("stages", ("pipeline", "jobs")), ("pipeline", ("jobs",))])
def test_arrows_point_down(package: str, forbidden: tuple[str, ...]) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            reached = [name for name in names if name.split(".")[0] in forbidden]
            assert not reached, f"{path.name} imports {reached}"
