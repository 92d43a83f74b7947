"""Every file gets the label that its line gives it, or the line at fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.labels_file import apply_labels
from pipeline.data.listings import Listed, Listing
from pipeline.errors import UserError


def _listing(*names: str) -> Listing:
    return Listing([Listed(name, name, 0, 1) for name in names], [], "/x")


def _labels(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "v_1.JPEG n01\nv_2.JPEG n02\n",
        "\n v_1.JPEG\tn01 \r\nv_2.JPEG,n02",
        "v_1,n01 3 4 5 6\nv_2, n02 1 2 3 4",
        "val/v_1.JPEG n01\nelsewhere/v_2.JPEG n02",
        "./v_2.JPEG n02\nv_1.JPEG n01\nv_1.JPEG n01",
        b"\xef\xbb\xbfv_1.JPEG n01\nv_2.JPEG n02",
    ],
)
def test_lines_of_every_form(tmp_path: Path, text: str | bytes) -> None:
    for names in (["v_1.JPEG", "v_2.JPEG"], ["a/v_1.JPEG", "b/v_2.JPEG"], ["v_1.jpeg", "v_2.png"]):
        found = apply_labels(_listing(*names), _labels(tmp_path, text))
        assert [file.label for file in found.files] == ["n01", "n02"]
        assert found.left_out == []


def test_a_whole_path_tells_files_of_one_name_apart(tmp_path: Path) -> None:
    labels = _labels(tmp_path, "a/1.png cat\nb/1.png dog\n")
    assert [file.label for file in apply_labels(_listing("a/1.png", "b/1.png"), labels).files] == ["cat", "dog"]
    with pytest.raises(UserError, match=r"several files of that name different classes for 'c/1\.png'"):
        apply_labels(_listing("c/1.png"), labels)


def test_lines_of_no_file_are_told_in_one_entry(tmp_path: Path) -> None:
    labels = _labels(tmp_path, "ImageId,Prediction\n1.5,a\n2.5,b\n3.5,b\n")
    found = apply_labels(_listing("1.5.png"), labels)
    assert found.files[0].label == "a"
    assert found.left_out == [("labels.txt", "3 of its lines name no file of the source; the first is 'ImageId'")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.png a\n", r"labels\.txt has no label for '2\.png'"),
        ("", r"labels\.txt has no label for '1\.png'"),
        ("1.png a\n490\n", r"line 2 of .*labels\.txt is '490'; it must be a file's name and its class"),
        ("1.png a\n,b\n", "line 2 of"),
        ("1.png a\n2.png b\n1.png c\n", "line 3 of .* gives 1 the class c, and an earlier one gave it a"),
        (b"1.png \xff\n", "are not UTF-8"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_labels(_listing("1.png", "2.png"), _labels(tmp_path, text))


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the labels .*none\.txt cannot be read"):
        apply_labels(_listing("1.png"), tmp_path / "none.txt")
