"""Checks of an experiment's parts against each other: what each part alone cannot know. ValueErrors of one sentence.

They are made when the experiment is read, so that nothing takes hours and fails then. What depends on a data set that
is not described is checked when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.specs import DrawnData, ShardData
from pipeline.scorer_specs import ClassifierScorer

if TYPE_CHECKING:
    from pipeline.experiment_spec import Experiment


def check_stage(experiment: Experiment, name: str) -> None:
    """The sizes of a stage, of the stage below it and of the data set; its batch and the workers."""
    stage, below, data = experiment.stages[name], experiment.below(name), experiment.data
    if below is None and stage.low_res_size is not None:
        raise ValueError(f"stages.{name}: the first stage has no low-res input; remove low_res_size")
    if below is not None and stage.low_res_size != experiment.stages[below].size:
        size = experiment.stages[below].size
        if stage.low_res_size is None:
            raise ValueError(f"stages.{name}: low_res_size is missing; the stage below, {below}, makes {size} px")
        raise ValueError(
            f"stages.{name}: low_res_size is {stage.low_res_size}, but the stage below, {below}, makes {size} px"
        )
    if not isinstance(data, ShardData) and data.size % stage.size:
        raise ValueError(f"stages.{name}: images of {data.size} px do not shrink evenly to {stage.size} px")
    training, workers = stage.training, experiment.resources.most_workers
    if workers > training.most_workers:
        parts = "examples" if training.micro_batch is None else f"micro-batches of {training.micro_batch}"
        raise ValueError(
            f"stages.{name}.training.batch_size {training.batch_size} has {training.most_workers} {parts}, too few for "
            f"{workers} workers; lower resources.workers to {training.most_workers} or less"
        )


def check_recompute(experiment: Experiment) -> None:
    """A limit above which blocks are computed again must leave some that are; compiled, they draw other masks."""
    limit = experiment.resources.recompute
    if limit is None:
        return
    largest = max(max(stage.net.block_sizes(stage.size)) for stage in experiment.stages.values())
    for name, stage in experiment.stages.items() if experiment.resources.compile else ():
        sides = zip(stage.net.feature_sizes(stage.size), stage.net.dropouts(stage.size), strict=True)
        if any(side >= limit and share for side, share in sides):
            raise ValueError(
                f"resources.compile and resources.recompute {limit} px together change the dropout of stages.{name}: "
                "compiled blocks that are computed again draw masks of their own; leave out one of the two"
            )
    if limit > largest:
        raise ValueError(
            f"resources.recompute {limit} px leaves nothing to compute again: the largest feature maps of the stages "
            f"are {largest} px; lower it to {largest} or less"
        )


def check_graphs(experiment: Experiment) -> None:
    """CUDA graphs are launched on GPUs."""
    if experiment.resources.compile == "graphs" and not experiment.resources.gpus_per_worker:
        raise ValueError(
            "resources.compile: graphs launches kernels of GPUs, and resources.gpus_per_worker is 0; give workers "
            "GPUs, or set compile to true"
        )


def check_truncation(experiment: Experiment, name: str) -> None:
    """A chain can be cut short only at a level that it passes: it may walk another schedule than that of training."""
    below, sampling = experiment.below(name), experiment.stages[name].sampling
    if below is None or sampling.augmentation != "truncated" or sampling.level == 0:
        return
    stage = experiment.stages[below]
    if stage.sampling.schedule is None:
        return
    # torch comes in only where there are two schedules to compare: reading an experiment is instant.
    from stages.schedules import build_schedule, logsnr_of_level, sampling_grid

    stop = logsnr_of_level(build_schedule(stage.schedule, stage.size), sampling.level)
    start = float(sampling_grid(build_schedule(stage.sampling.schedule, stage.size), stage.sampling.steps)[0])
    if stop < start:
        raise ValueError(
            f"stages.{name}.sampling.level {sampling.level:g} is at log-SNR {stop:.3g}, but sampling.schedule of "
            f"{below} begins at {start:.3g} and never passes it; lower the level, or set augmentation: non_truncated"
        )


def check_bound(experiment: Experiment) -> None:
    """A variational bound is of stages whose schedule has steps, and of as many as there are at most."""
    bound = experiment.evaluation.bound
    if bound is None:
        return
    if not experiment.bounded:
        raise ValueError(
            "evaluation.bound needs a stage whose schedule has T steps (linear_beta or cosine_beta), and no stage "
            "has one; remove bound"
        )
    for name, steps in experiment.bounded.items():
        if bound.steps is not None and bound.steps > steps:
            raise ValueError(f"evaluation.bound.steps {bound.steps} is more than the {steps} steps of stages.{name}")


def check_counts(experiment: Experiment) -> None:
    """As many images as are asked for must be there, and more than the neighbours of precision and recall."""
    evaluation, search, data = experiment.evaluation, experiment.search, experiment.data
    held_out = {
        "evaluation.samples" if evaluation.held_out is None else "evaluation.held_out": evaluation.held_out_images
    }
    counts = {"evaluation.samples": evaluation.samples, **held_out, "evaluation.reference": evaluation.reference}
    if search is not None:
        held_out["search.samples"] = counts["search.samples"] = search.samples
    for path, count in counts.items():
        if count <= evaluation.neighbours:
            raise ValueError(
                f"{path} {count} is too few for precision and recall with evaluation.neighbours "
                f"{evaluation.neighbours}; raise it to {evaluation.neighbours + 1} or more"
            )
    if evaluation.bound is not None:
        held_out["evaluation.bound.images"] = evaluation.bound.images
    if isinstance(data, DrawnData):
        for path, count in held_out.items():
            if count > data.val:
                raise ValueError(f"{path} {count} is more than the {data.val} held-out images of data.val; lower it")
    train = data.train if isinstance(data, DrawnData) else data.expects.train if data.expects else None
    if train is not None and evaluation.reference > train:
        where = "data.train" if isinstance(data, DrawnData) else "data.expects.train"
        raise ValueError(
            f"evaluation.reference {evaluation.reference} is more than the {train} images of {where}; lower it"
        )


def check_pipelining(experiment: Experiment) -> None:
    """Each stage of a chain has an actor of its own at least, and all of them together are sampling workers."""
    resources = experiment.resources
    if (asked := resources.pipelined_sampling) is False:
        return
    counts = {} if asked is True else asked
    for name in counts:
        if name not in experiment.stages:
            raise ValueError(
                f"resources.pipelined_sampling names {name!r}, and stages are {', '.join(experiment.names)}"
            )
    for chain in experiment.chains.values():
        needed = sum(counts.get(name, 1) for name in chain)
        if len(chain) > 1 and resources.sampling_workers < needed:
            raise ValueError(
                f"resources.pipelined_sampling needs {needed} actors for the stages {' > '.join(chain)}, and "
                f"resources.sampling_workers is {resources.sampling_workers}; raise that to {needed} or more, or set "
                "pipelined_sampling to false"
            )


def check_search_samples(experiment: Experiment) -> None:
    """FID is refused of no more samples than its features have dimensions, and a search by it would choose nothing."""
    search, evaluation = experiment.search, experiment.evaluation
    if search is None or search.metric != "chained_fid":
        return
    scorer = evaluation.scorer
    dimension = sum(evaluation.classifier.channels) if isinstance(scorer, ClassifierScorer) else scorer.dimension
    if search.samples <= dimension:
        raise ValueError(
            f"search.samples {search.samples} is no more than the {dimension} dimensions of the features, of which no "
            f"FID can be had; raise it above that (20 times as many for one to be trusted), or search by "
            "chained_accuracy"
        )


def check_seeds(experiment: Experiment) -> None:
    """Trials draw other noise than the final evaluation, or its scores would be those that were selected on."""
    search, evaluation = experiment.search, experiment.evaluation
    finals = {"evaluation.seed": evaluation.seed}
    if evaluation.cas is not None:
        finals["evaluation.cas.seed"] = evaluation.cas.seed
    for path, seed in finals.items() if search is not None else ():
        if search is not None and search.seed == seed:
            raise ValueError(
                f"search.seed and {path} are both {seed}, so the final scores would be those that the search "
                "selected; give the search another seed"
            )


def check_cas(experiment: Experiment) -> None:
    """Workers and batch of the classification accuracy score: it normalises by the statistics of each worker's images.

    Its small net halves its images evenly, at the size of every stage.
    """
    cas, workers = experiment.evaluation.cas, experiment.resources.workers
    if cas is None:
        return
    if not isinstance(workers, int):
        raise ValueError(
            f"resources.workers is a range, {workers.min} to {workers.max}, and the score of evaluation.cas depends on "
            "the number of workers; give one number"
        )
    if cas.batch_size < 2 * workers:
        raise ValueError(
            f"evaluation.cas.batch_size {cas.batch_size} has fewer than 2 images for each of {workers} workers, too "
            f"few for the statistics of a batch norm; raise it to {2 * workers} or more"
        )
    if cas.net.kind != "small":
        return
    levels = len(cas.net.channels)
    for name, stage in experiment.stages.items():
        side = cas.side(stage.size)
        if side % 2**levels:
            raise ValueError(
                f"evaluation.cas.net has {levels} levels, which need a multiple of {2**levels} px, and sees {side} px "
                f"of the images of stages.{name}; leave out levels, or set evaluation.cas.crop to null"
            )
