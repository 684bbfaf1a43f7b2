"""Two scores on the same ECGs of this site, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.rows.risk import Scored
from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stages.evaluate import Compared
from ecgshared.stats.discrimination import auc_difference
from ecgshared.stats.influence import UNDEFINED
from ecgshared.stats.roc import auc
from ecgshared.wire.protocol import Answer, Evidence


def compare_answer(
    whole: Sequence[Scored],
    pairs: Sequence[Sequence[tuple[Scored, Scored]]],
    limits: DisclosureLimits,
    *,
    patients_known: bool,
) -> Answer:
    """Compare two scores on the ECGs that have both.

    A group that lacks but a few patients of the one whose AUC is told beside it would tell of those few: withheld.

    Parameters
    ----------
    whole : by head, ECGs with the step's own score. pairs : by head and other score, the same ECGs under both.
    """
    shape = (len(whole), len(pairs[0]) if pairs else 0)
    counts, aucs, difference = np.full((*shape, 4), np.nan), np.full((*shape, 2), np.nan), np.full((*shape, 4), np.nan)
    patients, events = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for h, of_head in enumerate(pairs):
        everybody = np.unique(whole[h].patient)
        for v, (first, second) in enumerate(of_head):
            lacking = len(whole[h].y) - len(first.y)
            missing = len(np.setdiff1d(everybody, first.patient))
            if lacking and not missing >= limits.min_patients:
                continue
            size = group_size(first.patient, first.y)
            patients[h, v], events[h, v] = size.patients, size.events
            counts[h, v] = pair_counts(first, patients_known=patients_known)
            if size.events or 0 < first.y.sum() < len(first.y):
                aucs[h, v] = auc(first.risk, first.y), auc(second.risk, second.y)
                difference[h, v] = paired_difference(first, second)
    evidence = Evidence(patients, events)
    return Answer(Compared(counts, aucs, difference), dict.fromkeys(("counts", "auc", "difference"), evidence))


def paired_difference(first: Scored, second: Scored) -> Floats:
    """Return the AUC of one score less that of another on the same ECGs, shape = (4,); NaN where there is none."""
    try:
        return auc_difference(first.risk, second.risk, first.y, first.patient).as_array()
    except StatisticsError:
        return UNDEFINED.as_array()


def pair_counts(head: Scored, *, patients_known: bool) -> Floats:
    """Return ECGs, patients, events and patients with an event, shape = (4,)."""
    people = len(np.unique(head.patient)), len(np.unique(head.patient[head.y == 1]))
    known = people if patients_known else (np.nan, np.nan)
    return np.array([len(head.y), known[0], head.y.sum(), known[1]], dtype=np.float64)
