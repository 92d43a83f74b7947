"""Commits beside the training: it goes on meanwhile, they are in order, and what fails is heard of."""

from __future__ import annotations

import logging
import threading
import time
from typing import cast

import pytest

from pipeline.commits import Entry
from pipeline.writing import BesideTraining, Write

LONG = 30.0  # seconds after which a test gives up


class Disk:
    """Takes what is written once it is let go."""

    def __init__(self) -> None:
        self.free, self.written = threading.Event(), list[int]()

    def write(self, number: int) -> Write:
        def write() -> Entry:
            assert self.free.wait(LONG)
            self.written.append(number)
            return cast(Entry, None)

        return write


def fail() -> Entry:
    raise OSError("no room")


def test_a_training_goes_on_while_a_commit_is_written() -> None:
    disk = Disk()
    with BesideTraining() as beside:
        beside.begin(lambda: disk.write(1))
        assert disk.written == []  # and here it is, with nobody having let the disk go
        disk.free.set()
    assert disk.written == [1]


def test_a_commit_waits_for_the_one_before_it_before_it_copies() -> None:
    disk, copied = Disk(), list[list[int]]()

    def copy() -> Write:
        copied.append(list(disk.written))
        return disk.write(2)

    with BesideTraining() as beside:
        beside.begin(lambda: disk.write(1))
        threading.Timer(0.2, disk.free.set).start()
        beside.begin(copy)
        assert beside.waited > 0.1
    assert copied == [[1]]
    assert disk.written == [1, 2]


def test_what_cannot_be_written_is_raised_at_the_next_commit_and_once() -> None:
    disk = Disk()
    disk.free.set()
    with BesideTraining() as beside:
        beside.begin(lambda: fail)
        with pytest.raises(OSError, match="no room"):
            beside.begin(lambda: disk.write(1))
        beside.begin(lambda: disk.write(2))
    assert disk.written == [2]


def test_what_cannot_be_written_is_raised_at_the_end() -> None:
    with pytest.raises(OSError, match="no room"), BesideTraining() as beside:
        beside.begin(lambda: fail)


def test_a_failure_of_the_training_is_not_hidden_by_one_of_writing(caplog: pytest.LogCaptureFixture) -> None:
    def train() -> None:
        with BesideTraining() as beside:
            beside.begin(lambda: fail)
            raise FloatingPointError("the loss is nan")

    with caplog.at_level(logging.WARNING), pytest.raises(FloatingPointError, match="the loss"):
        train()
    assert "a commit could not be written: no room" in caplog.text


def test_copying_counts_as_standing_still() -> None:
    disk = Disk()
    disk.free.set()

    def copy() -> Write:
        time.sleep(0.1)
        return disk.write(1)

    with BesideTraining() as beside:
        beside.begin(copy)
        assert 0.1 <= beside.waited < LONG
