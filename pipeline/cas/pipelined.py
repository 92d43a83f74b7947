"""A set of samples drawn by a line of actors: every stage has its own, which hold the weights of that stage alone.

While the stage above works on one block of images, the stage below draws the next. What a stage hands upward travels
through Ray's object store, from actor to actor; finished images go to the tasks that write shards. Each of these hands
out the blocks of its own shard a few ahead, so what is in flight does not grow with the set. An actor that is lost is
started again and draws its blocks again: they are a plain function of the settings, so the bytes are the same as those
of workers that draw whole chains.

When it pays: workers that draw whole chains keep every device busy already, share nothing and need no balance. A line
is for cascades whose stages are not to share a device, because their weights or compiled graphs do not fit beside each
other, or because a process is to warm up one net and no more. It costs where stages cannot be balanced: with a whole
number of actors for each, the slowest stage sets the pace and the others wait for it, most of all where there are
few actors. ``python -m pipeline.benchmark pipelining`` measures both ways.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.fan_out import FanOut, on_ray
from pipeline.parts import settle
from pipeline.results import folder_of
from pipeline.sampling import refuse_nonfinite, to_draw_from
from stages.cascade import Rung, TrainedStage, levels_kept, sample_stage
from stages.images import to_uint8

if TYPE_CHECKING:
    from pipeline.cas.sample_sets import Drawing

Pixels = npt.NDArray[np.uint8]  # (B, H, W, C)

RETRIES = 3  # of a block whose actor dies over it
AHEAD = 2  # blocks in flight for each actor: one that it draws, and one that waits for it or has just left it
PATIENCE = 600.0  # seconds for a cluster that is too small to grow


class Block(NamedTuple):
    """A canonical block of images: the labels of all of them, and how many are stored; the rest only fill it."""

    first: int
    labels: tuple[int, ...]
    stored: int

    @property
    def indices(self) -> Tensor:
        """Of its images, (B,)."""
        return torch.arange(self.first, self.first + len(self.labels))


class Handed(NamedTuple):
    """A rung on its way to the stage above: arrays, which Ray's object store holds as they are."""

    images: npt.NDArray[np.float32]  # (B, C, H, W)
    kept: Mapping[float, npt.NDArray[np.float32]]  # level s -> z_s (B, C, H, W)

    @classmethod
    def of(cls, rung: Rung) -> Handed:
        return cls(rung.images.cpu().numpy(), {level: z.cpu().numpy() for level, z in rung.kept.items()})

    def rung(self, device: str) -> Rung:
        """Copied to ``device``: what lies in the object store can only be read."""
        kept = {level: torch.tensor(z, device=device) for level, z in self.kept.items()}
        return Rung(torch.tensor(self.images, device=device), kept)


class StageActor:
    """Stage ``number`` of a drawing, in a process of its own."""

    def __init__(self, drawing: Drawing, number: int) -> None:
        self._drawing, self._number, self._busy = drawing, number, 0.0
        settle({"threads": drawing.threads})

    @cached_property
    def _trained(self) -> TrainedStage:
        drawing, number = self._drawing, self._number
        length = drawing.sampling[number].ema_length
        folder = folder_of(drawing.stages[number])
        return to_draw_from(folder, ema_length=length, device=drawing.device, compiled=drawing.compiled)

    def ready(self) -> None:
        """Returns when the weights are there. Not done at the start: an actor that dies of it would start for ever."""
        assert self._trained

    def busy(self) -> float:
        """Seconds spent drawing since it started."""
        return self._busy

    def draw(self, block: Block, below: Handed | None) -> tuple[Handed | None, Pixels]:
        """What the stage above needs of a block (None: there is none above), and its images.

        Raises FloatingPointError for images that are to be stored and are not finite.
        """
        drawing, number, begun = self._drawing, self._number, time.perf_counter()
        rung = sample_stage(
            self._trained,
            drawing.sampling[number],
            block.indices.to(drawing.device),
            torch.tensor(block.labels).to(drawing.device),
            None if below is None else below.rung(drawing.device),
            seed=drawing.seed,
            keep=levels_kept(drawing.sampling, number),
            precision=drawing.precision,
        )
        refuse_nonfinite(rung.images[: block.stored], drawing.names[number], block.indices[: block.stored])
        last = number + 1 == len(drawing.stages)
        found = None if last else Handed.of(rung), to_uint8(rung.images).cpu().numpy()
        self._busy += time.perf_counter() - begun
        return found


