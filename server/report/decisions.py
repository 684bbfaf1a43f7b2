"""Decision curves: the net benefit of acting above a threshold probability, beside acting on everybody and on nobody.

Vickers and Elkin 2006 (doi 10.1177/0272989X06295361): at the threshold t an act on the ECGs whose risk is t or more has
the net benefit TP / n - FP / n x t / (1 - t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecgshared.stages.results.base import Number
from server.report.sections import Panels, Series, told

_BELOW = -0.05
"""Where an act does so much more harm than good, how much is of no interest."""
_LEAST = -0.02
"""Acting on everybody is drawn down to here: below it the curves that matter would be flat."""


@dataclass(frozen=True)
class DecisionCurve:
    """One hospital's or one group's curve.

    Attributes
    ----------
    site : the hospital, "" for a group. rate : event rate, for acting on everybody.
    points : (threshold probability, net benefit, its least, its most); bounds None where there are none.
    """

    label: str
    site: str
    rate: Number
    points: Sequence[tuple[Number, Number, Number, Number]]


def decision_panels(curves: Sequence[DecisionCurve]) -> Panels | None:
    """Return a panel a curve; None where no curve has a point."""
    panels, silent = told([(curve.label, _series(curve)) for curve in curves])
    if not panels:
        return None
    most = max(b for _, series in panels for one in series for b in one.y if b is not None)
    return Panels(
        "Decision curve",
        (),
        "threshold probability",
        "net benefit per ECG",
        y_range=(_BELOW, max(1.05 * most, -_BELOW)),
        reference=0.0,
        caption="Net benefit of acting on the ECGs at or above a risk (coloured or black), on every ECG (grey) "
        f"and on none (dashes, 0); below {_BELOW:g} it is not drawn. Bands over several hospitals: the bound that "
        f"withheld counts leave.{silent}",
        panels=panels,
    )


def _series(curve: DecisionCurve) -> list[Series]:
    known = sorted(
        ((t, b, low, high) for t, b, low, high in curve.points if t is not None and b is not None),
        key=lambda point: point[0],
    )
    x = [t for t, *_ in known]
    drawn = [
        Series(
            "the score",
            x,
            [b for _, b, _, _ in known],
            [low for _, _, low, _ in known],
            [high for _, _, _, high in known],
            emphasis=not curve.site,
            site=curve.site,
        )
    ]
    if curve.rate is not None and x:
        # It bends between thresholds: many of them, not those of the score alone.
        grid = [0.99 * max(x) * i / 60 for i in range(61)] if max(x) >= 1 else [max(x) * i / 60 for i in range(61)]
        everybody = [(t, act_on_everybody(curve.rate, t)) for t in grid]
        shown = [(t, benefit) for t, benefit in everybody if benefit >= _LEAST]
        drawn.append(Series("everybody", [t for t, _ in shown], [b for _, b in shown], muted=True))
    return drawn


def act_on_everybody(rate: float, threshold: float) -> float:
    """Return the net benefit of acting on every ECG; ``threshold`` below 1."""
    return rate - (1 - rate) * threshold / (1 - threshold)
