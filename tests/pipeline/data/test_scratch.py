"""Temporary folders: gone when their owner leaves, removed by the next one when it was killed, never while in use."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.scratch import scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from pipeline.data.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


def _use_and_fail(parent: Path) -> None:
    with scratch_folder(parent) as folder:
        assert folder.is_dir()
        (folder / "file").touch()
        raise KeyboardInterrupt


def test_a_folder_is_there_inside_and_gone_outside_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _use_and_fail(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_folders_of_the_living_stay_and_those_of_the_killed_go(tmp_path: Path) -> None:
    (tmp_path / "not ours").mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with scratch_folder(tmp_path) as ours:
            assert ours != theirs
            assert (theirs / "half").exists()
        process.send_signal(signal.SIGKILL)
    assert theirs.exists()
    with scratch_folder(tmp_path) as ours:
        assert {path.name for path in tmp_path.iterdir()} == {"not ours", ours.name}


def test_what_somebody_else_put_there_stays_whatever_it_is_called(tmp_path: Path) -> None:
    """The system's temporary folder is everybody's."""
    thesis = tmp_path / "rayfall-scratch-of-a-user" / "thesis"
    thesis.mkdir(parents=True)
    with scratch_folder(tmp_path):
        pass
    assert thesis.is_dir()
