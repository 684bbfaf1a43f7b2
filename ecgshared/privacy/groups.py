"""Groups that differ by few: two figures of nearly the same people tell, by subtraction, of the few."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ecgshared.arrays import Bools, Ints


def close_groups(groups: Mapping[str, Bools], patient: Ints, min_patients: int) -> dict[str, str]:
    """Name the groups of which nothing may be told because of another one, and why.

    A group is closed where one told before it (everybody comes first, the others in their order) lacks, or has beyond
    it, ECGs of more than 0 and fewer than ``min_patients`` patients. Equal groups do no harm: they give equal figures.

    Parameters
    ----------
    groups : bool array each, shape = (n,), by name.
    patient : int array, shape = (n,).

    Returns
    -------
    Reason by name, in words that give no count.
    """
    told = {"everybody eligible": np.ones(len(patient), dtype=np.bool_)}
    closed = {}
    for name, belongs in groups.items():
        near = next((other for other, its in told.items() if _few(belongs, its, patient, min_patients)), None)
        if near is None:
            told[name] = belongs
        else:
            closed[name] = f"differs from {near!r} by fewer than {min_patients} patients"
    return closed


def _few(a: Bools, b: Bools, patient: Ints, min_patients: int) -> bool:
    between = (len(np.unique(patient[part])) for part in (a & ~b, b & ~a))
    return any(0 < patients < min_patients for patients in between)
