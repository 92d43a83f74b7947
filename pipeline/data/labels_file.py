"""Labels that stand in a text file, for images that lie in one flat folder or archive (the validation images of
ImageNet). No image is looked at."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.data.listings import IMAGE_SUFFIXES, Listing, suffix_of
from pipeline.errors import UserError


def apply_labels(listing: Listing, labels: Path) -> Listing:
    """The listing with the class of every file taken from a file of lines ``FILE CLASS``.

    White space or a comma stands between; further columns are ignored, so neither name may hold either. FILE may
    lack its folders and its extension. Raises UserError for a file without a label, with two, or for a line without
    a class. Lines that name no file of the listing are left out, as one entry with their number.
    """
    table = _Table(labels)
    files = [file._replace(label=table.label_of(file.name)) for file in listing.files]
    left_out = listing.left_out
    unused = table.unused()
    if unused:
        reason = f"{len(unused)} of its lines name no file of the source; the first is {unused[0]!r}"
        left_out = sorted([*left_out, (labels.name, reason)])
    return listing._replace(files=files, left_out=left_out)


class _Table:
    """Labels by path and, where one file alone has it, by bare file name; both without extension."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, str | None] = {}  # None: files of several folders with different labels
        self._used: set[str] = set()
        shared: dict[str, str] = {}
        for number, line in enumerate(_read_lines(path), 1):
            columns = re.split(r"[\s,]+", line.strip())
            if columns == [""]:
                continue
            if len(columns) < 2 or not all(columns[:2]):
                raise UserError(f"line {number} of {path} is {line[:80]!r}; it must be a file's name and its class")
            self._add(_bare(columns[0]), shared.setdefault(columns[1], columns[1]), number)

    def _add(self, file: str, label: str, number: int) -> None:
        if self._by_path.setdefault(file, label) != label:
            raise UserError(
                f"line {number} of {self._path} gives {file} the class {label}, and an earlier one gave it "
                f"{self._by_path[file]}; each file has one"
            )
        name = file.rpartition("/")[2]
        if self._by_name.setdefault(name, label) != label:
            self._by_name[name] = None

    def label_of(self, file: str) -> str:
        path = _bare(file)
        name = path.rpartition("/")[2]
        label = self._by_path.get(path)
        if label is None:
            label = self._by_name.get(name)
            if label is None:
                why = "gives several files of that name different classes" if name in self._by_name else "has no label"
                raise UserError(f"{self._path} {why} for {file!r}; each file needs a line FILE CLASS")
            self._used.add(name)
        self._used.add(path)
        return label

    def unused(self) -> list[str]:
        """The files of all lines that no file of the listing was found for, in the order of the lines."""
        return [path for path in self._by_path if path not in self._used and path.rpartition("/")[2] not in self._used]


def _bare(file: str) -> str:
    """A path without the extension of an image; any other dot belongs to the name."""
    path = file.removeprefix("./")
    return path.rpartition(".")[0] if suffix_of(path) in IMAGE_SUFFIXES else path


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"the labels in {path} are not UTF-8; write lines FILE CLASS") from None
    except OSError as error:
        raise UserError(
            f"the labels {path} cannot be read: {error.strerror}; name a file of lines FILE CLASS"
        ) from None
