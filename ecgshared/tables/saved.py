"""A fitted model as a file: coefficients, how its columns come from a table's, and baseline hazards; risks of new rows.

JSON with a format version. It holds the times of events of the tables it was fitted to: it is for one machine, as they
are, and no file to hand on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator
from scipy.stats import norm

from ecgshared.arrays import Floats
from ecgshared.config import Config
from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically
from ecgshared.stats.influence import CONFIDENCE
from ecgshared.tables.after import Baseline
from ecgshared.tables.design import Design
from ecgshared.tables.fit import Fitted
from ecgshared.tables.levels import meaning
from ecgshared.tables.tables import Tables, numbers_of, read_rows


class SavedBaseline(Config):
    """One baseline hazard, see :class:`ecgshared.tables.after.Baseline`."""

    stratum: str
    site: str
    until: float
    time: tuple[float, ...]
    hazard: tuple[float, ...]
    variance: tuple[float, ...]
    drift: tuple[tuple[float, ...], ...]


class SavedModel(Config):
    """A Cox model that was fitted to tables."""

    format_version: Literal[1] = 1
    mode: Literal["exact", "stratified"]
    strata: str | None = Field(description="column of the strata")
    design: dict[str, Any]
    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float | None, ...], ...] = Field(
        description="null where a penalty holds a coefficient at 0"
    )
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    baselines: tuple[SavedBaseline, ...]

    @model_validator(mode="after")
    def _shapes(self) -> SavedModel:
        p = len(self.names)
        square = len(self.covariance) == p and all(len(row) == p for row in self.covariance)
        if not square or not len(self.coefficients) == len(self.mean) == len(self.sd) == p:
            raise ValueError("names, coefficients, covariance, mean and sd differ in length")
        if Design.from_json(self.design).names != self.names:
            raise ValueError("the design does not give the columns that are named")
        for b in self.baselines:
            if not len(b.time) == len(b.hazard) == len(b.variance) == len(b.drift):
                raise ValueError("a baseline's arrays differ in length")
        return self


def saved(tables: Tables, fitted: Fitted, baselines: list[Baseline], mode: str, strata: str | None) -> SavedModel:
    """Return a fit as what is written."""
    covariance = [[float(v) if np.isfinite(v) else None for v in row] for row in fitted.fit.covariance]
    return SavedModel.model_validate(
        {
            "mode": mode,
            "strata": strata,
            "design": tables.design.to_json(),
            "names": tables.names,
            "coefficients": fitted.fit.beta.tolist(),
            "covariance": covariance,
            "mean": fitted.moments.mean.tolist(),
            "sd": fitted.moments.sd.tolist(),
            "baselines": [
                {
                    "stratum": b.stratum,
                    "site": b.site,
                    "until": b.until,
                    **{name: getattr(b, name).tolist() for name in ("time", "hazard", "variance", "drift")},
                }
                for b in baselines
            ],
        }
    )


def write_beside(path: Path, content: bytes) -> None:
    """Write what a command makes, whole; refuse a place where no file can be."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError("the file cannot be written", where=path, value=error.strerror or str(error)) from error


def write_model(model: SavedModel, path: Path) -> None:
    """Write a model."""
    write_beside(path, model.model_dump_json(indent=1).encode())


def read_model(path: Path) -> SavedModel:
    """Read a model; refuse what is none."""
    try:
        return SavedModel.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError("there is no such file", where=path, remedy="ecgfed survival fit --save makes one") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError("the file is no saved model", where=path, value=str(error)) from error
    except (ValidationError, KeyError, TypeError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ConfigError(
            "the saved model cannot be used",
            where=path,
            value=said,
            allowed="a file of --save, format_version 1",
        ) from error


def predict(model: SavedModel, path: Path, at: Floats, site: str | None) -> pd.DataFrame:
    """Return the linear predictor, and survival with its 95% interval at each of ``at``, of every row of a file.

    Survival beyond the last follow-up of a baseline is left empty. The interval is symmetric in log(-log S), from the
    error of the baseline and of the coefficients (Tsiatis 1981), as R's survfit has it.

    Parameters
    ----------
    site : whose baseline hazard, where each site has its own.

    Raises
    ------
    ConfigError : a level, a stratum or a site that the model does not know, or a missing value.
    """
    design = Design.from_json(model.design)
    wanted = [v.name for v in design.variables] + ([model.strata] if model.strata else [])
    frame = read_rows(path, wanted)
    x = design.matrix(frame, numbers_of(frame, path), str(path))
    z = (x - np.array(model.mean)) / np.array(model.sd)
    out = pd.DataFrame({"linear_predictor": z @ (np.array(model.coefficients) * np.array(model.sd))})
    which = _baseline_of(model, frame, path, site)
    covariance = np.array([[0.0 if v is None else v for v in row] for row in model.covariance])
    covariance = covariance * np.outer(model.sd, model.sd)
    upper = float(norm.ppf(0.5 + CONFIDENCE / 2))
    for t in at:
        survival, se = (np.full(len(frame), np.nan) for _ in range(2))
        for i, baseline in enumerate(model.baselines):
            mine = which == i
            if mine.any() and t <= baseline.until:
                survival[mine], se[mine] = _survival(baseline, z[mine], out["linear_predictor"][mine], covariance, t)
        with np.errstate(divide="ignore", invalid="ignore"):
            half = upper * se / (survival * np.abs(np.log(survival)))
            low, high = survival ** np.exp(half), survival ** np.exp(-half)
        certain = survival == 1
        out[f"survival_{t:g}"], out[f"se_{t:g}"] = survival, se
        out[f"low_{t:g}"], out[f"high_{t:g}"] = np.where(certain, np.nan, low), np.where(certain, np.nan, high)
    return out


def _survival(b: SavedBaseline, z: Floats, eta: Any, covariance: Floats, t: float) -> tuple[Floats, Floats]:
    k = int(np.searchsorted(b.time, t, side="right")) - 1
    if k < 0:
        return np.ones(len(z)), np.zeros(len(z))
    relative = np.exp(np.asarray(eta, dtype=np.float64))
    survival = np.exp(-b.hazard[k] * relative)
    moved = z * b.hazard[k] - np.array(b.drift[k])
    variance = relative**2 * (b.variance[k] + np.einsum("ij,jk,ik->i", moved, covariance, moved))
    return survival, survival * np.sqrt(variance)


def _baseline_of(model: SavedModel, frame: pd.DataFrame, path: Path, site: str | None) -> Any:
    sites = sorted({b.site for b in model.baselines})
    if model.mode == "stratified" and site is None:
        if len(sites) > 1:
            raise ConfigError(
                "each site of this model has a baseline hazard of its own",
                allowed=", ".join(sites),
                remedy="--baseline SITE names whose the new rows take",
            )
        site = sites[0]
    if site is not None and site not in sites:
        raise ConfigError("the model has no baseline hazard of this site", value=site, allowed=", ".join(sites))
    known = {meaning(b.stratum): i for i, b in enumerate(model.baselines) if b.site == (site or "")}
    if model.strata is None:
        return np.full(len(frame), known[""])
    which = np.array([known.get(meaning(cell), -1) for cell in frame[model.strata]])
    if (which < 0).any():
        row = int(np.argmax(which < 0))
        raise ConfigError(
            "the model has no baseline hazard of this stratum",
            where=f"{path}, line {int(frame.index[row]) + 2}",
            value=str(frame[model.strata].iloc[row]),
            allowed=", ".join(model.baselines[i].stratum for i in known.values()),
        )
    return which
