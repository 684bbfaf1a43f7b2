"""Which sets of people may be told of beside those told before: nothing small may be solved for (an audit of sums).

A figure about a set is taken for what a coordinator can make of it at worst: a sum over its rows of one unknown number
each. Figures about several sets are then linear equations, and whatever can be solved for is a sum over rows with the
coefficients of a vector in the row space of the sets' 0/1 indicators. A set is refused where, with those told before,
that space would hold a vector that is not zero and whose rows are fewer than ``few`` patients': a difference of two
nested sets, of a set and the union of its parts, or of any other combination, however many sets it takes. A set that is
itself a combination of those told tells nothing new and always passes.

Chin and Ozsoyoglu, Auditing and inference control in statistical databases, IEEE Trans. Softw. Eng. SE-8 (1982);
Hundepool et al., Statistical Disclosure Control (Wiley, 2012), chapter 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecgshared.arrays import Bools, Floats, Ints

_TINY = 1e-7
_TRIED = 12
"""Cells known from earlier figures that are added to, or taken from, what a new one exposes, two at a time."""


@dataclass(frozen=True)
class Exposed:
    """What telling of a set would expose: ``rows``, bool shape = (n,); ``by``: numbers of the earlier sets it takes."""

    rows: Bools
    by: tuple[int, ...]


def exposes(told: Bools, asked: Bools, patient: Ints, few: int) -> Exposed | None:
    """Say what a set would expose beside those told before; None where it may be told of.

    Parameters
    ----------
    told : bool array, shape = (m, n). asked : bool array, shape = (n,). patient : int array, shape = (n,).
    few : a combination of fewer than so many patients' rows is exposed.
    """
    if few <= 1 or not asked.any():
        return None
    atom, sets, own = _atoms(told, asked)
    counted = np.unique(np.stack([atom, patient]), axis=1)[0]
    small = np.bincount(counted, minlength=len(own)) < few
    # How the set is made of those told, as far as the large atoms go: without a way to do so nothing small is exposed.
    way, *_ = np.linalg.lstsq(sets[:, ~small].T, own[~small], rcond=None)
    if np.abs(own[~small] - way @ sets[:, ~small]).max(initial=0.0) > _TINY * max(1, len(sets)):
        return None
    left = own[small] - way @ sets[:, small]
    known = _vanishing(sets, small)
    if np.abs(left - known.T @ (known @ left)).max(initial=0.0) <= _TINY * 10:
        return None
    names = np.flatnonzero(small)
    for candidate in _combined(left, known):
        rows = np.isin(atom, names[np.abs(candidate) > _TINY * 10])
        if 0 < len(np.unique(patient[rows])) < few:
            return Exposed(rows, tuple(int(i) for i in np.flatnonzero(np.abs(way) > _TINY)))
    return None


def admitted(asked: Bools, patient: Ints, few: int, *, told: Bools | None = None) -> Bools:
    """Say which of several sets may be told of, one after the other; shape = (k,).

    A set passes where its own patients are ``few`` or more, or none, and nothing is exposed beside those before it.

    Parameters
    ----------
    asked : bool array, shape = (k, n), the most wanted first.
    told : sets told of already, shape = (m, n).
    """
    open_ones = np.zeros(len(asked), dtype=np.bool_)
    so_far = np.zeros((0, asked.shape[1]), dtype=np.bool_) if told is None else told
    for i, one in enumerate(asked):
        open_ones[i] = exposes(so_far, one, patient, few) is None
        if open_ones[i] and one.any():
            so_far = np.vstack([so_far, one])
    return open_ones


def _atoms(told: Bools, asked: Bools) -> tuple[Ints, Floats, Floats]:
    """Number the rows by the sets they are in; rows in none are left out of every combination.

    Returns
    -------
    atom : int array, shape = (n,). sets : float array, shape = (m, a), which atoms each set holds. own : shape = (a,).
    """
    table = np.vstack([told, asked[None]])
    packed = np.ascontiguousarray(np.packbits(table, axis=0).T)
    keys = packed.view([("", packed.dtype)] * packed.shape[1]).ravel()
    _, first, atom = np.unique(keys, return_index=True, return_inverse=True)
    cells = table[:, first].astype(np.float64)
    return atom.reshape(-1).astype(np.int64), cells[:-1], cells[-1]


def _vanishing(sets: Floats, small: Bools) -> Floats:
    """An orthonormal basis of what the told sets say of the small atoms alone; shape = (d, number of small atoms)."""
    if not len(sets) or not small.any():
        return np.zeros((0, int(small.sum())))
    large = sets[:, ~small]
    sizes, axes = np.linalg.eigh(large @ large.T)
    found = axes[:, sizes <= _TINY * max(1.0, sizes.max(initial=0.0))].T @ sets[:, small]
    _, sizes, axes = np.linalg.svd(found, full_matrices=False)
    return np.asarray(axes[sizes > _TINY * max(1.0, sizes.max(initial=0.0))], dtype=np.float64)


def _combined(left: Floats, known: Floats) -> Sequence[Floats]:
    """What is exposed, alone and after cells that were known already are added or taken away."""
    if not len(known):
        return [left]
    cells = _echelon(known)
    reduced = left.copy()
    for cell in cells:
        pivot = int(np.flatnonzero(np.abs(cell) > _TINY)[0])
        reduced = reduced - reduced[pivot] * cell
    found = [left, reduced]
    tried = cells[:_TRIED]
    for i, one in enumerate(tried):
        # At each place where it is not zero, a known cell can cancel what is exposed there.
        for place in np.flatnonzero(np.abs(one) > _TINY)[:_TRIED]:
            cancelled = reduced - reduced[place] / one[place] * one
            found.append(cancelled)
            for other in tried[i + 1 :]:
                at = np.flatnonzero(np.abs(other) > _TINY)[:_TRIED]
                found += [cancelled - cancelled[p] / other[p] * other for p in at]
    return found


def _echelon(rows: Floats) -> list[Floats]:
    """Reduced row echelon form: each row is 1 at a place where all others are 0."""
    table, done = rows.copy(), 0
    for column in range(table.shape[1]):
        if done == len(table):
            break
        best = done + int(np.argmax(np.abs(table[done:, column])))
        if abs(table[best, column]) <= _TINY:
            continue
        table[[done, best]] = table[[best, done]]
        table[done] /= table[done, column]
        for i in range(len(table)):
            if i != done:
                table[i] -= table[i, column] * table[done]
        done += 1
    return list(table[:done])
