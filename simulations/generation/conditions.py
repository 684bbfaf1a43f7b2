"""The words for a person's conditions: named moves with friendly units, or any column of the model by its name.

Moves (heart, electrodes) count from the usual place, that of the average person trained on, or from the person at hand
when a recording is edited. Everything else is absolute, in the unit of its column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import ConfigError
from ecgshared.study.columns import FLAGS, STANDARD_COLUMNS
from simulations.generation.checkpoint import Checkpoint

F64 = NDArray[np.float64]

MOVES: dict[str, tuple[tuple[str, ...], str]] = {
    "heart-rotation": (("heart_vertical_deg",), "deg"),
    "heart-frontal": (("heart_frontal_deg",), "deg"),
    "heart-tilt": (("heart_tilt_deg",), "deg"),
    "heart-left": (("heart_left_cm",), "cm"),
    "heart-up": (("heart_superior_cm",), "cm"),
    "heart-back": (("heart_posterior_cm",), "cm"),
    "v1-v2-up": (("electrode_V1_superior_cm", "electrode_V2_superior_cm"), "cm"),
}
"""Name: columns it moves, all alike, and their unit."""

ELECTRODE_AXES = ("left", "posterior", "superior")
USUAL_SDS = 3.0
"""A value further from the mean than so many SDs was hardly seen in training."""

_SCALE = {
    "cm": {"": 1.0, "cm": 1.0, "mm": 0.1, "m": 100.0},
    "deg": {"": 1.0, "deg": 1.0, "degrees": 1.0, "°": 1.0, "rad": 180 / np.pi},
}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*([a-zA-Z°/0-9]*)")
_YES_NO = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}


@dataclass(frozen=True)
class Change:
    """One change: ``columns`` get ``value``, added to what they are (``relative``) or instead of it."""

    columns: tuple[str, ...]
    value: float
    relative: bool


def change_of(name: str, text: str) -> Change:
    """Return the change that NAME=TEXT means.

    Raises
    ------
    ConfigError : the name is unknown (with the nearest ones), or the text is no such value.
    """
    if name in MOVES:
        columns, unit = MOVES[name]
        return Change(columns, quantity(text, unit, f"--{name}"), relative=True)
    if name == "sex":
        sex = {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}.get(text.strip().lower())
        if sex is None:
            raise ConfigError("is no sex", where="--sex", value=text, allowed="F or M")
        return Change(("male",), sex, relative=False)
    column = name.replace("-", "_") if name.replace("-", "_") in _columns() else name
    if column not in _columns():
        raise _unknown(name)
    if column in FLAGS:
        flag = _YES_NO.get(text.strip().lower())
        if flag is None:
            raise ConfigError("is neither yes nor no", where=name, value=text, allowed="yes, no, 1 or 0")
        return Change((column,), flag, relative=False)
    unit = "cm" if column.endswith("_cm") else "deg" if column.endswith("_deg") else ""
    value = quantity(text, unit, name)
    standard = STANDARD_COLUMNS[column]
    if (standard.low is not None and value < standard.low) or (standard.high is not None and value > standard.high):
        raise ConfigError("out of range", where=name, value=text, allowed=f"{standard.low:g} to {standard.high:g}")
    return Change((column,), value, relative=False)


def electrode_change(text: str) -> tuple[Change, ...]:
    """Return the changes of ``V3=+1,0,0cm``: left, back and up from the usual place."""
    name, equals, places = text.partition("=")
    parts = places.strip().split(",")
    columns = tuple(f"electrode_{name.strip()}_{axis}_cm" for axis in ELECTRODE_AXES)
    if not equals or len(parts) != 3 or columns[0] not in STANDARD_COLUMNS:
        raise ConfigError(
            "is no move of an electrode",
            where="--electrode",
            value=text,
            allowed="NAME=LEFT,BACK,UP with a unit, such as V3=+1,0,0cm; names: LA, RA, LL, RL, V1 to V6",
        )
    unit = _NUMBER.fullmatch(parts[2].strip())
    suffix = unit.group(2) if unit else ""
    values = [quantity(part if part.strip()[-1:].isalpha() else part + suffix, "cm", "--electrode") for part in parts]
    return tuple(Change((column,), value, True) for column, value in zip(columns, values, strict=True))


def quantity(text: str, unit: str, where: str) -> float:
    """Return a number with an optional unit, such as ``2cm``, ``-20`` or ``20mm``, in ``unit``."""
    match = _NUMBER.fullmatch(text.strip())
    scale = _SCALE.get(unit, {"": 1.0})
    if match is None or match.group(2) not in scale:
        units = ", ".join(name for name in scale if name)
        raise ConfigError("is no number" + (f" in {units}" if units else ""), where=where, value=text)
    return float(match.group(1)) * scale[match.group(2)]


def sweep_of(text: str) -> tuple[str, list[Change]]:
    """Return the name and the changes of ``heart-rotation=-40:40:9``: from, to, how many."""
    name, equals, span = text.partition("=")
    parts = span.split(":")
    if not equals or len(parts) != 3 or not parts[2].strip().isdigit() or not 2 <= int(parts[2]) <= 99:
        raise ConfigError(
            "is no sweep", where="--sweep", value=text, allowed="NAME=FROM:TO:COUNT, such as heart-rotation=-40:40:9"
        )
    first, last = change_of(name.strip(), parts[0]), change_of(name.strip(), parts[1])
    steps = np.linspace(first.value, last.value, int(parts[2]))
    return name.strip(), [Change(first.columns, float(value), first.relative) for value in steps]


def edit_of(text: str) -> Change:
    """Return the change of ``v1-v2-up=2cm``."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("is no NAME=VALUE", value=text, allowed="such as v1-v2-up=2cm or heart_vertical_deg=20")
    return change_of(name.strip(), value)


def applied(checkpoint: Checkpoint, values: F64, changes: list[Change]) -> F64:
    """Return conditions (C,) after the changes.

    Raises
    ------
    ConfigError : the model was not trained with one of the conditions.
    """
    out = values.copy()
    for change in changes:
        for column in change.columns:
            if column not in checkpoint.conditions:
                raise ConfigError(
                    "this model was not trained with that condition",
                    where=checkpoint.step,
                    value=column,
                    allowed=", ".join(checkpoint.conditions),
                )
            i = checkpoint.conditions.index(column)
            if not np.isfinite(checkpoint.mean[i]):
                raise ConfigError("no training site knew this condition", where=checkpoint.step, value=column)
            out[i] = change.value + (out[i] if change.relative else 0.0)
    return out


def outside(checkpoint: Checkpoint, values: F64) -> list[str]:
    """Return a warning for each condition beyond what training hardly ever saw."""
    found = []
    for name, value, mean, sd in zip(checkpoint.conditions, values, checkpoint.mean, checkpoint.sd, strict=True):
        if name not in FLAGS and np.isfinite(value) and abs(value - mean) > USUAL_SDS * sd:
            low, high = mean - USUAL_SDS * sd, mean + USUAL_SDS * sd
            found.append(f"{name} = {value:.4g} lies outside what training saw, about {low:.4g} to {high:.4g}")
    return found


def _columns() -> tuple[str, ...]:
    from ecgshared.study.columns import COVARIATES

    return ("age", "male", *COVARIATES)


def _unknown(name: str) -> ConfigError:
    words = (*MOVES, "sex", *_columns())
    close = get_close_matches(name, words, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"use {', '.join(MOVES)}, or a column's name"
    return ConfigError("there is no such condition", value=name, remedy=hint)
