"""The nodes of what samples are judged by: classifiers trained on real images, and the real images as measured.

Every image is judged the same way, real or generated (``pipeline.measures``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.classifier import predict, save_classifier, train_classifier
from pipeline.classifier_spec import ClassifierSpec
from pipeline.dag import Task
from pipeline.data.cache import ShardCache
from pipeline.data.datasets import open_examples
from pipeline.data.loading import Examples
from pipeline.data.manifest import SplitName
from pipeline.errors import UserError
from pipeline.gathering import gather
from pipeline.measures import measures_of
from pipeline.parts import PartJob, Rows, settle
from pipeline.previews import joined
from pipeline.scoring.accuracy import accuracy
from stages.processor import prepare_processor


def make_classifier(task: Task) -> dict[str, Any]:
    """Graph node: a classifier trained on real images, and its accuracy on held-out ones at each size."""
    prepare_processor(task.context["threads"])
    data = task.inputs["data"]
    cache = ShardCache(Path(task.context["cache"]), int(task.context["cache_gb"] * 1e9))
    spec = ClassifierSpec.model_validate(task.config["classifier"])
    sizes = task.config["sizes"]
    net = train_classifier(
        spec,
        open_examples(data, "train", cache=cache),
        sizes,
        task.config["seed"],
        log=lambda step, _: task.progress(step, spec.steps),
    )
    save_classifier(net, task.out)
    found = {}
    for size in sizes:
        held_out = open_examples(data, "val", size=size, keep_bytes=0)
        count = min(len(held_out), task.config["held_out"])
        read = [held_out.read(indices) for indices in _blocks(np.arange(count), 250)]
        predicted = np.concatenate([predict(net, pixels) for pixels, _ in read])
        truth = np.concatenate([labels for _, labels in read])
        found[str(size)] = accuracy(predicted[:, None], truth, len(held_out.classes)).top1
    return {"accuracy": found, "held_out": count}


def real_images(task: Task) -> dict[str, Any]:
    """Graph node: measures of the first ``count`` real images of one split at one size.

    The statistics are of all of them, features stay of the first ``kept``: where the split is large, precision and
    recall, KID and the search for near images are content with fewer. Raises UserError where the split holds fewer.
    """
    config = task.config
    split, count = config["split"], config["count"]
    available = len(open_examples(task.inputs["data"], split, size=config["size"], keep_bytes=0))
    if count > available:
        setting = "reference" if split == "train" else "held_out (or samples)"
        raise UserError(
            f"the evaluation asks for {count} real images of the split {split}, which holds {available}; "
            f"lower evaluation.{setting} to at most that"
        )
    gather(task, "pipeline.judging:real_part", kept=config["kept"], precision="f32")
    return {"count": count}


def real_part(job: PartJob) -> Rows:
    """One part of ``real_images``: arrays of one row per image."""
    settle(job.context)
    measures = measures_of(job.config, job.inputs, job.context)
    cache = job.context["cache"], job.context["cache_gb"]
    examples = _opened(job.inputs["data"], job.config["split"], job.config["size"], *cache)

    def blocks() -> Iterator[tuple[npt.NDArray[np.int64], int, npt.NDArray[np.uint8], Rows]]:
        for indices, asked in job.blocks():
            pixels, labels = _read(examples, indices)
            yield indices, asked, pixels, {"labels": labels, **measures.of(pixels)}

    rows = joined(blocks())
    # Nobody scores the reference: its logits would be a gigabyte of every 300,000 images for nothing.
    unread = () if job.config["split"] == "val" else [name for name in rows if name.startswith("logits-")]
    return {name: values for name, values in rows.items() if name not in unread}


@lru_cache(maxsize=4)
def _opened(data: str, split: SplitName, size: int, cache: str, cache_gb: float) -> Examples:
    """Opened once per process; much of it is read, so remote shards come whole, through the cache of the node."""
    return open_examples(Path(data), split, size=size, cache=ShardCache(Path(cache), int(cache_gb * 1e9)), keep_bytes=0)


def _read(examples: Examples, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Past the end of the split its last image is repeated: a net sees whole blocks alone."""
    return examples.read(np.minimum(indices, len(examples) - 1))


def _blocks(values: npt.NDArray[Any], block: int) -> Iterator[npt.NDArray[Any]]:
    return (values[start : start + block] for start in range(0, len(values), block))
