"""Intervals where few patients have the event.

What a linearised variance knows of, it knows from the patients with the event: with k of them it is too small by
(k - 1) / k, and is itself known to k - 1 degrees of freedom. So the error is widened by that factor and the quantile is
Student's t with k - 1 degrees, on the scale of the estimate: 94 to 97% from ten such patients on (the table of
tests/benchmarks/test_few_events_coverage.py), where a normal quantile gives 91 to 94%. Below ten a figure stands
without an interval.

A proportion of pairs of exactly 0 or 1 has no linearised error; its interval is Wilson's (1927) with k trials. A score
that is the same for everybody has no error at all.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, t

from ecgshared.stats.influence import CONFIDENCE, Estimate, Scale, interval
from ecgshared.stats.small_samples import MIN_EVENT_PATIENTS

FEWEST_EVENTS = MIN_EVENT_PATIENTS
"""Patients with the event (or without, where these are fewer) below which a figure has no interval."""


def few_events_estimate(
    value: float, variance: float, events: float, scale: Scale, confidence: float = CONFIDENCE
) -> Estimate:
    """Return value, standard error and interval.

    Parameters
    ----------
    variance : linearised, clustered by patient; 0 (to rounding) is taken for what it is: no error is known.
    events : patients with the event, or without it where these are fewer.

    Returns
    -------
    ``se`` NaN where none is known; ``low`` and ``high`` NaN there, and with fewer than ``FEWEST_EVENTS`` events.
    """
    if not np.isfinite(value):
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    enough = events >= FEWEST_EVENTS
    upper = 0.5 + confidence / 2
    if scale == "logit" and (value < 1e-12 or value > 1 - 1e-12):
        if not enough:
            return Estimate(float(round(value)), np.nan, np.nan, np.nan)
        z2 = float(norm.ppf(upper)) ** 2
        edge = z2 / (events + z2)
        low, high = (0.0, edge) if value < 0.5 else (1 - edge, 1.0)
        return Estimate(float(round(value)), edge / float(np.sqrt(z2)), low, high)
    if not variance > 1e-24 * max(value**2, 1.0):
        return Estimate(float(value), np.nan, np.nan, np.nan)
    if events < 2:
        return Estimate(float(value), float(np.sqrt(variance)), np.nan, np.nan)
    se = float(np.sqrt(variance * events / (events - 1)))
    if not enough:
        return Estimate(float(value), se, np.nan, np.nan)
    wider = float(t.ppf(upper, events - 1) / norm.ppf(upper))
    return Estimate(float(value), se, *interval(value, se * wider, scale, confidence))
