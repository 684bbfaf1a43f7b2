"""Survival models over the tables of several hospitals, by the sums that a federated study would send.

>>> import numpy as np, pandas as pd
>>> rng = np.random.default_rng(0)
>>> def table(n):
...     age = rng.normal(60, 10, n)
...     time = rng.exponential(np.exp(-(age - 60) / 20))
...     return pd.DataFrame({"years": np.minimum(time, 2), "died": (time < 2).astype(int), "age": age})
>>> fitted = fit({"oslo": table(300), "bergen": table(200)}, time="years", event="died", covariates=["age"])
>>> bool(0.03 < fitted.summary.loc["age", "log_hazard_ratio"] < 0.07)
True
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ecgshared.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CoxResult", "fit"]

Table: TypeAlias = "pd.DataFrame | str | PathLike[str]"


@dataclass(frozen=True)
class CoxResult:
    """A Cox model over hospitals; printing it shows its coefficients and tests.

    ``facts``: all that was computed, as ``ecgfed survival fit --json`` prints it.
    """

    facts: dict[str, Any]

    @property
    def summary(self) -> pd.DataFrame:
        """A row a covariate: log hazard ratio, its error, hazard ratio with 95% interval, P."""
        import pandas as pd

        return pd.DataFrame(self.facts["covariates"]).set_index("covariate")

    @property
    def concordance(self) -> dict[str, float | None] | None:
        """Harrell's C with error and 95% interval, or None where it is undefined."""
        found: dict[str, float | None] | None = self.facts["concordance"]
        return found

    @property
    def proportional_hazards(self) -> pd.DataFrame:
        """The test of proportional hazards: a row a covariate, and GLOBAL."""
        import pandas as pd

        return pd.DataFrame(self.facts["proportional_hazards"]["lines"]).set_index("covariate")

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw the hazard ratios with their intervals (.svg or .png)."""
        from ecgshared.tables import plots

        plots.require_picture(Path(path))
        plots.forest(self.facts["covariates"], Path(path))

    def __str__(self) -> str:
        sites = ", ".join(f"{row['site']} {row['patients']} ({row['events']})" for row in self.facts["sites"])
        c = self.concordance
        said = "undefined" if c is None or c["value"] is None else f"{c['value']:.3f}"
        shown = self.summary.to_string(float_format=lambda value: f"{value:.4g}")
        return f"Cox model, {self.facts['mode']}; patients (events): {sites}\n{shown}\nC-index {said}"


def fit(
    sites: Mapping[str, Table],
    *,
    time: str,
    event: str,
    covariates: Sequence[str],
    mode: Literal["exact", "stratified"] = "stratified",
    ties: Literal["efron", "breslow"] = "efron",
    penalizer: float = 0.0,
    categorical: Sequence[str] = (),
    strata: str | None = None,
    cluster: str | None = None,
    missing: Literal["refuse", "drop"] = "refuse",
) -> CoxResult:
    """Fit one Cox model to the tables of several hospitals: equal to the fit on their rows laid together.

    Parameters
    ----------
    sites : each hospital's table by its name: a DataFrame, or a CSV file.
    time : column of the time to the event or to the end of follow-up.
    event : column that is 1 where the event happened, else 0.
    covariates : columns of the model; those under ``categorical`` become 0/1 columns of their levels.
    mode : one baseline hazard for all hospitals (exact), or one for each.
    strata, cluster : columns: a baseline hazard for each value; rows of one patient, which makes errors robust.

    Raises
    ------
    EcgFedError : a column or cell cannot be used, or covariates are constant, collinear or separate the events.
    """
    from ecgshared.stats.cox_fit import Penalty
    from ecgshared.tables import facts as told
    from ecgshared.tables.fit import Options, fit_sites
    from ecgshared.tables.tables import Columns, read_tables

    if not sites:
        raise ConfigError("no hospital's table was given", remedy="give one or more: {'oslo': table}")
    columns = Columns(time, event, tuple(covariates), tuple(categorical), strata, cluster)
    # Through the reader of files, so that a cell is judged as it is everywhere else.
    with tempfile.TemporaryDirectory(prefix="ecgfed-") as folder:
        paths = [_as_file(name, table, Path(folder)) for name, table in sites.items()]
        tables = read_tables(paths, columns, missing)
    options = Options(ties, Penalty(penalizer, 0.0), cluster is not None, terms=tables.design.terms)
    fitted = fit_sites(tables.sites, tables.names, mode, options)
    return CoxResult(told.of_tables(tables, options, mode, "cox") | told.of_pooled(tables, fitted, options, mode))


def _as_file(name: str, table: Table, folder: Path) -> Path:
    if not name or Path(name).name != name:
        raise ConfigError("a hospital's name is no name of a file", value=name, remedy="letters, digits, _ and -")
    path = folder / f"{name}.csv"
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        table.to_csv(path, index=False)
    else:
        try:
            path.write_bytes(Path(table).read_bytes())
        except OSError as error:
            raise ConfigError("the table cannot be read", where=table, value=error.strerror) from None
    return path
