"""Groups at highest risk in an evaluation: rates from the 90th percentile on, and the share of events they hold."""

from __future__ import annotations

from collections.abc import Sequence

from ecgshared.stages.results.evaluate import RateAtShare
from ecgshared.stages.threshold import Config as Threshold
from server.report.labels import Labels
from server.report.sections import Panels, Series

Line = tuple[str, str, Sequence[RateAtShare]]
"""A heading, the hospital it is of ("" where pooled), and its points."""
_TENTH = 0.1


def trial_rate(step: str, labels: Labels) -> float | None:
    """Return the rate that a group had to exceed at the threshold an evaluation uses; None where there is none."""
    if labels.study is None or all(s.id != step for s in labels.study.steps):
        return None
    fixed = labels.study.used(labels.study.step(step), "threshold")
    return fixed.min_rate if isinstance(fixed, Threshold) else None


def top_tenth(lines: Sequence[Line], rate: float | None) -> Panels | None:
    """Draw the event rate by percentile, from the 90th on; None where no point lies there."""
    panels = []
    for heading, site, points in lines:
        near = sorted((p for p in points if p.share is not None and p.share <= _TENTH), key=lambda p: -(p.share or 0))
        if near:
            x = [100 * (1 - (p.share or 0)) for p in near]
            y, low, high = ([getattr(p.rate, end) for p in near] for end in ("value", "low", "high"))
            panels.append((heading, [Series(site or "pooled", x, y, low, high, site=site, emphasis=not site)]))
    if not panels:
        return None
    line = "" if rate is None else f" Dashed: {100 * rate:.1f}%, the rate that the high-risk group had to exceed."
    return Panels(
        "Event rate above the 90th percentile",
        (),
        "percentile of the risk from which the group begins",
        "event rate (PPV)",
        reference=rate,
        caption=f"Bands: 95% intervals. Points stand at cuts that hospitals answered.{line}",
        panels=panels,
    )


def captured(lines: Sequence[Line]) -> Panels | None:
    """Draw the share of all events that lies above each cut, by the share of ECGs flagged; None where nobody tells."""
    panels = []
    for heading, site, points in lines:
        told = sorted(
            (p.share, p.captured) for p in points if p.share is not None and p.captured is not None and 0 < p.share < 1
        )
        if told:
            x, y = (list(column) for column in zip(*told, strict=True))
            name = site or "pooled"
            panels.append((heading, [Series(name, [0.0, *x, 1.0], [0.0, *y, 1.0], site=site, emphasis=not site)]))
    if not panels:
        return None
    return Panels(
        "Share of all events that is flagged, as the cut moves",
        (),
        "share of ECGs flagged",
        "share of events",
        x_range=(0, 1),
        y_range=(0, 1),
        reference="diagonal",
        caption="On the diagonal a score flags no more events than a draw by lot.",
        panels=panels,
    )
