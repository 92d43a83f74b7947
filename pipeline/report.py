"""The report: what an experiment came to, as one HTML file that opens offline. No figures are computed here.

``Report`` says what a report holds; ``render`` sets it with the template beside this package. The same report gives
the same bytes.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.figures import COLOURS, Axes, Line, line_figure

Kind = Literal["truncated", "non_truncated"]
KIND_NAMES = {"truncated": "truncated", "non_truncated": "non-truncated"}


class Part(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Scores(Part):
    """One row of scores; None where it was not taken."""

    samples: int | None
    fid: float | None
    accuracy: float | None
    precision: float | None
    recall: float | None


class StageSection(Part):
    """One rung of the cascade. Grids are PNG bytes, a row per class."""

    name: str
    size: int
    low_res_size: int | None
    parameters: int
    steps: int
    training_seconds: float
    images_per_second: float
    loss: list[tuple[int, float]]
    chained: Scores
    oracle: Scores | None
    real: Scores
    level: float
    kind: Kind
    grid_png: bytes | None
    oracle_png: bytes | None
    real_png: bytes | None
    per_class: dict[str, float]

    @property
    def gap(self) -> float | None:
        """Chained minus oracle FID: what the chain's own low-res images cost."""
        if self.oracle is None or self.oracle.fid is None or self.chained.fid is None:
            return None
        return self.chained.fid - self.oracle.fid


class SearchPoint(Part):
    """One trial: an augmentation level s, shown as time, log-SNR and DDPM step, and what it scored."""

    kind: Kind
    level: float
    logsnr: float
    ddpm_step: float
    chained_fid: float
    oracle_fid: float | None
    accuracy: float
    recall: float | None
    seconds: float


class Choice(Part):
    """The kind and level that a round of the search chose."""

    kind: Kind
    level: float


class SearchSection(Part):
    """The trials of one stage."""

    stage: str
    metric: str
    points: list[SearchPoint]
    chosen: Choice


class NodeRow(Part):
    """One node of the graph: how long it took when it was computed, and whether this run reused it."""

    name: str
    digest: str
    seconds: float
    reused: bool
    where: str


class Dataset(Part):
    """What was learned from."""

    name: str
    image_size: int
    classes: list[str]
    train: int
    val: int
    resize: str
    lossy: bool


class Report(Part):
    """Everything a report shows."""

    title: str
    created: str
    revision: str
    command: str
    notes: list[str]
    dataset: Dataset
    scorer: str
    stages: list[StageSection]
    searches: list[SearchSection]
    nodes: list[NodeRow]
    settings: dict[str, Any]


def render(report: Report) -> str:
    """The report as one self-contained HTML page."""
    from jinja2 import Environment, StrictUndefined

    template = (Path(__file__).parent / "templates" / "report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": _figure, "share": _share, "clock": clock, "data_uri": _data_uri}
    return environment.from_string(template).render(
        report=report,
        kind_names=KIND_NAMES,
        losses=_loss_figure(report.stages),
        searches=[(section, _fid_figure(section), _accuracy_figure(section)) for section in report.searches],
        settings=json.dumps(report.settings, indent=2),
        verdict=verdict(report),
    )


def verdict(report: Report) -> str:
    """What came out, in one or two sentences made of the figures alone."""
    last = report.stages[-1]
    parts = [f"The cascade's {last.size} px samples have a chained FID of {_figure(last.chained.fid)}"]
    if last.oracle is not None:
        parts.append(f"{_figure(last.oracle.fid)} with real low-res images")
    parts.append(f"{_figure(last.real.fid)} for real held-out images of the same number")
    accuracy = f" A classifier trained on real images recognises {_share(last.chained.accuracy)} of them"
    worst = min(last.per_class.items(), key=lambda item: item[1], default=None)
    worst_text = f", and {_share(worst[1])} of the worst class, {worst[0]}." if worst else "."
    return ", ".join(parts) + "." + accuracy + worst_text


def _loss_figure(stages: list[StageSection]) -> str:
    # A flat average over a few logged steps: single steps scatter more than the curve falls.
    lines = [
        Line(stage.name, _smoothed(stage.loss), COLOURS[number % len(COLOURS)]) for number, stage in enumerate(stages)
    ]
    text = "Training loss of each stage against the optimizer step: " + "; ".join(
        f"{stage.name} ends at {stage.loss[-1][1]:.3f}" for stage in stages if stage.loss
    )
    return line_figure(lines, Axes("step", "training loss", log_y=True), description=text)


def _smoothed(points: list[tuple[int, float]], window: int = 5) -> list[tuple[float, float]]:
    found = []
    for end in range(1, len(points) + 1):
        part = [value for _, value in points[max(0, end - window) : end]]
        found.append((float(points[end - 1][0]), sum(part) / len(part)))
    return found


def _fid_figure(section: SearchSection) -> str:
    lines = _lines(section, "chained_fid", "chained, ")
    oracle = sorted({(p.level, p.oracle_fid) for p in section.points if p.oracle_fid is not None})
    lines.append(Line("oracle", oracle, COLOURS[2], dashed=True, marker="^"))
    best = min(section.points, key=lambda p: (p.kind != section.chosen.kind, abs(p.level - section.chosen.level)))
    text = f"FID of {section.stage} against the augmentation level s: " + _told(section, "chained_fid")
    axes = Axes("augmentation level s", "FID")
    return line_figure(lines, axes, description=text, mark=(best.level, best.chained_fid))


def _accuracy_figure(section: SearchSection) -> str:
    lines = _lines(section, "accuracy", "accuracy, ")
    recall = _lines(section, "recall", "recall, ")
    lines += [Line(line.label, line.points, line.colour, dashed=True, marker="") for line in recall]
    text = f"Accuracy and recall of {section.stage} against s: " + _told(section, "accuracy")
    return line_figure(lines, Axes("augmentation level s", "share of samples"), description=text)


def _lines(section: SearchSection, figure: str, label: str) -> list[Line]:
    """A curve per kind of augmentation. At s = 0 the kinds are one trial, which begins every curve."""
    lines = []
    for number, (kind, name) in enumerate(KIND_NAMES.items()):
        mine = {p.level: getattr(p, figure) for p in section.points if p.level == 0.0 or p.kind == kind}
        points = sorted((level, value) for level, value in mine.items() if value is not None)
        if any(p.kind == kind and p.level > 0 for p in section.points):
            lines.append(Line(label + name, points, COLOURS[number], marker="os"[number]))
    return lines


def _told(section: SearchSection, figure: str) -> str:
    return "; ".join(f"{KIND_NAMES[p.kind]} s={p.level:g}: {getattr(p, figure):.3g}" for p in section.points)


def _figure(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "–" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def clock(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 52 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
