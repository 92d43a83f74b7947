"""Classes, splits and order of a data set, read off the paths of its files. Pure: no file is opened here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.data.manifest import SPLITS, SplitName

Path = list[str]  # the parts of a path


class Arrangement(NamedTuple):
    """Class names (sorted), each split's names in the order of writing, every name's label, and what is
    left over."""

    classes: tuple[str, ...]
    order: dict[SplitName, list[str]]
    labels: dict[str, int]
    outside: list[tuple[str, str]]


class _Place(NamedTuple):
    split: SplitName
    label: str
    path: str  # without the wrapping folder


def arrange(names: Iterable[str], val_fraction: float) -> Arrangement:
    """Read classes and splits off the paths of the decoded images (``/`` between the parts).

    One folder around everything is ignored. If ``train`` stands beside ``val`` or else ``test``, these are
    the splits. Otherwise the tree (or a lone ``train``) is one set of class folders, and of each class of n
    images n * ``val_fraction`` are held out, chosen by a hash of their paths and rounded up or down by a
    hash of the class, so that the share is right over many small classes too (a class of one image may be
    held out whole). Files deeper inside a class folder belong to it. The order of each split is that of a
    hash of the paths.
    """
    places, outside, has_splits = _places({name: name.split("/") for name in names})
    if not has_splits:
        places |= _held_out(places, val_fraction)
    classes = tuple(sorted({place.label for place in places.values()}))
    number = {label: index for index, label in enumerate(classes)}
    shuffled = sorted(places, key=lambda name: (_hash("order", places[name].path), name))
    order: dict[SplitName, list[str]] = {split: [] for split in SPLITS}
    for name in shuffled:
        order[places[name].split].append(name)
    labels = {name: number[place.label] for name, place in places.items()}
    return Arrangement(classes, order, labels, sorted(outside))


def _places(paths: dict[str, Path]) -> tuple[dict[str, _Place], list[tuple[str, str]], bool]:
    inner = _without_wrapper(paths)
    deep = {path[0] for path in inner.values() if len(path) > 2}
    folders: dict[str, SplitName] = {}
    if "train" in deep:
        folders = {"train": "train", "val": "val"} if "val" in deep else {"train": "train", "test": "val"}
        folders = {name: split for name, split in folders.items() if name in deep}
        if len(folders) == 1 and deep != {"train"}:
            folders = {}  # a class that happens to be called train
    places: dict[str, _Place] = {}
    outside: list[tuple[str, str]] = []
    for name, path in inner.items():
        if folders and path[0] not in folders:
            outside.append((name, f"outside {' and '.join(f'{folder}/' for folder in folders)}"))
        elif len(path) < (3 if folders else 2):
            outside.append((name, "outside every class folder"))
        else:
            split = folders.get(path[0], "train")
            places[name] = _Place(split, path[1 if folders else 0], "/".join(path))
    return places, outside, len(folders) == 2


def _without_wrapper(paths: dict[str, Path]) -> dict[str, Path]:
    folders = {path[0] for path in paths.values() if len(path) > 1}
    nested = any(len(path) > 2 for path in paths.values())
    if len(folders) != 1 or not nested or folders == {"train"}:
        return paths
    return {name: path[1:] or path for name, path in paths.items()}


def _held_out(places: dict[str, _Place], fraction: float) -> dict[str, _Place]:
    """The examples that move from train to val."""
    by_label: dict[str, list[str]] = {}
    for name, place in places.items():
        by_label.setdefault(place.label, []).append(name)
    moved: dict[str, _Place] = {}
    for label, names in by_label.items():
        count = math.floor(len(names) * fraction + _hash("rounding", label) / 2**64)
        names.sort(key=lambda name: (_hash("held out", places[name].path), name))
        moved |= {name: places[name]._replace(split="val") for name in names[:count]}
    return moved


def _hash(purpose: str, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{purpose}\x1f{text}".encode(), digest_size=8).digest(), "big")
