"""What is typed after an option of ``ecgfed survival``, read; what cannot be read is named with what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ecgshared.tables.tables import Tables


def words(text: str) -> tuple[str, ...]:
    """Return the words of a list with commas."""
    import csv

    # As in the files: a name with a comma in it stands in quotes.
    found = next(csv.reader([text], skipinitialspace=True), [])
    return tuple(word.strip() for word in found if word.strip())


def reference_levels(text: str) -> dict[str, str]:
    """Return the level of each named column that the others are held against."""
    from ecgshared.errors import ConfigError

    found = {}
    for word in words(text):
        name, sign, level = word.partition("=")
        if not sign or not level.strip():
            raise ConfigError("--reference is not valid", value=word, allowed="a column and its level: stage=II")
        found[name.strip()] = level.strip()
    return found


def spline_knots(text: str) -> tuple[str, tuple[float, ...]]:
    """Return a column and its knots, by number or by value."""
    from itertools import pairwise

    from ecgshared.errors import ConfigError
    from ecgshared.tables.design import QUANTILES

    name, _, given = text.rpartition("=")
    allowed = "a column and 3 to 7 knots, by their number or by their values: age=4, age=50,62,75,88"
    try:
        knots = tuple(float(word) for word in given.split(","))
    except ValueError as error:
        raise ConfigError("--spline is not valid", value=text, allowed=allowed) from error
    few = len(knots) == 1 and knots[0] not in QUANTILES
    if not name or few or len(knots) == 2 or any(a >= b for a, b in pairwise(knots)):
        raise ConfigError("--spline is not valid", value=text, allowed=allowed)
    return name.strip(), knots


def covariate_pair(text: str) -> tuple[str, str]:
    """Return the two covariates of an interaction."""
    from ecgshared.errors import ConfigError

    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
        raise ConfigError("--interaction is not valid", value=text, allowed="two covariates: age:sex")
    return parts[0], parts[1]


def ascending_times(text: str, option: str) -> np.ndarray:
    """Return the times of an option, shape = (n,), ascending and 0 or above."""
    import numpy as np

    from ecgshared.errors import ConfigError

    try:
        times = np.array([float(word) for word in text.split(",")])
    except ValueError as error:
        raise ConfigError(f"{option} is not valid", value=text, allowed="times: 365,730") from error
    if not (np.isfinite(times).all() and (times >= 0).all() and (np.diff(times) > 0).all()):
        raise ConfigError(f"{option} is not valid", value=text, allowed="ascending numbers, 0 or above")
    return times


def grid_ends(text: str, tables: Tables) -> np.ndarray | None:
    """Return the ends of the intervals of the exact fit, shape = (n,), or None for every event time."""
    import numpy as np

    from ecgshared.errors import ConfigError

    if not text.strip():
        return None
    try:
        ends = np.array([float(word) for word in text.split(",")])
    except ValueError as error:
        raise ConfigError(
            "--grid is not valid", value=text, allowed="a width, or ends of intervals: 30,90,365"
        ) from error
    if not (np.isfinite(ends).all() and (ends > 0).all() and (np.diff(ends) > 0).all()):
        raise ConfigError("--grid is not valid", value=text, allowed="ascending numbers above 0")
    if len(ends) > 1:
        return ends
    last = max(float(site.time.max()) for site in tables.sites)
    steps = int(np.ceil(last / ends[0]))
    if steps > 1_000_000:
        raise ConfigError("--grid makes more than a million intervals", value=text, remedy="a larger width")
    return np.asarray(ends[0] * np.arange(1, max(steps, 1) + 1))
