"""Classes, splits and order from names alone, and from what a source says itself."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pipeline.data.arranging import Arrangement, arrange
from pipeline.data.listings import Listed
from pipeline.data.manifest import SplitName


def _arrange(names: Iterable[str], fraction: float) -> Arrangement:
    return arrange([Listed(name, "x", 0, 1) for name in names], fraction)


def _said(name: str, split: SplitName | None = None, label: str | None = None) -> Listed:
    return Listed(name, "x", 0, 1, split, label)


def _names(pattern: str, classes: str, count: int) -> list[str]:
    return [pattern.format(label=label, index=index) for label in classes for index in range(count)]


def _order(arrangement: Arrangement, split: SplitName) -> list[str]:
    return [file.name for file in arrangement.order[split]]


def _classes(arrangement: Arrangement, split: SplitName) -> dict[str, str]:
    pairs = zip(arrangement.order[split], arrangement.labels[split], strict=True)
    return {file.name: arrangement.classes[label] for file, label in pairs}


@pytest.mark.parametrize("wrapper", ["", "data/"])
@pytest.mark.parametrize("second", ["val", "test"])
def test_split_folders_are_the_splits(wrapper: str, second: str) -> None:
    train = _names(wrapper + "train/{label}/{index}.png", "ab", 10)
    held_out = _names(wrapper + second + "/{label}/{index}.png", "bc", 5)
    arrangement = _arrange(train + held_out, 0.5)
    assert arrangement.classes == ("a", "b", "c")
    assert sorted(_order(arrangement, "train")) == sorted(train)
    assert sorted(_order(arrangement, "val")) == sorted(held_out)
    assert _classes(arrangement, "val") == {name: name.split("/")[-2] for name in held_out}
    assert arrangement.outside == []


def test_test_stays_out_when_there_is_val() -> None:
    names = [f"{split}/a/{index}" for split in ("train", "val", "test") for index in range(3)]
    assert _arrange(names, 0.1).outside == [(f"test/a/{index}", "outside train/ and val/") for index in range(3)]


@pytest.mark.parametrize("wrapper", ["", "data/", "train/", "data/train/"])
def test_a_share_of_each_class_is_held_out_whatever_stands_around(wrapper: str) -> None:
    arrangement = _arrange(_names(wrapper + "{label}/{index}.png", "abcd", 50), 0.1)
    assert arrangement.classes == tuple("abcd")
    assert [arrangement.labels["val"].count(label) for label in range(4)] == [5, 5, 5, 5]
    assert len(arrangement.order["train"]) == 180
    assert not set(arrangement.order["train"]) & set(arrangement.order["val"])
    bare = _arrange(_names("{label}/{index}.png", "abcd", 50), 0.1)
    assert [name.removeprefix(wrapper) for name in _order(arrangement, "val")] != []
    if "train" not in wrapper:
        assert [name.removeprefix(wrapper) for name in _order(arrangement, "val")] == _order(bare, "val")


def test_the_share_is_right_over_many_classes_of_one_image() -> None:
    arrangement = _arrange([f"class{number}/only.png" for number in range(2000)], 0.1)
    assert abs(len(arrangement.order["val"]) - 200) < 5 * (2000 * 0.1 * 0.9) ** 0.5
    assert len(arrangement.classes) == 2000


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.25, 25), (0.999, 99)])
def test_the_fraction_reaches_from_nothing_to_almost_all(fraction: float, count: int) -> None:
    held_out = len(_arrange([f"a/{index}" for index in range(100)] + ["b/0"], fraction).order["val"])
    assert count <= held_out <= count + 2


def test_the_order_mixes_classes_and_ignores_the_order_of_arrival() -> None:
    names = _names("{label}/{index}.png", "abcdefgh", 100)
    arrangement = _arrange(names, 0.0)
    assert _arrange(reversed(names), 0.0) == arrangement
    for start in range(0, 800, 100):  # what lands in one shard
        labels = arrangement.labels["train"][start : start + 100]
        assert len(set(labels)) == 8
        assert max(labels.count(label) for label in range(8)) < 30


def test_files_deeper_in_a_class_belong_to_it() -> None:
    found = _classes(_arrange(["n01/images/1.png", "n02/images/1.png", "n02/2.png"], 0.0), "train")
    assert found == {"n01/images/1.png": "n01", "n02/images/1.png": "n02", "n02/2.png": "n02"}


def test_images_outside_class_folders_are_named() -> None:
    assert _arrange(["logo.png", "a/1.png", "b/1.png"], 0.0).outside == [("logo.png", "outside every class folder")]
    names = ["w/logo.png", "w/train/a/1.png", "w/train/loose.png", "w/val/a/1.png", "w/extra/a/1.png"]
    assert _arrange(names, 0.0).outside == [
        ("w/extra/a/1.png", "outside train/ and val/"),
        ("w/logo.png", "outside train/ and val/"),
        ("w/train/loose.png", "outside every class folder"),
    ]
    assert _arrange(["logo.png", "w/a/1.png", "w/b/1.png"], 0.0).classes == ("a", "b")


def test_a_class_may_be_called_train() -> None:
    arrangement = _arrange(["bus/1.png", "train/1.png", "train/2.png"], 0.0)
    assert arrangement.classes == ("bus", "train")
    assert arrangement.outside == []


def test_nothing_gives_nothing() -> None:
    assert _arrange([], 0.1) == ((), {"train": [], "val": []}, {"train": [], "val": []}, [])


def test_a_label_that_the_source_gives_wins_over_the_path() -> None:
    files = [_said("x/a/1.png", label="z"), _said("loose.png", label="y"), _said("b/2.png")]
    assert _classes(arrange(files, 0.0), "train") == {"x/a/1.png": "z", "loose.png": "y", "b/2.png": "b"}


def test_a_tree_and_a_tar_of_tars_of_it_are_arranged_alike() -> None:
    names = _names("n0{label}/{index}.JPEG", "123", 30)
    assert [file.name for file in arrange([_said(name, label=name[:3]) for name in names], 0.2).order["val"]] == _order(
        _arrange(names, 0.2), "val"
    )


def test_folders_are_the_splits_of_files_with_labels_too() -> None:
    arrangement = arrange([_said(f"w/{split}/1.png", label="z") for split in ("train", "val", "test")], 0.0)
    assert (_order(arrangement, "train"), _order(arrangement, "val")) == (["w/train/1.png"], ["w/val/1.png"])
    assert arrangement.outside == [("w/test/1.png", "outside train/ and val/")]


def test_a_split_that_the_source_gives_wins_over_the_path() -> None:
    files = [_said("train/a/1.png", "val"), _said("val/a/1.png", "train"), _said("s/0.jpg", "val", "c")]
    arrangement = arrange(files, 0.5)
    assert sorted(_order(arrangement, "val")) == ["s/0.jpg", "train/a/1.png"]
    assert _order(arrangement, "train") == ["val/a/1.png"]


def test_files_without_a_split_among_others() -> None:
    """Left over where both splits are said; training images where only val is."""
    odd, train, val = _said("x/0.jpg", None, "a"), _said("t/0.jpg", "train", "a"), _said("v/0.jpg", "val", "a")
    assert arrange([odd, train, val], 0.9).outside == [("x/0.jpg", "neither train nor val, as others are")]
    assert arrange([odd, val], 0.9).order == {"train": [odd], "val": [val]}


def test_a_share_is_held_out_where_the_source_says_train_alone() -> None:
    arrangement = arrange([_said(f"train-0/{index}.jpg", "train", "a") for index in range(100)], 0.2)
    assert len(arrangement.order["val"]) in (20, 21)