@dataclass(frozen=True)
class Line:
    """The actors of every stage, base first. It travels to the tasks that write shards, which hand out blocks."""

    names: tuple[str, ...]
    actors: tuple[tuple[Any, ...], ...]

    @property
    def in_flight(self) -> int:
        """Blocks that one shard has handed out at most, enough to keep all actors at work."""
        return AHEAD * sum(map(len, self.actors))

    def writers(self, shard_blocks: int) -> FanOut:
        """How shards of so many blocks are written: by tasks that wait for blocks and hold no CPU.

        One more at once than it takes to keep the actors at work, for when one comes to the end of its shard.
        """
        return on_ray(cpus=0.0, at_most=1 + -(-self.in_flight // shard_blocks), name="pipelined samples")

    def drawn(self, blocks: Iterable[Block]) -> Iterator[list[Pixels]]:
        """The images of each block in turn, of every stage, base first.

        Raises what a stage raised, and RuntimeError where its actors die of a block.
        """
        waiting: deque[list[Any]] = deque()
        for block in blocks:
            waiting.append(self._hand_out(block))
            if len(waiting) >= self.in_flight:
                yield list(map(_result, self.names, waiting.popleft()))
        while waiting:
            yield list(map(_result, self.names, waiting.popleft()))

    def busy(self) -> list[list[float]]:
        """Seconds that each actor has spent drawing, by stage."""
        import ray

        return [ray.get([actor.busy.remote() for actor in actors]) for actors in self.actors]

    def _hand_out(self, block: Block) -> list[Any]:
        """References to the images of every stage. Actors of a stage take blocks in turn."""
        turn, below, pixels = block.first // len(block.labels), None, []
        for name, actors in zip(self.names, self.actors, strict=True):
            draw = actors[turn % len(actors)].draw.options(num_returns=2, name=f"draw {name}")
            below, images = draw.remote(block, below)
            pixels.append(images)
        return pixels


def _result(name: str, reference: Any) -> Any:
    """What an actor of stage ``name`` returned; see ``Line.drawn``."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(f"stage {name}: {1 + RETRIES} actors died of the same call: {error}") from error


@contextmanager
def stage_line(
    drawing: Drawing, counts: Sequence[int], *, gpus: float, name: str, patience: float = PATIENCE
) -> Iterator[Line]:
    """A line with ``counts`` actors of each stage, their weights loaded; none of them is left afterwards.

    Each has the drawing's threads as CPUs, and ``gpus`` GPUs. Room for all of them is set aside at once, under
    ``name``, so that two lines never wait for each other's. What a process that was killed had set aside under that
    name is given back. Raises UserError where the cluster is too small, and does not grow within ``patience`` seconds.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    with suppress(ValueError):  # there is none, as a rule
        remove_placement_group(ray.util.get_placement_group(name))
    share = {"CPU": float(drawing.threads)} | ({"GPU": gpus} if gpus else {})
    room = placement_group([share] * sum(counts), strategy="PACK", name=name)
    places = iter(range(sum(counts)))
    made: Any = ray.remote(StageActor)
    actors: list[Any] = []

    def start(number: int) -> Any:
        place = PlacementGroupSchedulingStrategy(room, next(places))
        needs = {"num_cpus": share["CPU"], "num_gpus": gpus, "scheduling_strategy": place}
        actor = made.options(**needs, max_restarts=-1, max_task_retries=RETRIES).remote(drawing, number)
        actors.append(actor)
        return actor

    try:
        _wait_for(room, share, sum(counts), patience)
        line = Line(drawing.names, tuple(tuple(start(n) for _ in range(count)) for n, count in enumerate(counts)))
        loading = [[actor.ready.remote() for actor in stage] for stage in line.actors]
        for stage, references in zip(line.names, loading, strict=True):
            for reference in references:
                _result(stage, reference)
        yield line
    finally:
        for actor in actors:
            ray.kill(actor)
        remove_placement_group(room)


def _wait_for(room: Any, share: Mapping[str, float], actors: int, patience: float) -> None:
    """Until ``room`` is set aside: as long as it takes where the cluster is only busy."""
    import ray

    begun = time.monotonic()
    while not room.wait(1):
        there = ray.cluster_resources()
        for kind, each in share.items():
            if there.get(kind, 0.0) < each * actors and time.monotonic() - begun > patience:
                raise UserError(
                    f"resources.pipelined_sampling: {actors} actors of {each:g} {kind} each work at once, and the "
                    f"cluster has {there.get(kind, 0.0):g}; lower resources.sampling_workers, or set "
                    "pipelined_sampling to false"
                )
