"""What a search came to, in sentences and short texts, for the report and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.report.search_parts import KIND_NAMES, SearchPoint, SearchSection
from pipeline.report.setting_names import told_settings
from pipeline.report.wording import clock, estimate, number, share

_MOST = 6  # trials of a front that a sentence names
METRIC_NAMES = {"chained_fid": "chained FID", "chained_accuracy": "accuracy"}


def told_metric(metric: str) -> str:
    """The figure that a search goes by, as a person calls it."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def told_setting(section: SearchSection, index: int) -> str:
    """What trial ``index`` set: "s = 0.1, truncated" of a level, else "steps 20, sampler ddim"."""
    if section.of_levels:
        place = section.place(index)
        return f"s = {place.level:g}" + (f", {KIND_NAMES[place.kind]}" if place.level else "")
    return told_settings(section.points[index].settings, section.names) or "the experiment's own settings"


def told_counts(section: SearchSection) -> str:
    """How many trials there were, and how they ended where not all finished: "8 trials: 6 finished, 2 dropped"."""
    count = f"{len(section.points)} trial{'s' if len(section.points) != 1 else ''}"
    ends = section.counts
    if set(ends) == {"finished"} or not ends:
        return count
    return f"{count}: " + ", ".join(f"{found} {status}" for status, found in ends.items())


def told_points(section: SearchSection) -> str:
    """Every trial in turn, the best first, for those who do not see the figure."""

    def one(index: int) -> str:
        point = section.points[index]
        told = told_setting(section, index)
        if not point.finished:
            return f"{told} {point.status}"
        told += f" chained FID {number(point.chained_fid)}, accuracy {share(point.accuracy)}"
        return told + (" (chosen)" if index == section.chosen else "")

    return "; ".join(map(one, section.order)) + "."


def told_front(section: SearchSection) -> str:
    """The trials of the Pareto front by their places in the table: "3 (steps 20: FID 14.1, accuracy 88.0 %)"; of many
    the first, and of many settings none."""

    def one(index: int) -> str:
        point = section.points[index]
        goals = f"FID {number(point.chained_fid)}, accuracy {share(point.accuracy)}"
        setting = f"{told_setting(section, index)}: " if len(section.varied) <= 2 else ""
        return f"{section.ranks[index]} ({setting}{goals})"

    shown = [one(index) for index in section.front if section.points[index].finished]
    more = [f"and {len(shown) - _MOST} more"] if len(shown) > _MOST else []
    return "; ".join(shown[:_MOST] + more)


def told_rungs(section: SearchSection) -> str:
    """From where to where the looks at each trial went, and how it ended."""

    def one(index: int, point: SearchPoint) -> str:
        (start, first), (end, last) = point.rungs[0], point.rungs[-1]
        course = f"{number(first)} at step {start:,}"
        course += f" to {number(last)} at step {end:,}" if end != start else ""
        return f"{told_setting(section, index)} {course}, {point.status}"

    return "; ".join(one(index, section.points[index]) for index in section.order if section.points[index].rungs) + "."


def told_difference(value: float | None, error: float | None) -> str:
    """A difference with its sign and, where it is known, its standard error; or a dash."""
    if value is None:
        return number(value)
    return ("+" if value > 0 else "−" if value < 0 else "") + estimate(abs(value), error)


def told_costs(section: SearchSection) -> str:
    """What the trials of a round shared and saved, how long it took, and where the time of trainings went."""
    return " ".join(_costs(section))


def _costs(section: SearchSection) -> Iterator[str]:
    if section.shared:
        yield sentence(section.shared)
    if section.wall_seconds:
        busy = "" if section.busy_share is None else f", {share(section.busy_share)} of the actors' time inside trials"
        yield f"The round took {clock(section.wall_seconds)} by the clock{busy}."
    if (times := section.times) is None or not times.seconds:
        return
    parts = {"training": times.training_seconds, "scoring": times.scoring_seconds, "start": times.start_seconds,
             "waiting for each other": times.waiting_seconds, "all else": times.other_seconds}  # fmt: skip
    told = ", ".join(f"{name} {clock(seconds)}" for name, seconds in parts.items() if seconds >= 0.05)
    yield f"Of {clock(times.seconds)} inside trials, added up: {told}."
    if times.start_each is not None and times.start_most is not None:
        most = f" on average, {clock(times.start_most)} at most" if times.trained > 1 else ""
        yield f"From its begin to its first step a training took {clock(times.start_each)}{most}."


def sentence(text: str) -> str:
    """``text`` from a capital letter to a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def told_budget(sections: Sequence[SearchSection]) -> str:
    """What the search may spend, and what all its rounds spent. Empty without such a limit."""
    limits = []
    for section in sections[:1]:  # it is one for all of them
        if section.budget_gpu_hours:
            limits.append(f"{number(section.spent_gpu_hours)} of {section.budget_gpu_hours:g} GPU-hours")
        if section.budget_hours:
            limits.append(f"{number(section.spent_hours)} of {section.budget_hours:g} hours by the clock")
    return f"The search spent {' and '.join(limits)}." if limits else ""
