"""The ``ingest`` command of `jobs.cli`: its options and their help, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.ingesting import Hands, IngestOrder, make_data, verify_data
from jobs.options import AsJson, Debug
from jobs.work import Manner
from pipeline.data.manifest import JPEG_QUALITY


def ingest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Images in one folder per class, a .tar or .tar.gz of them, a tar of one tar per class (as ImageNet "
            "comes) or WebDataset shards; a path or s3://bucket/prefix. With --verify: the data set to look at.",
        ),
    ],
    dest: Annotated[
        str | None,
        typer.Argument(metavar="DEST", help="A new or empty folder or s3://bucket/prefix for the data set."),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Side of the stored square images in px; may be repeated, and carry an encoding of its own: 64:raw.",
            show_default="32",
        ),
    ] = None,
    encoding: Annotated[str, typer.Option(help="How they are stored: png, webp (lossless), jpeg or raw.")] = "png",
    quality: Annotated[int, typer.Option(help="Of jpeg, 1 to 100.")] = JPEG_QUALITY,
    val_fraction: Annotated[
        float, typer.Option(help="Share of each class held out when nothing else is, 0 to below 1.")
    ] = 0.1,
    val: Annotated[str | None, typer.Option(help="A second source, for the held-out images.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Lines FILE CLASS, for images without class folders (of --val, if given).")
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Examples per shard.")] = 5000,
    max_undecodable: Annotated[
        int, typer.Option(help="Files that may turn out to be no image; they are named in the manifest.")
    ] = 0,
    spool: Annotated[
        Path | None,
        typer.Option(help="Where to decompress a .tar.gz, a folder that all workers see; beside DEST if not said."),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to work on; one is started here without.")] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="Without Ray, on one core.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte of a data set; write nothing.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a data set of WebDataset shards, or check one. Killed at any moment, the same command goes on from there.

    Images come out as centre-cropped RGB squares; of several sizes the smaller are box means of the largest.

    Example: [cyan]rayfall ingest photos.tar.gz data/photos --size 64[/cyan], then in the experiment
    [cyan]data: {kind: shards, path: data/photos}[/cyan].

    ImageNet in two forms: [cyan]rayfall ingest ILSVRC2012_img_train.tar s3://bucket/imagenet --size 256
    --size 64:raw --encoding jpeg[/cyan]
    """
    order = IngestOrder(
        source=source,
        dest=dest,
        sizes=tuple(size or ("32",)),
        encoding=encoding,
        quality=quality,
        val_fraction=val_fraction,
        val=val,
        labels=labels,
        shard_size=shard_size,
        max_undecodable=max_undecodable,
        spool=spool,
    )
    (verify_data if verify else make_data)(order, Hands(address, in_process), Manner(as_json, debug))
