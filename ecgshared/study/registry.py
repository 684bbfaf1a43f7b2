"""The registry of stages. A stage is three files of one name (here, in client and in server) and one line below."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ecgshared.errors import ConfigError

STAGES: tuple[str, ...] = (
    "describe",
    "train",
    "calibrate",
    "threshold",
    "evaluate",
    "generate",
    "survival",
    "survival_evaluate",
    "regress",
    "overlap",
    "summed_survival",
    "private_survival",
    "arrhythmia",
    "contrast",
    "age_sex",
    "high_risk",
    "saliency",
    "morph",
    "biomarker",
)


def shared_room(stage: str) -> ModuleType:
    """Return ``ecgshared.stages.<stage>``: its ``Config``, payload types and pure maths."""
    return room("ecgshared", stage)


def room(package: str, stage: str) -> ModuleType:
    """Return one of a stage's three rooms; ``package`` is ``ecgshared``, ``client`` or ``server``."""
    if stage not in STAGES:
        raise ConfigError("there is no such stage", value=stage, allowed=", ".join(STAGES))
    return import_module(f"{package}.stages.{stage}")
