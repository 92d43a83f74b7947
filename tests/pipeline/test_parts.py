"""Work in parts: the same files whatever the parts were, and a killed driver's finished parts are found again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dag import Node, Progress, Task, stored
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.objects import LocalObjects
from pipeline.parts import Assembly, PartJob, Rows, compute_part, load_stats, part_jobs, parts_of
from pipeline.scoring.statistics import BLOCK, FeatureStats, merge_stats
from pipeline.storage import open_storage

CALLS = "calls.txt"


def rows_of(indices: np.ndarray[Any, np.dtype[np.int64]]) -> Rows:
    return {"index": indices, "features": np.sin(indices[:, None] * np.arange(1.0, 6.0)).astype(np.float32)}


def counted_part(job: PartJob) -> Rows:
    with Path(job.inputs["log"], CALLS).open("a") as log:
        log.write(f"{job.start}\n")
    if job.start == job.context.get("dies_at"):
        raise RuntimeError("killed")
    return rows_of(np.concatenate([indices[:asked] for indices, asked in job.blocks()]))


def parts_node(task: Task) -> dict[str, Any]:
    assembly = Assembly(task.out, task.config["count"], {}, {"features"})
    for part in parts_of(task, f"{__name__}:counted_part", task.config["count"]):
        assembly.add(part.rows)
    assembly.finish()
    return {}


def task_of(folder: Path, workers: int = 1, **context: Any) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    return Task(
        "parts",
        {"block": 16, "count": 1000},
        {"log": folder},
        folder,
        {"threads": 1, "sampling_workers": workers, **context},
        open_storage(folder),
        Progress(),
    )


def test_a_part_holds_whole_blocks_and_the_last_block_is_padded() -> None:
    job = PartJob("m:f", {"block": 16}, {}, {}, 32, 70, LocalObjects(Path("/")), "")
    blocks = list(job.blocks())
    assert [indices[0] for indices, _ in blocks] == [32, 48, 64]
    assert [asked for _, asked in blocks] == [16, 16, 6]
    assert all(len(indices) == 16 for indices, _ in blocks)


@pytest.mark.parametrize("sizes", [[3000], [1000] * 3, [16] * 187 + [8], [1024, 1024, 952], [1, 2999]])
def test_rows_and_statistics_do_not_depend_on_the_parts(tmp_path: Path, sizes: list[int]) -> None:
    rows = rows_of(np.arange(3000))
    assembly, first = Assembly(tmp_path, 3000, {"features": 100}, {"features"}), 0
    for size in sizes:
        assembly.add({name: values[first : first + size] for name, values in rows.items()})
        first += size
    assembly.finish()
    blocks = [rows["features"][at : at + BLOCK] for at in range(0, 3000, BLOCK)]
    expected = merge_stats(map(FeatureStats.from_features, blocks))
    found = load_stats(tmp_path, "features")
    assert found.count == 3000
    assert np.array_equal(found.mean, expected.mean)  # bit for bit
    assert np.array_equal(found.scatter, expected.scatter)
    assert np.array_equal(np.load(tmp_path / "index.npy"), np.arange(3000))
    assert np.array_equal(np.load(tmp_path / "features.npy"), rows["features"][:100])


def test_an_array_of_which_nothing_is_kept_leaves_its_statistics_alone(tmp_path: Path) -> None:
    assembly = Assembly(tmp_path, 10, {"features": 0}, {"features"})
    assembly.add(rows_of(np.arange(10)))
    assembly.finish()
    assert not (tmp_path / "features.npy").exists()
    assert load_stats(tmp_path, "features").count == 10


def test_a_missing_row_is_never_passed_over(tmp_path: Path) -> None:
    assembly = Assembly(tmp_path, 10, {}, ())
    assembly.add(rows_of(np.arange(9)))
    with pytest.raises(AssertionError, match="9 of 10 rows"):
        assembly.finish()
    with pytest.raises(AssertionError, match="a row for every image"):
        assembly.add({"index": np.arange(2), "features": np.zeros((1, 5))})


def test_a_part_is_published_whole_and_computed_once(tmp_path: Path) -> None:
    job = PartJob(
        f"{__name__}:counted_part", {"block": 16}, {"log": tmp_path}, {}, 0, 40, LocalObjects(tmp_path), "p/a.npz"
    )
    assert compute_part(job) == compute_part(job) == 40
    assert (tmp_path / CALLS).read_text().split() == ["0"]
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["a.npz"]


def test_finished_parts_of_a_killed_driver_are_found_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        parts_node(task_of(tmp_path, dies_at=512))
    assert (tmp_path / CALLS).read_text().split() == ["0", "256", "512"]
    parts_node(task_of(tmp_path))
    assert (tmp_path / CALLS).read_text().split() == ["0", "256", "512", "512", "768"]
    assert np.array_equal(np.load(tmp_path / "index.npy"), np.arange(1000))


def test_parts_that_another_driver_cleared_away_are_computed_once_more(tmp_path: Path) -> None:
    found = []
    for part in parts_of(task_of(tmp_path), f"{__name__}:counted_part", 1000):
        found.append(part.rows["index"])
        shutil.rmtree(tmp_path / "scratch")
    assert np.array_equal(np.concatenate(found), np.arange(1000))


def test_a_damaged_part_is_computed_once_more(tmp_path: Path) -> None:
    found = []
    for part in parts_of(task_of(tmp_path), f"{__name__}:counted_part", 1000):
        found.append(part.rows["index"])
        for path in (tmp_path / "scratch").rglob("*.npz"):
            path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(np.concatenate(found), np.arange(1000))


@pytest.mark.parametrize("other", [{"threads": 2}, {"compiled_sampling": True}, {"gpus_per_sampling_worker": 0.5}])
def test_parts_made_in_another_way_are_not_taken(tmp_path: Path, other: dict[str, Any]) -> None:
    for context in ({}, other):
        jobs = part_jobs(task_of(tmp_path, **context), f"{__name__}:counted_part", 0, 256)
        list(map(compute_part, jobs))
    assert (tmp_path / CALLS).read_text().split() == ["0", "0"]


def test_scratch_goes_with_the_commit(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "store")
    context = {"threads": 1, "sampling_workers": 1}
    node = Node("parts", f"{__name__}:store_node", 1, {"block": 16, "count": 100}, {}, context)
    execute([node], storage, Silence(), use_ray=False)
    assert stored(node, storage) is not None
    assert list(storage.path("scratch").iterdir()) == []


def store_node(task: Task) -> dict[str, Any]:
    assert "scratch/parts-" in task.scratch
    task.storage.put(f"{task.scratch}/part", b"")
    return {}
