"""The privacy statement: for each step what leaves a hospital and what protects it, as the stages declare it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ecgshared.errors import ConfigError
from ecgshared.privacy.attacked import Measured, concerning
from ecgshared.stages.results.train import Result as Trained
from ecgshared.study.registry import shared_room
from server.report.labels import Labels
from server.report.results import StepPlan
from server.report.summary import Typed
from server.report.tried import Tried, read_tried

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepPrivacy:
    """One step: what leaves in each phase, in words, and what protects it. ``declared``: the stage says so itself."""

    step: str
    id: str
    stage: str
    leaves: tuple[tuple[str, str], ...]
    protected: str
    declared: bool = True


def statement(plan: Sequence[StepPlan], results: Typed, labels: Labels) -> list[StepPrivacy]:
    """Return one entry a step; a stage that declares nothing is named as such, never passed over."""
    found = []
    for step in plan:
        leaves, protected = declared(step.stage)
        result = results.get(step.id)
        if isinstance(result, Trained) and result.privacy is not None:
            p = result.privacy
            protected = (
                f"Differential privacy with the patient as the unit: epsilon {p.epsilon:g}, delta {p.delta:g} over all "
                f"rounds. It covers {p.covers} It does not cover: {p.does_not_cover}"
            )
        if labels.study is not None and labels.study.step(step.id).frozen is not None:
            leaves, protected = (), "Taken from a file that another study exported; no hospital was asked anything."
            found.append(StepPrivacy(labels.step(step.id), step.id, step.stage, leaves, protected))
            continue
        told = bool(leaves and protected)
        if not told:
            protected = "This version of ecgfed knows no statement for this stage; see the fields below."
        found.append(StepPrivacy(labels.step(step.id), step.id, step.stage, leaves, protected, told))
    return found


def attacks(plan: Sequence[StepPlan]) -> tuple[Measured, ...]:
    """Return the attacks that aim at what the run did, as they were measured on a made hospital with this version."""
    return concerning(step.stage for step in plan)


def tried(run: Path) -> tuple[Tried, ...]:
    """Return what was tried on this very run; nothing where nothing was, or where the file cannot be read."""
    try:
        return read_tried(run)
    except ConfigError as error:
        _LOG.warning("%s", error)
        return ()


def declared(stage: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return (what leaves by phase, what protects it) as a stage declares them; empty where it does not."""
    try:
        room = shared_room(stage)
    except ConfigError:
        return (), ""
    return tuple(getattr(room, "LEAVES", {}).items()), str(getattr(room, "PROTECTED", ""))


def phase_words(stage: str, phase: str) -> str:
    """Return what leaves in one phase, in words; empty where the stage does not say."""
    return dict(declared(stage)[0]).get(phase, "")
