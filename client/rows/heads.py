"""Of several outcomes judged by one score, those that may be told of beside the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.rows.context import SiteContext
from client.rows.groups import event_topics
from ecgshared.arrays import Bools, Ints


def admitted_heads(site: SiteContext, judged: str, heads: Sequence[str], rows: Ints) -> Bools:
    """Say which outcomes may be told of, the first first; shape = (len(heads),).

    Figures of one score about outcomes that are known of nearly the same ECGs, or that nearly the same patients had,
    tell of the few between.

    Parameters
    ----------
    judged : what the score is called: sets of one score are held against each other.
    rows : row numbers of the ECGs with a score.
    """
    told = np.zeros(len(heads), dtype=np.bool_)
    for i, head in enumerate(heads):
        y = np.full(len(site.data), np.nan)
        y[rows] = site.data.labels[rows, site.data.heads.index(head)]
        known, case = ~np.isnan(y), y == 1
        told[i] = site.cells.admit(f"score {judged}", site.data, known[None], [f"with {head}"])[0]
        if told[i] and site.study.endpoints[head].kind != "continuous":
            parts = dict.fromkeys(event_topics(site.study, head), case)
            told[i] = site.cells.admit_group(site.data, parts, f"with the event {head}")
    return told
