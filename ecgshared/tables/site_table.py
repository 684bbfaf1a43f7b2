"""What the columns of a table mean, and one site's rows once they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import ConfigError


@dataclass(frozen=True)
class Columns:
    """Which columns of the files mean what.

    Attributes
    ----------
    categorical : covariates turned into 0/1 columns of their levels; ``reference``: their reference level by name.
    splines : covariates bent by a natural cubic spline: their knots, or one number, how many.
    interactions : pairs of covariates whose products are columns too.
    strata, cluster : one baseline hazard a value; rows of one patient. ``patients_shared``: at all sites together.
    entry : each row is at risk after this time. ``weight``: what a row counts.
    cause : the event column's code of the event of interest; other codes but 0 are competing. None: the column is 0/1.
    """

    time: str
    event: str
    covariates: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    strata: str | None = None
    cluster: str | None = None
    entry: str | None = None
    weight: str | None = None
    reference: Mapping[str, str] = field(default_factory=dict)
    splines: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    interactions: tuple[tuple[str, str], ...] = ()
    cause: int | None = None
    patients_shared: bool = False

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.all()).items() if count > 1]
        if twice:
            raise ConfigError("a column is named more than once", value=", ".join(twice))
        for what, names in (
            ("a categorical column", self.categorical),
            ("a spline's column", tuple(self.splines)),
            ("a column of an interaction", tuple(name for pair in self.interactions for name in pair)),
        ):
            for name in names:
                if name not in self.covariates:
                    raise ConfigError(f"{what} is not among the covariates", value=name)
        for name in self.reference:
            if name not in self.categorical:
                raise ConfigError("a reference level needs a categorical column", value=name, remedy="--categorical")
        if both := set(self.splines) & set(self.categorical):
            raise ConfigError("a column cannot be a spline and categorical", value=", ".join(sorted(both)))

    def all(self) -> list[str]:
        """Return every column, in order."""
        others = [name for name in (self.entry, self.weight, self.strata, self.cluster) if name is not None]
        return [self.time, self.event, *self.covariates, *others]


@dataclass(frozen=True)
class SiteTable:
    """One site's rows.

    Attributes
    ----------
    name : str, of the site: its file's stem.
    x : float array, shape = (n, p).
    time : float array, shape = (n,).
    event : bool array, shape = (n,).
    cluster : int array, shape = (n,): rows of one patient share a number; None: every row is a patient.
    strata : object array, shape = (n,): each row's stratum, "" where none are named.
    dropped : int, rows left out because a value is missing.
    entry : float array, shape = (n,): a row is at risk after this time; None: from 0.
    weight : float array, shape = (n,), above 0; None: 1.
    cause : int array, shape = (n,): 0 censored, 1 the event of interest, 2 another event that forestalls it; None: no
        other is known.
    patients_shared : True where the numbers of ``cluster`` are those of all sites: a patient may be at two of them.
    """

    name: str
    x: Floats
    time: Floats
    event: NDArray[np.bool_]
    cluster: NDArray[np.int64] | None
    strata: NDArray[Any]
    dropped: int
    entry: Floats | None = None
    weight: Floats | None = None
    cause: NDArray[np.int64] | None = None
    patients_shared: bool = False
