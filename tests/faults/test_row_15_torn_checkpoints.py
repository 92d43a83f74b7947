"""Row 15: a checkpoint that was not written to its end, or is not what was written, is never gone on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoints import load_state

pytestmark = pytest.mark.faults

STEPS = 6


def newest_folder(store: Path) -> Path | None:
    """What one would go on from without a log: the folder of the highest step, the newest of several."""
    folders = sorted((store / "runs/sr").glob("step-*"), key=lambda one: (one.name[:13], one.stat().st_mtime_ns))
    return folders[-1] if folders else None


def loads(run: Any, folder: Path) -> dict[str, torch.Tensor] | None:
    """The weights that a folder gives, None where it gives none."""
    try:
        load_state(folder, run.state)
    except Exception:  # of whatever kind: nothing was gone on from
        return None
    return {name: tensor.clone() for name, tensor in run.state.net.state_dict().items()}


def test_killed_between_and_within_all_writes(
    tiny: Any,
    zygote: Any,
    twin: Callable[[int], dict[int, Any]],
    repeats: int,
    tmp_path: Path,
    record_figure: Any,
) -> None:
    """What is gone on from is a commit of the undisturbed twin, and the end is its end; torn folders do lie about."""
    notes, straight = tmp_path / "writes", twin(STEPS)
    assert zygote.child(tiny.settings(tmp_path / "a", steps=STEPS), tmp_path / "l", count_writes=str(notes)).code == 0
    changes = [json.loads(line) for line in notes.read_text().splitlines()]
    every = max(1, len(changes) // repeats)
    reader, torn, points = tiny.run(tiny.settings(tmp_path / "reader")), 0, range(1, len(changes) + 1, every)
    for point in points:
        store = tmp_path / f"at-{point}"
        settings = tiny.settings(store, steps=STEPS)
        assert zygote.child(settings, tmp_path / "l", die_at_write=point).killed, changes[point - 1]
        newest = newest_folder(store)
        torn += newest is not None and loads(reader, newest) is None
        found = tiny.log(store).latest_whole()
        if found is not None:
            assert tuple(found[0].files[name].sha256 for name in sorted(found[0].files) if name in KEPT) == tuple(
                sorted_hashes(straight[found[0].info["step"]])
            )
        assert zygote.child(settings, tmp_path / "l").code == 0
        assert all(hashes == straight[step] for step, hashes in tiny.commits(store)), changes[point - 1]
    assert torn > len(points) / 10
    record_figure(
        15,
        "checkpoint torn by SIGKILL between and within writes",
        f"wrong restores 0 of {len(points)} of the {len(changes)} writes of a run, and the twin's bits at the end",
    )
    record_figure(
        15,
        "the same, going on from the newest folder instead of the newest commit",
        f"{torn} of {len(points)} find a torn one",
        protected=False,
    )


KEPT = ("ema.safetensors", "net.safetensors", "optimizer.safetensors")


def sorted_hashes(hashes: tuple[str, str, str]) -> tuple[str, str, str]:
    """From net, ema, optimizer to the order of the files' names."""
    return hashes[1], hashes[0], hashes[2]


def cuts(path: Path) -> list[int]:
    """Where a file is cut: at its ends, in the middle, at every border between tensors."""
    data = path.read_bytes()
    places = {0, 1, len(data) // 2, len(data) - 1}
    if path.suffix == ".safetensors":
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        header.pop("__metadata__", None)
        places |= {8, begin, *(begin + one["data_offsets"][0] for one in header.values())}
    return sorted(places)


def damages(folder: Path, every: int) -> Iterator[tuple[Path, str]]:
    """Every file of a checkpoint, cut short (at every so-many-th place), with a byte flipped, or gone.

    It is whole again afterwards.
    """
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little") if path.suffix == ".safetensors" else 0
        for cut in cuts(path)[::every]:
            path.write_bytes(data[:cut])
            yield path, "cut"
        for place in range(begin, len(data), max(1, (len(data) - begin) // 7)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            yield path, "flipped"
        path.unlink()
        yield path, "gone"
        path.write_bytes(data)


def test_damaged_at_rest_the_one_before_is_restored(
    tiny: Any,
    twin: Callable[[int], dict[int, Any]],
    repeats: int,
    tmp_path: Path,
    record_figure: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = tmp_path / "store"
    tiny.train(tiny.settings(store, steps=STEPS))
    found = tiny.log(store).latest_whole()
    assert found is not None
    reader = tiny.run(tiny.settings(tmp_path / "reader"))
    whole = loads(reader, found[1])
    assert whole is not None
    points = silent = refused = 0
    for path, kind in damages(found[1], every=1 if repeats >= 100 else 19):
        points += 1
        caplog.clear()
        run = tiny.run(tiny.settings(store, steps=STEPS))
        assert (run.state.step, path.name in caplog.text) == (STEPS - 1, True), f"{path.name} {kind}"
        other = loads(reader, found[1])
        refused += other is None
        silent += other is not None and path.name == "net.safetensors" and not same(other, whole)
    again = tiny.log(store).latest_whole()
    assert again is not None
    assert again[0].number == found[0].number
    tiny.train(tiny.settings(store, steps=STEPS))
    assert all(hashes == twin(STEPS)[step] for step, hashes in tiny.commits(store))
    assert silent > 0
    record_figure(
        15,
        "a checkpoint's files cut at each border and within, flipped, removed",
        f"wrong restores 0 of {points}, the one before is restored and the file named",
    )
    record_figure(
        15,
        "the same, loaded without sizes and hashes",
        f"{silent} loads of other weights without a word, {refused} crashes instead of the one before, of {points}",
        protected=False,
    )


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())
