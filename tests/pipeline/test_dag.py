"""The graph that remembers: what is computed again and what is not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import dag
from pipeline.commits import CommitLog
from pipeline.computing import compute
from pipeline.dag import Node, NodeFailed, Progress, Task, ancestry, missing, stored
from pipeline.errors import UserError
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.node_failures import failure_sentence
from pipeline.results import Result
from pipeline.revision import git_revision
from pipeline.storage import LocalStorage, open_storage

CALLS: list[str] = []


def add(task: Task) -> dict[str, Any]:
    """The sum of ``config["value"]`` and the inputs' values."""
    CALLS.append(task.node)
    total = task.config["value"] + sum(json.loads((f / "value.json").read_text()) for f in task.inputs.values())
    (task.out / "value.json").write_text(json.dumps(total))
    task.progress(1, 1)
    return {"value": total}


def fail(task: Task) -> dict[str, Any]:
    raise ZeroDivisionError("no such luck")


def overtaken(task: Task) -> dict[str, Any]:
    """While this one works, another driver computes the same node and commits first."""
    key = next(iter(task.storage.list("results")))
    other = CommitLog(task.storage, f"results/{key}", owner="other", clock=lambda: 0.0)
    name, folder = other.new_folder("files")
    (folder / "value.json").write_text("0")
    other.commit(name, {"summary": {"value": "the other driver's"}, "seconds": 1.0, "source": "source"})
    return {"value": "ours"}


def refuse(task: Task) -> dict[str, Any]:
    raise UserError("evaluation.samples is too large")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    CALLS.clear()
    return open_storage(tmp_path / "store")


