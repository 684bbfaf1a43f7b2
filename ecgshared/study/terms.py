"""The terms of a regression: columns, columns cut at a bound, and products of two.

``age``, ``lvef<=0.35``, ``high_risk:defibrillator``. A flag is 1, 0 or unknown; a bound makes a flag of a number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from ecgshared.arrays import Floats

_FACTOR = re.compile(r"^([a-z][a-z0-9_]*)(?:(<=|>=|<|>)(-?\d+(?:\.\d+)?))?$")
_COMPARE = {"<=": np.less_equal, "<": np.less, ">=": np.greater_equal, ">": np.greater}


@dataclass(frozen=True)
class Factor:
    """A column, or whether it lies beyond a bound.

    Attributes
    ----------
    text : as the study writes it.
    column : its name. sign : "" where the column itself is meant.
    """

    text: str
    column: str
    sign: str
    bound: float

    def of(self, columns: Mapping[str, Floats]) -> Floats:
        """Return the factor of each ECG, NaN where its column is not known; shape = (n,)."""
        values = np.asarray(columns[self.column], dtype=np.float64)
        if not self.sign:
            return values
        # Columns are kept in single precision: 0.3 must be at most 0.3.
        beyond = _COMPARE[self.sign](values.astype(np.float32), np.float32(self.bound))
        return np.where(np.isnan(values), np.nan, beyond.astype(np.float64))


@dataclass(frozen=True)
class Term:
    """The product of one or two factors."""

    text: str
    factors: tuple[Factor, ...]

    @classmethod
    def read(cls, text: str) -> Term:
        """Read a term.

        Raises
        ------
        ValueError : it is none.
        """
        parts = text.replace(" ", "").split(":")
        found = [_FACTOR.match(part) for part in parts]
        if len(parts) > 2 or len(set(parts)) < len(parts) or not all(found):
            raise ValueError(
                f"{text!r} is no term; a term is a column (age), a bound on one (lvef<=0.35), or a product of two "
                "different ones (high_risk:defibrillator)"
            )
        factors = tuple(
            Factor(m[0], m[1], m[2] or "", float(m[3]) if m[3] else float("nan")) for m in found if m is not None
        )
        return cls(":".join(parts), factors)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it takes."""
        return tuple(factor.column for factor in self.factors)

    def faults(self, known: Collection[str]) -> list[str]:
        """Say which of its columns are not among the ``known`` ones."""
        said = []
        for name in self.columns:
            if name not in known:
                close = get_close_matches(name, known, n=3)
                hint = f"did you mean {', '.join(close)}?" if close else f"allowed: {', '.join(sorted(known))}"
                said.append(f"{name!r} of term {self.text!r} is no column of the study; {hint}")
        return said
