"""What a machine has too little of while something trains, as one sentence that says what to do: memory, or disk.

No exception of a library says which setting would help. Tried again as it is, the same would happen again, so these
are UserErrors: a run ends with them, and the same command goes on from the last commit when there is room.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.cas.spec import CasSpec
from pipeline.errors import UserError
from stages.specs import TrainingSpec

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def shortages_named(setting: str, *, memory: str, folders: Sequence[str]) -> Iterator[None]:
    """Errors for want of memory, or of room on a disk, become UserErrors about what ``setting`` asks for.

    ``memory`` is the sentence where memory is wanted: how to do with less depends on what is trained. ``folders`` are
    where it writes; what is no folder of this machine is left out.
    """
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(memory) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(_disk_sentence(setting, folders)) from error
    except SafetensorError as error:  # it has the system's words, and no number of its own
        if not any(f"(os error {number})" in str(error) for number in _FULL):
            raise
        raise UserError(_disk_sentence(setting, folders)) from error


def memory_of_stage(stage: str, training: TrainingSpec, *, workers: int, device: str, graphs: bool = False) -> str:
    """What to tell when ``device`` has too little memory for a worker's part of a step of ``stage``, and for the CUDA
    ``graphs`` that hold theirs while others want some."""
    own = -(-training.batch_size // workers)
    piece = min(training.micro_batch or own, own)
    setting = f"stages.{stage}.training"
    told = f"stages.{stage}: {device} has too little memory for {piece} examples at once"
    if graphs:
        return f"{told} beside CUDA graphs; set resources.compile to true instead of graphs, which holds none"
    if piece > 1:
        return f"{told}; set {setting}.micro_batch to {piece // 2} or less; it trains the same, and takes longer"
    if training.precision == "f32":
        return f"{told}; set {setting}.precision to bf16, or take a smaller net or a device with more memory"
    return f"{told}; take a smaller net or a device with more memory"


def memory_of_cas(cas: CasSpec, *, workers: int, device: str) -> str:
    """The same of the classifier behind the classification accuracy score, whose batches are part of the protocol."""
    own = -(-cas.batch_size // workers)
    told = f"evaluation.cas: {device} has too little memory for {own} images at once"
    smaller = "take a smaller evaluation.cas.net or a device with more memory"
    if cas.precision == "f32":
        return f"{told}; set evaluation.cas.precision to bf16, or {smaller}"
    return f"{told}; raise resources.workers, among which a batch is shared, or {smaller}"


def _disk_sentence(setting: str, folders: Sequence[str]) -> str:
    """The folder with the least room is meant: an error of writing does not say where."""
    places = [Path(folder) for folder in (*folders, tempfile.gettempdir())]
    free = {place: shutil.disk_usage(place).free for place in places if place.is_dir()}
    place = min(free, key=lambda one: free[one])
    return (
        f"{setting}: the disk of {place} is full ({free[place] / 1e6:.1f} MB are free); make room there and give "
        "the same command again: it goes on from the last checkpoint, which is whole"
    )
