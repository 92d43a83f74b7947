"""``rayfall evaluate IMAGES --against REFERENCE``: its arguments become one call, and what came of it a table."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.endings import ending, plain
from jobs.progress import display
from jobs.work import Manner, page
from pipeline.errors import UserError
from pipeline.events import Events
from pipeline.outputs import check_file, users_choice, write_whole

if TYPE_CHECKING:
    from pipeline.fan_out import FanOut
    from pipeline.foreign.judgement import Request

BLOCK, NEIGHBOURS = 64, 3
CACHE = Path("~/.cache/rayfall")
_SCORES = {
    "fid": "FID",
    "fid_infinity": "FID at infinitely many samples",
    "kid": "KID",
    "inception_score": "Inception score",
    "sfid": "sFID",
    "precision": "precision",
    "recall": "recall",
}
T = TypeVar("T")


@dataclass(frozen=True)
class ForeignOrder:
    """The command's arguments as they were typed; ``options`` those that were given."""

    images: str
    against: str | None
    options: Mapping[str, Any]


def score_foreign(order: ForeignOrder, settings: Sequence[str] | None, manner: Manner) -> None:
    """Score images, tell the figures and their passport, and write both where --out says."""
    with ending("evaluate", as_json=manner.as_json, debug=manner.debug) as end:
        request = _request(order, settings)
        workers, out = order.options.get("workers"), order.options.get("out")
        check_file(out)
        from pipeline.data.scratch import scratch_folder
        from pipeline.foreign.judgement import judge

        with (
            display(end.console) as events,
            _fan_out(workers, order.options.get("address"), events) as fan_out,
            scratch_folder(Path(tempfile.gettempdir())) as scratch,
        ):
            told = _Told(events)
            end.figures = judge(
                request,
                fan_out=fan_out,
                threads=_threads(order.options),
                scratch=scratch,
                progress=told.progress,
            )
        if out is not None:
            with users_choice(out):
                write_whole(out, json.dumps(plain(end.figures), indent=2) + "\n")
        if not manner.as_json:
            _tell(page(), end.figures)


def _request(order: ForeignOrder, settings: Sequence[str] | None) -> Request:
    given = order.options
    if order.against is None:
        if not given:
            raise UserError(f"{order.images} is no experiment; to score images, say --against REFERENCE")
        option = next(iter(given)).replace("_", "-")
        raise UserError(
            f"--{option} is of images from anywhere: say --against REFERENCE, or leave it out to evaluate an experiment"
        )
    if settings:
        raise UserError("--set changes an experiment, and with --against there is none; leave one of them out")
    if given.get("address") is not None and given.get("workers") is None:
        raise UserError("--address names the cluster of the workers; say how many: --workers N")
    device = given.get("device", "cpu")
    if device != "cpu" and given.get("workers") is not None:
        raise UserError(
            f"--workers share CPU cores, and --device {device} works in this process; leave one of them out"
        )
    from pipeline.data.manifest import SplitName
    from pipeline.foreign.images import Filter
    from pipeline.foreign.judgement import Request

    return Request(
        images=order.images,
        against=order.against,
        scorer=given.get("scorer", "inception"),
        weights=given.get("weights"),
        sha256=given.get("sha256"),
        split=_one_of(given, "split", get_args(SplitName)) or "train",
        sample_split=_one_of(given, "sample_split", get_args(SplitName)),
        count=given.get("count"),
        size=given.get("size"),
        resize=_one_of(given, "resize", get_args(Filter)),
        labels=_one_of(given, "labels", ("uniform", "histogram")),
        block=given.get("block", BLOCK),
        neighbours=given.get("neighbours", NEIGHBOURS),
        device=_device(device),
        cache=given.get("cache", CACHE),
    )


def _one_of(given: Mapping[str, Any], name: str, known: Sequence[T]) -> Any:
    value = given.get(name)
    if value is not None and value not in known:
        raise UserError(f"--{name.replace('_', '-')} {value}: say {' or '.join(map(str, known))}")
    return value


def _device(name: str) -> str:
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch says with which it was built, at length
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {name} cannot be used: {reason}; say cpu, or a GPU of this machine") from None
    return name


def _threads(given: Mapping[str, Any]) -> int:
    """One for each worker, so that any number of workers gives the same bits; without workers, as torch finds them."""
    import torch

    threads: int = given.get("threads") or (torch.get_num_threads() if given.get("workers") is None else 1)
    return threads


@contextmanager
def _fan_out(workers: int | None, address: str | None, events: Events) -> Iterator[FanOut]:
    """Ray is joined or started when the first images are to be seen, so a mistake needs none."""
    from pipeline.fan_out import in_turn

    if workers is None:
        yield in_turn
        return
    from pipeline.cluster import ray_cluster
    from pipeline.fan_out import on_ray

    with ExitStack() as stack:

        def call(function: Any, jobs: Any) -> Any:
            events.message("starting Ray" if address is None else f"joining Ray at {address}")
            stack.enter_context(ray_cluster(address))
            import ray

            cores = ray.cluster_resources().get("CPU", 1.0)
            return on_ray(cpus=max(1.0, cores // workers), name="see")(function, jobs)

        yield call


class _Told:
    """The progress of samples and reference, as the nodes of a graph have it."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._began: dict[str, float] = {}

    def progress(self, what: str, done: int, total: int) -> None:
        if what not in self._began:
            self._began[what] = time.monotonic()
            self._events.started(what)
        self._events.progress(what, done, total)
        if done == total:
            self._events.finished(what, time.monotonic() - self._began[what], False)
            self._began.pop(what)
            if what == "samples":
                self._events.message("computing the scores")  # minutes, with error bars of 2,048 features


def _tell(console: Console, figures: Mapping[str, Any]) -> None:
    """The scores, what there is to know of them, and their passport."""
    from pipeline.scoring.passport import Passport
    from pipeline.scoring.passport_words import told

    extractor = figures["passport"]["extractor"]["name"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"score ({extractor} features)", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("", no_wrap=True)
    for name, title in _SCORES.items():
        if figures[name] is not None:
            table.add_row(title, f"{figures[name]:.5g}", _error(name, figures))
    console.print(table)
    if figures["fid_curve"]:
        points = ", ".join(f"{value:.4g} of {count:,}" for count, value in sorted(figures["fid_curve"]))
        _say(console, f"FID by samples: {points}")
    for sentence in figures["flags"]:
        _say(console, f"note: {sentence}")
    if left_out := figures["left_out"]:
        more = f" and {len(left_out) - 3} more" if left_out[3:] else ""
        _say(console, f"left out: {'; '.join(left_out[:3])}{more}")
    passport = Table(box=None, pad_edge=False, show_header=False, title="passport", title_justify="left")
    passport.add_column(no_wrap=True, style="dim")
    passport.add_column(overflow="fold")
    for label, value in told(Passport.model_validate(figures["passport"])):
        passport.add_row(label, escape(value))
    console.print(passport)


def _error(name: str, figures: Mapping[str, Any]) -> str:
    """The standard error of a score, or the spread over its subsets, which is none."""
    error, spread = figures.get(f"{name}_error"), figures.get(f"{name}_std")
    if error is not None:
        return f"± {error:.2g}"
    return "" if spread is None else f"spread {spread:.2g} over subsets"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
