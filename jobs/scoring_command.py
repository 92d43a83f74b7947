"""The ``evaluate`` command of `jobs.cli`: its options and their help, and which of its two uses was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import AsJson, Debug, Settings
from jobs.scoring import BLOCK, CACHE, NEIGHBOURS, ForeignOrder, score_foreign
from jobs.work import Manner, towards, work

PANEL = "Images from anywhere (with --against)"


def _option(text: str, default: str | None = None, **limits: Any) -> Any:
    """An option of the second use. None stands for "not given", so that the first use can refuse it."""
    return typer.Option(help=text, show_default=default or False, rich_help_panel=PANEL, **limits)


What = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT|IMAGES",
        help="An experiment's YAML file; or, with --against, images to score: a folder, a .tar or .tar.gz, WebDataset "
        "shards or one of our data sets (also at s3://bucket/prefix), or an .npz with arr_0 uint8 (N, H, W, 3) as "
        "guided-diffusion (ADM) writes it.",
    ),
]
Against = Annotated[
    str | None,
    _option(
        "The reference: any such images, or an .npz that holds the statistics mu, sigma, mu_s, sigma_s (an ADM "
        "reference batch), which are taken as they are."
    ),
]
Split = Annotated[str | None, _option("Of a reference that is a data set: train or val.", "train")]
SampleSplit = Annotated[str | None, _option("Of IMAGES that are a data set: train or val.")]
Scorer = Annotated[
    str | None,
    _option("inception, dinov2, one of its models (dinov2-vit-b-14) or the folder of a classifier.", "inception"),
]
Weights = Annotated[str | None, _option("Weights of inception or dinov2: a file, or a URL to fetch once.")]
Sha256 = Annotated[str | None, _option("What the weights file must have, else it is refused.")]
Count = Annotated[int | None, _option("Score the first so many images.", "all", min=1)]
Size = Annotated[int | None, _option("Side in px at which all are judged.", "that of IMAGES", min=1)]
Resize = Annotated[
    str | None, _option("Bring images of another size to it: box or bicubic. Without, they are refused.")
]
LabelsDrawn = Annotated[str | None, _option("How the classes of IMAGES were drawn: uniform or histogram.")]
Neighbours = Annotated[int | None, _option("k of precision and recall.", str(NEIGHBOURS), min=1)]
Block = Annotated[int | None, _option("Images seen at once; it changes the last bits.", str(BLOCK), min=1)]
Workers = Annotated[int | None, _option("Work in so many Ray tasks at once.", "in this process", min=1)]
Threads = Annotated[
    int | None,
    _option(
        "Threads of torch in this process and in each worker; it changes the last bits. As many workers as you like "
        "change none.",
        "1 with --workers, else all cores",
        min=1,
    ),
]
Address = Annotated[str | None, _option("Ray cluster of the workers; one is started here without.")]
Device = Annotated[str | None, _option("cpu, or a GPU such as cuda:0.", "cpu")]
Cache = Annotated[Path | None, _option("Folder for features of references and for fetched weights.", str(CACHE))]
Out = Annotated[Path | None, _option("JSON file for the scores and their passport.")]


def evaluate(
    what: What,
    settings: Settings = None,
    against: Against = None,
    split: Split = None,
    sample_split: SampleSplit = None,
    scorer: Scorer = None,
    weights: Weights = None,
    sha256: Sha256 = None,
    count: Count = None,
    size: Size = None,
    resize: Resize = None,
    labels: LabelsDrawn = None,
    neighbours: Neighbours = None,
    block: Block = None,
    workers: Workers = None,
    threads: Threads = None,
    address: Address = None,
    device: Device = None,
    cache: Cache = None,
    out: Out = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score every stage of an experiment; or, with --against, images from anywhere, by the same figures.

    The stages of an experiment are scored chained and on real low-res images, as its evaluation section says.
    Example: [cyan]rayfall evaluate jobs/experiments/demo.yaml --set evaluation.samples=5000 --json[/cyan]

    Another system's samples get the passport that ours get: what the scores were measured on, with, and how.
    Example: [cyan]rayfall evaluate samples.npz --against VIRTUAL_imagenet256_labeled.npz --weights inception.pth[/cyan]
    """
    given = {
        "split": split,
        "sample_split": sample_split,
        "scorer": scorer,
        "weights": weights,
        "sha256": sha256,
        "count": count,
        "size": size,
        "resize": resize,
        "labels": labels,
        "neighbours": neighbours,
        "block": block,
        "workers": workers,
        "threads": threads,
        "address": address,
        "device": device,
        "cache": cache,
        "out": out,
    }
    options = {name: value for name, value in given.items() if value is not None}
    manner = Manner(as_json, debug)
    if against is None and not options and not _are_images(what):
        work("evaluate", Path(what), settings, manner, towards("evaluate"))
    else:
        score_foreign(ForeignOrder(what, against, options), settings, manner)


def _are_images(what: str) -> bool:
    """Whether an argument cannot be an experiment, so that --against must have been forgotten."""
    return what.startswith("s3:/") or Path(what).is_dir() or what.lower().endswith((".npz", ".tar", ".gz", ".tgz"))
