"""How survival models are shown."""

from __future__ import annotations

from server.conduct import Artefact
from server.report.sections import Section


def fit_sections(artefact: Artefact) -> list[Section]:
    """Coefficients, forest plots and who was left out."""
    return []


def evaluation_sections(artefact: Artefact) -> list[Section]:
    """Concordance, differences between models, survival by risk group, calibration."""
    return []
