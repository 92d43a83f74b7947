"""Classes, splits and order from paths alone."""

from __future__ import annotations

import pytest

from pipeline.data.arranging import arrange


def _names(pattern: str, classes: str, count: int) -> list[str]:
    return [pattern.format(label=label, index=index) for label in classes for index in range(count)]


@pytest.mark.parametrize("wrapper", ["", "data/"])
@pytest.mark.parametrize("second", ["val", "test"])
def test_split_folders_are_the_splits(wrapper: str, second: str) -> None:
    train = _names(wrapper + "train/{label}/{index}.png", "ab", 10)
    held_out = _names(wrapper + second + "/{label}/{index}.png", "bc", 5)
    arrangement = arrange(train + held_out, 0.5)
    assert arrangement.classes == ("a", "b", "c")
    assert sorted(arrangement.order["train"]) == sorted(train)
    assert sorted(arrangement.order["val"]) == sorted(held_out)
    assert arrangement.labels[held_out[-1]] == 2
    assert arrangement.outside == []


def test_test_stays_out_when_there_is_val() -> None:
    names = [f"{split}/a/{index}" for split in ("train", "val", "test") for index in range(3)]
    arrangement = arrange(names, 0.1)
    assert arrangement.outside == [(f"test/a/{index}", "outside train/ and val/") for index in range(3)]


@pytest.mark.parametrize("wrapper", ["", "data/", "train/", "data/train/"])
def test_a_share_of_each_class_is_held_out_whatever_stands_around(wrapper: str) -> None:
    arrangement = arrange(_names(wrapper + "{label}/{index}.png", "abcd", 50), 0.1)
    assert arrangement.classes == tuple("abcd")
    for label in range(4):
        held_out = [name for name in arrangement.order["val"] if arrangement.labels[name] == label]
        assert len(held_out) == 5
    assert len(arrangement.order["train"]) == 180
    assert not set(arrangement.order["train"]) & set(arrangement.order["val"])
    bare = arrange(_names("{label}/{index}.png", "abcd", 50), 0.1)
    assert [name.removeprefix(wrapper) for name in arrangement.order["val"]] != []
    if "train" not in wrapper:
        assert [name.removeprefix(wrapper) for name in arrangement.order["val"]] == bare.order["val"]


def test_the_share_is_right_over_many_classes_of_one_image() -> None:
    arrangement = arrange([f"class{number}/only.png" for number in range(2000)], 0.1)
    assert abs(len(arrangement.order["val"]) - 200) < 5 * (2000 * 0.1 * 0.9) ** 0.5
    assert len(arrangement.classes) == 2000


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.25, 25), (0.999, 99)])
def test_the_fraction_reaches_from_nothing_to_almost_all(fraction: float, count: int) -> None:
    held_out = len(arrange([f"a/{index}" for index in range(100)] + ["b/0"], fraction).order["val"])
    assert count <= held_out <= count + 2


def test_the_order_mixes_classes_and_ignores_the_order_of_arrival() -> None:
    names = _names("{label}/{index}.png", "abcdefgh", 100)
    arrangement = arrange(names, 0.0)
    assert arrange(reversed(names), 0.0) == arrangement
    for start in range(0, 800, 100):  # what lands in one shard
        labels = [arrangement.labels[name] for name in arrangement.order["train"][start : start + 100]]
        assert len(set(labels)) == 8
        assert max(labels.count(label) for label in range(8)) < 30


def test_files_deeper_in_a_class_belong_to_it() -> None:
    arrangement = arrange(["n01/images/1.png", "n02/images/1.png", "n02/2.png"], 0.0)
    assert arrangement.labels == {"n01/images/1.png": 0, "n02/images/1.png": 1, "n02/2.png": 1}


def test_images_outside_class_folders_are_named() -> None:
    assert arrange(["logo.png", "a/1.png", "b/1.png"], 0.0).outside == [("logo.png", "outside every class folder")]
    names = ["w/logo.png", "w/train/a/1.png", "w/train/loose.png", "w/val/a/1.png", "w/extra/a/1.png"]
    assert arrange(names, 0.0).outside == [
        ("w/extra/a/1.png", "outside train/ and val/"),
        ("w/logo.png", "outside train/ and val/"),
        ("w/train/loose.png", "outside every class folder"),
    ]


def test_a_class_may_be_called_train() -> None:
    arrangement = arrange(["bus/1.png", "train/1.png", "train/2.png"], 0.0)
    assert arrangement.classes == ("bus", "train")
    assert arrangement.outside == []


def test_nothing_gives_nothing() -> None:
    assert arrange([], 0.1) == ((), {"train": [], "val": []}, {}, [])
