"""The subgroups an evaluation judges apart: the levels of sex, bands of age, levels of any column of the study.

A partition is written as a word: ``sex``, ``age``, a flag or a category (``smoking``), or a bound on a number
(``lvef<=0.35``). Its last cell holds those of whom it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ecgshared.arrays import Floats, Ints
from ecgshared.study.columns import FLAGS
from ecgshared.study.populations import DERIVED
from ecgshared.study.terms import Factor, Term

if TYPE_CHECKING:
    from ecgshared.study.study import Study


@dataclass(frozen=True)
class Partition:
    """Cells that everybody is in one of.

    Attributes
    ----------
    names : of the cells; the last is of those of whom it is not known.
    column : whose values decide. bands : edges of bands, else the values are levels 0, 1, ... factor : a bound on it.
    """

    names: tuple[str, ...]
    column: str
    bands: tuple[float, ...] = ()
    factor: Factor | None = None

    def cells(self, columns: Mapping[str, Floats]) -> Ints:
        """Return the cell of each ECG, shape = (n,)."""
        values = np.asarray(columns[self.column], dtype=np.float64)
        if self.factor is not None:
            values = self.factor.of({self.column: values})
        last = len(self.names) - 1
        if self.bands:
            place = np.searchsorted(np.asarray(self.bands), np.nan_to_num(values, nan=-np.inf), side="right")
            values = np.asarray(place - 1, dtype=np.float64)
        known = np.isfinite(values) & (values >= 0) & (values < last)
        return np.where(known, np.nan_to_num(values), last).astype(np.int64)


def partitions(words: Sequence[str], age_bands: Sequence[float], study: Study | None = None) -> tuple[Partition, ...]:
    """Return the partitions that a step names.

    Raises
    ------
    ValueError : a word is no column of the study, or a number without a bound.
    """
    return tuple(_partition(word, tuple(age_bands), study) for word in words)


def derived_columns(words: Sequence[str]) -> tuple[str, ...]:
    """Return the columns named that follow from the table and are kept for this step alone."""
    named = (name for word in words if word not in ("sex", "age") for name in Term.read(word).columns)
    return tuple(name for name in named if name in DERIVED)


def _partition(word: str, age_bands: tuple[float, ...], study: Study | None) -> Partition:
    if word == "sex":
        return Partition(("female", "male", "sex unknown"), "male")
    if word == "age":
        known = (f"age {low:g} to under {high:g}" for low, high in pairwise(age_bands))
        return Partition((*known, "age unknown or outside"), "age", age_bands)
    term = Term.read(word)
    if len(term.factors) > 1:
        raise ValueError(f"subgroups: {word!r} is a product of two columns; name one")
    (factor,) = term.factors
    declared = {} if study is None else {n: c for n, c in study.columns.items() if not c.is_date}
    covariates = () if study is None else study.covariates
    faults = term.faults({"age", "male", *covariates, *declared, *DERIVED})
    if faults:
        raise ValueError(f"subgroups: {'; '.join(faults)}; a column of the table must stand under `covariates`")
    column = declared.get(factor.column)
    label = factor.column.replace("_", " ") if column is None or column.label is None else column.label
    if factor.sign:
        text = f"{label} {factor.sign} {factor.bound:g}"
        return Partition((f"not {text}", text, f"{label} unknown"), factor.column, factor=factor)
    if column is not None and column.kind == "category":
        return Partition((*(f"{label}: {level}" for level in column.levels), f"{label} unknown"), factor.column)
    if column is not None:
        flag = column.kind == "flag"
    else:
        flag = factor.column in FLAGS or (factor.column in DERIVED and DERIVED[factor.column][0] == "flag")
    if not flag:
        raise ValueError(f"subgroups: {word!r} is a number; name a bound on it, as in {word}<=0.35")
    return Partition((f"{label}: no", f"{label}: yes", f"{label} unknown"), factor.column)