@pytest.fixture(autouse=True)
def _functions_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test modules have no importable name, so nodes find their functions here."""
    monkeypatch.setattr("pipeline.computing.function_of", lambda name: globals()[name])
    monkeypatch.setattr("pipeline.computing.source_of", lambda name: "source")
    monkeypatch.setattr("pipeline.dag.source_of", lambda name: "source")
    monkeypatch.setattr("pipeline.dag._WARNED", set())


def node(name: str, value: int, function: str = "add", version: int = 1, **inputs: Node) -> Node:
    return Node(name, function, version, {"value": value}, inputs)


def run(storage: LocalStorage, *targets: Node) -> dict[str, Result]:
    return execute(targets, storage, Silence(), use_ray=False)


def test_a_second_run_computes_nothing(storage: LocalStorage) -> None:
    a = node("a", 1)
    b, c = node("b", 10, x=a), node("c", 100, x=a)
    d = node("d", 1000, left=b, right=c)
    assert run(storage, d)["d"].summary == {"value": 1112}
    assert CALLS == ["a", "b", "c", "d"]
    assert run(storage, d)["d"].reused
    assert CALLS == ["a", "b", "c", "d"]


def test_only_what_depends_on_a_change_is_computed_again(storage: LocalStorage) -> None:
    def graph(value: int) -> Node:
        a, b = node("a", 1), node("b", value)
        return node("d", 0, a=a, b=b)

    run(storage, graph(5))
    CALLS.clear()
    assert run(storage, graph(6))["d"].summary == {"value": 7}
    assert CALLS == ["b", "d"]


def test_inputs_of_a_stored_result_are_not_needed(storage: LocalStorage) -> None:
    a = node("a", 1)
    b = node("b", 1, x=a)
    run(storage, b)
    storage.remove(a.key)
    assert missing([b], storage) == []
    c = node("c", 1, x=b)
    assert [n.name for n in missing([c], storage)] == ["c"]


def test_digest_covers_what_changes_the_result_and_nothing_else() -> None:
    a = node("a", 1)
    assert a.digest != node("a", 2).digest
    assert a.digest != node("a", 1, version=2).digest
    assert node("b", 1, x=a).digest != node("b", 1, x=node("a", 2)).digest
    assert node("b", 1, x=a).digest != node("b", 1, y=a).digest
    assert Node("a", "add", 1, {"value": 1}, context={"workers": 7}, cpus=0.5).digest == a.digest


def test_equal_nodes_are_one(storage: LocalStorage) -> None:
    top = node("d", 0, left=node("a", 1), right=node("a", 1))
    assert [n.name for n in ancestry([top, top])] == ["a", "d"]
    run(storage, top)
    assert CALLS == ["a", "d"]


def test_a_failure_names_the_node_and_leaves_nothing_behind(storage: LocalStorage) -> None:
    bad = node("bad", 0, function="fail", x=node("a", 1))
    with pytest.raises(NodeFailed, match="bad failed: ZeroDivisionError: no such luck") as caught:
        run(storage, bad)
    assert "in fail" in caught.value.trace
    assert stored(bad, storage) is None
    assert stored(node("a", 1), storage) is not None


def test_where_failures_are_tolerated_the_traceback_is_a_file_that_the_sentence_names(
    storage: LocalStorage,
) -> None:
    with pytest.raises(NodeFailed) as caught:
        run(storage, node("bad", 0, function="fail"))
    told = failure_sentence(caught.value, storage, "failures/bad.txt")

    assert told == f"bad failed: ZeroDivisionError: no such luck (traceback: {storage.address}/failures/bad.txt)"
    assert "in fail" in storage.read("failures/bad.txt").decode()
    assert failure_sentence(UserError("samples is too large"), storage, "other.txt") == "samples is too large"
    assert not storage.exists("other.txt")


def test_what_is_kept_of_a_failure_lets_nobody_in(storage: LocalStorage) -> None:
    address = "http://me:secret@host:5000"
    error = NodeFailed("train/base", f"MlflowException: request to {address}/api failed", f"Traceback\n uri={address}")
    file = storage.path("base.txt")
    told = failure_sentence(error, storage, "base.txt")
    assert told == f"train/base failed: MlflowException: request to http://host:5000/api failed (traceback: {file})"
    assert file.read_text() == "Traceback\n uri=http://host:5000"
    assert failure_sentence(UserError(f"{address} is no store"), storage, "base.txt") == "http://host:5000 is no store"
    assert not file.exists(), "this failure has none"


def test_of_many_lines_of_an_error_without_a_traceback_the_first_is_told_with_its_kind(storage: LocalStorage) -> None:
    file, key = storage.path("base.txt"), "base.txt"
    told = failure_sentence(MemoryError("Task was killed\nMemory on the node\nhttp://me:pw@host"), storage, key)
    assert told == f"MemoryError: Task was killed (traceback: {file})"
    assert file.read_text() == "Task was killed\nMemory on the node\nhttp://host"
    assert failure_sentence(MemoryError("Task was killed"), storage, key) == "MemoryError: Task was killed"


def test_a_result_says_of_which_revision_of_the_code_it_is(storage: LocalStorage) -> None:
    for value, given, expected in ((1, "abc", "abc"), (2, None, git_revision())):
        compute(node("a", value), storage.address, revision=given)
        found = stored(node("a", value), storage)
        assert found is not None
        assert found.revision == expected


def test_a_mistake_of_the_user_stays_one(storage: LocalStorage) -> None:
    with pytest.raises(UserError, match="too large"):
        run(storage, node("bad", 0, function="refuse"))


def test_the_slower_of_two_drivers_takes_the_winner_s_result(storage: LocalStorage) -> None:
    late = node("a", 3, function="overtaken")
    result = compute(late, storage.address)
    assert result.summary == {"value": "the other driver's"}
    assert len(storage.list(late.key)) == 2  # the log and one folder: ours is gone


def test_a_result_with_a_damaged_file_is_computed_again(storage: LocalStorage) -> None:
    a = node("a", 3)
    folder = run(storage, a)["a"].folder
    (folder / "value.json").write_text("4")
    assert run(storage, a)["a"].summary == {"value": 3}
    assert CALLS == ["a", "a"]


def test_changed_source_under_an_unchanged_version_is_said(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = node("a", 3)
    run(storage, a)
    monkeypatch.setattr(dag, "source_of", lambda name: "another source")
    assert stored(a, storage) is not None
    assert "raise its version" in caplog.text


def test_progress_lies_where_anybody_may_read_it(storage: LocalStorage) -> None:
    progress = Progress(storage, "p.json")
    progress(3, 10)
    assert json.loads(storage.read("p.json")) == [3, 10, 3, 0.0]
    time.sleep(0.02)
    progress(5, 10)
    done, total, first, seconds = json.loads(storage.read("p.json"))
    assert (done, total, first) == (5, 10, 3)
    assert 0.02 <= seconds < 60.0
    Progress()(1, 2)  # nobody watches


def test_source_covers_what_a_function_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    package = tmp_path / "pipeline"
    package.mkdir()
    (package / "dag.py").touch()
    (package / "a.py").write_text("import json\nfrom pipeline.b import thing\nfrom pipeline import c\n")
    (package / "b.py").write_text("def f():\n    from pipeline.d import late\n")
    (package / "c.py").write_text("from pipeline.a import cycle\n")
    (package / "d.py").write_text("late = 1\n")
    (package / "other.py").write_text("x = 1\n")
    monkeypatch.setattr(dag, "__file__", str(package / "dag.py"))

    def source() -> str:
        dag.source_of.cache_clear()
        return dag.source_of("pipeline.a:f")

    first = source()
    for name, changes in (("other", False), ("d", True), ("c", True), ("b", True), ("a", True)):
        path = package / f"{name}.py"
        before = path.read_text()
        path.write_text(before + "# more\n")
        assert (source() != first) is changes, name
        path.write_text(before)
    dag.source_of.cache_clear()
