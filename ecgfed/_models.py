"""A trained model in Python: loaded from a file or a run, applied to recordings."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from ecgshared.applied.model import AppliedModel

Name = str | PathLike[str]


def load_model(path: Name, *, step: str | None = None) -> AppliedModel:
    """Load a model that was exported, or that of a run.

    Parameters
    ----------
    path : a file that ``ecgfed model export`` wrote, or a run's folder.
    step : of a run: the step whose model is wanted; the last that can be applied unless told.

    Returns
    -------
    AppliedModel : for :func:`predict`; its ``needs`` names what it takes beside the signal.

    Raises
    ------
    EcgFedError : there is no model in it, or the file is damaged.
    """
    from ecgfed._predict import load

    return load(Path(path), step)


def predict(model: AppliedModel | Name, path: Name, *, given: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Apply a model to one recording, by a site's way from file to figure. Research software: no care may rest on it.

    Parameters
    ----------
    model : as :func:`load_model` returns it, or what it loads.
    path : of a recording in any format that a site can read.
    given : age (years), male (1 or 0) and covariates that the recording does not tell.

    Returns
    -------
    DataFrame : a row an output: ``label``, ``kind``, ``value``, ``unit``, ``low``, ``high``, ``above`` (whether in the
        study's high-risk group; None without a cut-off), ``lacks`` (inputs that are not known; ``value`` is NaN then).
        Its ``attrs`` hold ``findings`` of the quality policy and whether the signal was ``repaired``.

    Raises
    ------
    EcgFedError : the recording cannot be read, or the quality policy refuses it; the text says why.
    """
    import pandas as pd

    from ecgfed._predict import load
    from ecgfed._predict import predict as applied
    from ecgshared.errors import EcgReadError

    ready = load(Path(model)) if isinstance(model, str | PathLike) else model
    found = applied(ready, Path(path), given=given)
    if found.refused:
        raise EcgReadError(found.refused)
    names = ("label", "kind", "value", "unit", "low", "high", "above")
    rows = [{name: getattr(o, name) for name in names} | {"lacks": ", ".join(o.lacks)} for o in found.outputs]
    frame = pd.DataFrame(rows, index=[o.name for o in found.outputs], columns=[*names, "lacks"])
    frame.attrs.update(findings=list(found.findings), repaired=found.repaired)
    return frame
