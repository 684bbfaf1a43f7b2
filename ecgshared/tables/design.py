"""From the columns of a table to the columns of a model: levels, splines, interactions; the same for new rows later.

Splines are natural (restricted) cubic ones, straight beyond their outer knots, in the truncated power basis of Harrell,
Regression Modeling Strategies (2015), section 2.4.5: the variable itself and one column for each further knot but one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ecgshared.arrays import Floats
from ecgshared.errors import ConfigError
from ecgshared.tables.levels import meaning

QUANTILES = {
    3: (0.1, 0.5, 0.9),
    4: (0.05, 0.35, 0.65, 0.95),
    5: (0.05, 0.275, 0.5, 0.725, 0.95),
    6: (0.05, 0.23, 0.41, 0.59, 0.77, 0.95),
    7: (0.025, 0.1833, 0.3417, 0.5, 0.6583, 0.8167, 0.975),
}
"""Where the knots of a spline are by their number, as quantiles of all sites' rows (Harrell, table 2.3)."""


@dataclass(frozen=True)
class Variable:
    """A column of the tables: with ``levels``, the reference first, or three or more ``knots``, or a plain number."""

    name: str
    levels: tuple[str, ...] = ()
    knots: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns in the model."""
        if self.levels:
            return tuple(f"{self.name}[{level}]" for level in self.levels[1:])
        return (self.name, *(f"{self.name}[spline {i + 1}]" for i in range(max(len(self.knots) - 2, 0))))


@dataclass(frozen=True)
class Design:
    """The columns of a model: those of each variable, then the products of each pair of ``interactions``."""

    variables: tuple[Variable, ...]
    interactions: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the p columns."""
        by_name = {v.name: v.columns for v in self.variables}
        plain = [column for v in self.variables for column in v.columns]
        return (*plain, *(f"{x} x {y}" for a, b in self.interactions for x in by_name[a] for y in by_name[b]))

    @property
    def terms(self) -> dict[str, list[int]]:
        """Columns of each variable and of each interaction, by name."""
        sizes = {v.name: len(v.columns) for v in self.variables}
        sizes |= {f"{a} x {b}": sizes[a] * sizes[b] for a, b in self.interactions}
        ends = np.cumsum([0, *sizes.values()])
        return {name: list(range(ends[i], ends[i + 1])) for i, name in enumerate(sizes)}

    @property
    def nonlinear(self) -> dict[str, list[int]]:
        """Columns of the bent part of each spline, by name."""
        return {f"{v.name}, nonlinear": self.terms[v.name][1:] for v in self.variables if v.knots}

    def matrix(self, frame: pd.DataFrame, numbers: Callable[[str], Floats], where: str) -> Floats:
        """Return the columns of ``frame``'s rows, shape = (n, p).

        Parameters
        ----------
        numbers : gives a plain column as numbers, or refuses it.
        where : the file, for errors: a level that the model does not know is refused.
        """
        parts = {v.name: _columns_of(v, frame, numbers, where) for v in self.variables}
        plain = [parts[v.name] for v in self.variables]
        products = [(parts[a][:, :, None] * parts[b][:, None, :]).reshape(len(frame), -1) for a, b in self.interactions]
        return np.concatenate([np.zeros((len(frame), 0)), *plain, *products], axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; :meth:`from_json` reads them."""
        return {
            "variables": [{"name": v.name, "levels": list(v.levels), "knots": list(v.knots)} for v in self.variables],
            "interactions": [list(pair) for pair in self.interactions],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Design:
        """Read what :meth:`to_json` wrote."""
        variables = tuple(
            Variable(v["name"], tuple(v["levels"]), tuple(float(k) for k in v["knots"])) for v in values["variables"]
        )
        return cls(variables, tuple((a, b) for a, b in values["interactions"]))


def spline(x: Floats, knots: tuple[float, ...]) -> Floats:
    """Return the basis of a natural cubic spline, shape = (n, len(knots) - 1): x itself, then its bent columns."""
    t = np.asarray(knots, dtype=np.float64)
    last, before = t[-1], t[-2]

    def cube(knot: float) -> Floats:
        return np.asarray(np.maximum(x - knot, 0.0) ** 3, dtype=np.float64)

    bent = [
        (cube(knot) - cube(before) * (last - knot) / (last - before) + cube(last) * (before - knot) / (last - before))
        / (last - t[0]) ** 2
        for knot in t[:-2]
    ]
    return np.column_stack([x, *bent])


def knots_at(x: Floats, count: int, name: str) -> tuple[float, ...]:
    """Return ``count`` knots at the usual quantiles of ``x``; refuse a variable with too few values for them."""
    knots = tuple(float(k) for k in np.quantile(x, QUANTILES[count]))
    if (np.diff(knots) <= 0).any():
        raise ConfigError("a spline's knots coincide", where=f"--spline {name}", value=knots, remedy="fewer knots")
    return knots


def _columns_of(variable: Variable, frame: pd.DataFrame, numbers: Callable[[str], Floats], where: str) -> Floats:
    if variable.levels:
        known = {meaning(level): i for i, level in enumerate(variable.levels)}
        index = np.array([known.get(meaning(cell), -1) for cell in frame[variable.name]])
        if (index < 0).any():
            raise ConfigError(
                f"column {variable.name!r} has a level that the model does not know",
                where=f"{where}, line {int(frame.index[int(np.argmax(index < 0))]) + 2}",
                value=str(frame[variable.name].iloc[int(np.argmax(index < 0))]),
                allowed=", ".join(variable.levels),
            )
        return np.asarray(index[:, None] == np.arange(1, len(variable.levels)), dtype=np.float64)
    x = numbers(variable.name)
    return spline(x, variable.knots) if variable.knots else x[:, None]
