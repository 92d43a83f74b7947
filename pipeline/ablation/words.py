"""How amounts of an ablation's metrics are written: values, differences and intervals. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.ablation.metrics import METRICS
from pipeline.ablation.spec import Metric
from pipeline.report.wording import number, share


def value(metric: Metric, amount: float) -> str:
    """A metric itself: an FID with three digits, a share as per cent."""
    return share(amount) if METRICS[metric].share else number(amount)


def difference(metric: Metric, amount: float) -> str:
    """A difference of two values, or a margin: of shares, in percentage points."""
    scaled = 100 * amount if METRICS[metric].share else amount
    told = number(scaled) if abs(scaled) >= 1000 else f"{scaled:.3g}"
    return f"{told} points" if METRICS[metric].share else told


def interval(metric: Metric, low: float, high: float) -> str:
    """An interval of a difference, both ends to the second digit of its width: [-0.05, 0.08]."""
    scale = 100 if METRICS[metric].share else 1
    width = scale * (high - low)
    decimals = 8 if width <= 0 else min(8, max(0, 1 - math.floor(math.log10(width))))
    ends = [f"{scale * end:z,.{decimals}f}" if width > 0 else number(scale * end) for end in (low, high)]
    return f"[{', '.join(ends)}]{' points' if scale == 100 else ''}"


def probability(p: float) -> str:
    """A p value, with its sign: p = 0.012, p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def per_cent(level: float) -> str:
    """A level that a person gave: 95 %."""
    return f"{100 * level:.6g}\N{NO-BREAK SPACE}%"


def seeds(count: int) -> str:
    return f"{count or 'no'} seed{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
