"""Groups at highest risk in an evaluation: rates from the 90th percentile on, and the share of events they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecgshared.stages.results.evaluate import RateAtShare
from ecgshared.stages.results.overlap import Result as Overlap
from ecgshared.stages.threshold import Config as Threshold
from ecgshared.wire.protocol import StepConfig
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


@dataclass(frozen=True)
class RateLine:
    """A rate drawn across a figure, and what it is of."""

    rate: float
    words: str


def rate_lines(step: str, head: str, labels: Labels) -> tuple[RateLine, ...]:
    """Return what an evaluation's rates are read against: what a group had to exceed, and the marker in use.

    The marker's rate (of a reduced ejection fraction, say) is told by an overlap step of the same population, outcome
    and cut-off, over the hospitals that train.
    """
    trials = trial_rate(step, labels)
    lines = [] if trials is None else [RateLine(trials, "the rate that the high-risk group had to exceed")]
    if labels.study is None or all(s.id != step for s in labels.study.steps):
        return tuple(lines)
    mine = labels.study.step(step)
    for name, found in labels.told.items():
        if not isinstance(found, Overlap) or found.outcome != head or "training" not in found.pooled:
            continue
        other = labels.study.step(name)
        same = other.population == mine.population and _cut(other, labels) == _cut(mine, labels)
        marker = found.pooled["training"].fixed.groups.get("marker")
        if same and marker is not None and marker.rate.value is not None:
            lines.append(
                RateLine(marker.rate.value, f"the rate of ECGs with {found.label or labels.column(found.marker)}")
            )
            break
    return tuple(lines)


def _cut(step: StepConfig, labels: Labels) -> str | None:
    fixed = None if labels.study is None else labels.study.used(step, "threshold")
    return None if fixed is None else fixed.id


def against(lines: Sequence[RateLine]) -> str:
    """Say in a caption what the dashed lines are."""
    if not lines:
        return ""
    return f" Dashed: {'; '.join(f'{100 * line.rate:.1f}%, {line.words}' for line in lines)}."


def top_tenth(lines: Sequence[Line], rates: Sequence[RateLine] = ()) -> Panels | None:
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
    return Panels(
        "Event rate above the 90th percentile",
        (),
        "percentile of the risk from which the group begins",
        "event rate (PPV)",
        reference=tuple(line.rate for line in rates) or None,
        caption=f"Bands: 95% intervals. Points stand at cuts that hospitals answered.{against(rates)}",
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
