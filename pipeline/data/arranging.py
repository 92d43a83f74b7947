"""Classes, splits and order of a data set, read off the names of its files. Pure: no file is opened here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.data.listings import Listed
from pipeline.data.manifest import SPLITS, SplitName


class Arrangement(NamedTuple):
    """Class names (sorted); each split's files in the order of writing, and beside each its label, an index of the
    classes; what is left over, with reasons."""

    classes: tuple[str, ...]
    order: dict[SplitName, list[Listed]]
    labels: dict[SplitName, list[int]]
    outside: list[tuple[str, str]]


class _Tree(NamedTuple):
    """How paths are read: without their first ``cut`` characters, the folder around everything, and by the folders
    that are splits, if any."""

    cut: int
    folders: dict[str, SplitName]

    def path(self, file: Listed) -> str:
        """The path inside the wrapping folder; the same for a tree that has none around it."""
        return file.name[self.cut :] if "/" in file.name else file.name


class _Place(NamedTuple):
    file: Listed
    label: str


_Places = dict[SplitName, list[_Place]]


def arrange(files: Iterable[Listed], val_fraction: float) -> Arrangement:
    """Sort files into classes and splits, and each split into the order of writing.

    What a source itself says of a file, its split and its label, is kept. The rest is read off the paths: one folder
    around everything is ignored; if ``train`` stands beside ``val`` or else ``test``, these are the splits; the next
    folder is the class, and files deeper inside it belong to it. Where nothing is said to be held out (no ``val``),
    n * ``val_fraction`` of each class of n training images are, chosen by a hash of their paths and rounded up or
    down by a hash of the class, so that the share is right over many small classes too (a class of one image may be
    held out whole). A file without a split, where others are said to be train and val, is left over.
    The order of each split is that of a hash of the paths: classes are mixed, and no order of arrival matters.
    """
    files = list(files)
    tree = _read_tree(files)
    places, outside = _sort_into_splits(files, tree)
    if not places["val"]:
        places = _hold_out(places["train"], tree, val_fraction)
    classes = tuple(sorted({place.label for of_split in places.values() for place in of_split}))
    number = {label: index for index, label in enumerate(classes)}
    order: dict[SplitName, list[Listed]] = {}
    labels: dict[SplitName, list[int]] = {}
    for split in SPLITS:
        places[split].sort(key=lambda place: (_hash("order", tree.path(place.file)), place.file.name))
        order[split] = [place.file for place in places[split]]
        labels[split] = [number[place.label] for place in places[split]]
    return Arrangement(classes, order, labels, sorted(outside))


def _read_tree(files: list[Listed]) -> _Tree:
    tops = {file.name.partition("/")[0] for file in files if "/" in file.name}
    nested = any(file.name.count("/") > 1 for file in files)
    wrapped = len(tops) == 1 and nested and tops != {"train"}
    tree = _Tree(len(min(tops)) + 1 if wrapped else 0, {})
    # A folder can be a split when it holds more than files: class folders, or files whose label is known.
    deep: set[str] = set()
    for file in files:
        path = tree.path(file)
        if file.split is None and path.count("/") > (file.label is None):
            deep.add(path.partition("/")[0])
    folders: dict[str, SplitName] = {}
    if "train" in deep:
        folders = {"train": "train", "val": "val"} if "val" in deep else {"train": "train", "test": "val"}
        folders = {name: split for name, split in folders.items() if name in deep}
        if len(folders) == 1 and deep != {"train"}:
            folders = {}  # a class that happens to be called train
    return tree._replace(folders=folders)


def _sort_into_splits(files: list[Listed], tree: _Tree) -> tuple[_Places, list[tuple[str, str]]]:
    said = {file.split for file in files if file.split is not None}
    names = " and ".join(f"{folder}/" for folder in tree.folders)
    places: _Places = {split: [] for split in SPLITS}
    outside: list[tuple[str, str]] = []
    for file in files:
        path = tree.path(file)
        top, _, below = path.partition("/")
        split = file.split or tree.folders.get(top)
        label, in_folder, _ = (below if top in tree.folders else path).partition("/")
        if split is None and tree.folders:
            outside.append((file.name, f"outside {names}"))
        elif split is None and len(said) == len(SPLITS):
            outside.append((file.name, "neither train nor val, as others are"))
        elif file.label is None and not in_folder:
            outside.append((file.name, "outside every class folder"))
        else:
            places[split or "train"].append(_Place(file, label if file.label is None else file.label))
    return places, outside


def _hold_out(places: list[_Place], tree: _Tree, fraction: float) -> _Places:
    """Training images parted into train and val, class by class."""
    by_label: dict[str, list[_Place]] = {}
    for place in places:
        by_label.setdefault(place.label, []).append(place)
    parted: _Places = {split: [] for split in SPLITS}
    for label, of_class in by_label.items():
        count = math.floor(len(of_class) * fraction + _hash("rounding", label) / 2**64)
        of_class.sort(key=lambda place: (_hash("held out", tree.path(place.file)), place.file.name))
        parted["val"] += of_class[:count]
        parted["train"] += of_class[count:]
    return parted


def _hash(purpose: str, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{purpose}\x1f{text}".encode(), digest_size=8).digest(), "big")
